"""Grids of candidates op by op and op type by op type."""

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.quantization_section import QuantizationSection
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.dimensions import op_dimensions, op_type_dimensions
from tests.builders import chain, model, op
from tests.strategy.drawn import drawn

METHODS = frozenset({"minmax", "percentile"})


def space(summary, **quantization):
    return build_space(summary, load_capability("ort-cpu"), QuantizationSection(**quantization), METHODS)


def test_op_by_op_is_the_op_wise_product_in_its_order():
    s = space(chain("Conv", "MatMul", "Gemm"), op_types={"Gemm": {"activation": {"method": "minmax"}}})
    grid = op_dimensions(s)
    assert grid.sizes == (4, 4, 2)
    assert [grid.candidate(p) for p in product(*map(range, grid.sizes))] == list(s.op_wise())


def test_ops_with_one_option_are_no_dimension_and_take_it():
    s = space(chain("Conv", "Gemm"), op_types={"Conv": {"weight": {"granularity": "per_tensor"},
                                                        "activation": {"method": "minmax"}}})  # fmt: skip
    assert op_dimensions(s).names == ("Gemm_1",)
    assert op_type_dimensions(s).names == ("Gemm",)


def test_op_types_share_one_choice_and_an_op_that_lacks_it_takes_its_default():
    summary = model(op("Conv", "wide", ("x",)), op("Conv", "narrow", ("wide.out",), channels=1))
    grid = op_type_dimensions(space(summary))
    chosen = [[c.weight.granularity for c in grid.candidate((i,)).configs().values()] for i in range(4)]
    assert grid.sizes == (4,)
    assert chosen == [["per_channel", "per_tensor"], ["per_tensor", "per_tensor"]] * 2


def test_unions_are_ordered_by_activation_before_weight_and_the_last_type_varies_fastest():
    grid = op_type_dimensions(space(chain("Conv", "Gemm")))
    candidates = [grid.candidate(grid.point(i)) for i in (0, 1, 2, 4)]
    shown = [
        tuple((c.activation.method, c.weight.granularity) for c in candidate.configs().values())
        for candidate in candidates
    ]
    assert shown == [
        (("minmax", "per_channel"), ("minmax", "per_channel")),
        (("minmax", "per_channel"), ("minmax", "per_tensor")),
        (("minmax", "per_channel"), ("percentile", "per_channel")),
        (("minmax", "per_tensor"), ("minmax", "per_channel")),
    ]


@given(st.integers(0, 10**6))
def test_points_and_indices_are_each_others_inverse(seed):
    for grid in (op_dimensions(drawn(seed).space), op_type_dimensions(drawn(seed).space)):
        index = random.Random(seed).randrange(grid.size)
        assert grid.index(grid.point(index)) == index
        assert all(0 <= c < n for c, n in zip(grid.point(index), grid.sizes, strict=True))


@given(st.integers(0, 10**6))
def test_a_candidate_is_found_again(seed):
    for grid in (op_dimensions(drawn(seed).space), op_type_dimensions(drawn(seed).space)):
        candidate = grid.candidate(grid.point(random.Random(seed).randrange(grid.size)))
        assert grid.candidate(grid.find(candidate)) == candidate


def test_a_candidate_that_is_not_on_the_grid_is_not_found():
    grid = op_dimensions(space(chain("Conv", "Gemm")))
    assert grid.find(grid.candidate((0, 0)).in_float("Gemm_1")) is None


@given(st.integers(0, 10**6))
def test_every_candidate_of_the_op_grid_is_in_the_space(seed):
    s = drawn(seed).space
    grid = op_dimensions(s)
    assert grid.candidate(grid.point(random.Random(seed).randrange(grid.size))) in s


def test_neighbours_differ_in_one_coordinate():
    grid = op_dimensions(space(chain("Conv", "Gemm")))
    assert sorted(grid.neighbours((0, 2))) == [(0, 0), (0, 1), (0, 3), (1, 2), (2, 2), (3, 2)]


def test_an_index_outside_is_refused():
    with pytest.raises(IndexError):
        op_dimensions(space(chain("Conv"))).point(4)
