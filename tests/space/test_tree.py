from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.space.tree import Choice, Node, Product, Sum, count_text

OPTIONS = st.lists(st.integers(), unique=True, min_size=0, max_size=3).map(tuple)


@st.composite
def trees(draw: st.DrawFn, depth: int = 2, name: str = "n") -> Node[int]:
    kind = draw(st.sampled_from(["choice", "product", "sum"])) if depth else "choice"
    if kind == "choice":
        return Choice(name, draw(OPTIONS))
    parts = tuple(draw(trees(depth - 1, f"{name}.{i}")) for i in range(draw(st.integers(0, 3))))
    return Product(parts) if kind == "product" else Sum(parts)


def brute_force(node: Node[int]) -> list[dict[str, int]]:
    """Oracle: the same assignments in the same order, from itertools.product and lists."""
    if isinstance(node, Choice):
        return [{node.name: option} for option in node.options]
    if isinstance(node, Sum):
        return [assignment for a in node.alternatives for assignment in brute_force(a)]
    assert isinstance(node, Product)
    combinations = product(*(brute_force(part) for part in node.parts))
    return [{k: v for part in combination for k, v in part.items()} for combination in combinations]


@given(trees())
def test_unrank_gives_what_itertools_gives_in_the_same_order(tree: Node[int]):
    assert [tree.unrank(i) for i in range(tree.size)] == brute_force(tree)


@given(trees())
def test_rank_is_the_inverse_of_unrank(tree: Node[int]):
    assignments = brute_force(tree)
    assert [tree.rank(a) for a in assignments] == [assignments.index(a) for a in assignments]


@given(trees(), st.integers(0))
def test_an_index_outside_the_range_is_an_index_error(tree: Node[int], beyond: int):
    for index in (-1 - beyond, tree.size + beyond):
        with pytest.raises(IndexError):
            tree.unrank(index)


def test_the_last_part_varies_fastest():
    tree = Product((Choice("a", (1, 2)), Choice("b", (3, 4))))
    assert [tuple(tree.unrank(i).values()) for i in range(4)] == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_a_value_that_is_no_option_has_no_rank():
    tree = Sum((Choice("a", (1, 2)), Choice("b", (3,))))
    for wrong in ({"a": 9}, {"c": 1}, {}):
        with pytest.raises(ValueError, match=r"alternative"):
            tree.rank(wrong)


def test_two_parts_of_a_product_may_not_share_a_name():
    with pytest.raises(AssertionError):
        Product((Choice("a", (1,)), Choice("a", (2,))))


def test_a_tree_of_more_than_10_to_the_30_has_an_exact_size_and_any_index():
    tree = Product(tuple(Choice(str(i), tuple(range(7))) for i in range(5000)))
    assert tree.size == 7**5000
    assert set(tree.unrank(7**5000 - 1).values()) == {6}
    assert tree.rank(tree.unrank(7**4999 + 12)) == 7**4999 + 12
    with pytest.raises(IndexError, match=r"about 3\.1 x 10\^4225"):
        tree.unrank(tree.size)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1152, "1,152"), (10**15 - 1, "999,999,999,999,999"), (42 * 10**29, "about 4.2 x 10^30")],
)
def test_counts_are_exact_as_long_as_they_can_be_read(count: int, text: str):
    assert count_text(count) == text
