"""Differences of two float models, against numbers worked out by hand."""

import numpy as np
import pytest

from disttune.quantize.equivalence import largest_difference
from tests.models import Graph, value


def scaled(factor: float, op_type: str = "Mul") -> object:
    g = Graph()
    g.node(op_type, "x", g.constant("factor", np.float32(factor)), output="y")
    return g.model([value("x", ["N", 2])], [value("y", None)])


def feed(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([values], np.float32)}


def test_equal_models_do_not_differ():
    assert largest_difference(scaled(3), scaled(3), [feed(1, 2)]) == 0


def test_the_difference_is_relative_to_the_largest_output_and_the_worst_feed_counts():
    assert largest_difference(scaled(2), scaled(2.5), [feed(1, -4), feed(0, 1)]) == pytest.approx(0.25)
    assert largest_difference(scaled(1), scaled(1, "Add"), [feed(4, 4), feed(1, 2)]) == pytest.approx(0.5)


def test_infinity_in_one_alone_is_no_equality():
    assert largest_difference(scaled(1), scaled(np.inf), [feed(1, 1)]) == np.inf
    assert largest_difference(scaled(np.inf), scaled(np.inf), [feed(1, 1)]) == 0


def test_outputs_of_other_types_have_to_be_equal():
    def greater(bound: float) -> object:
        g = Graph()
        g.node("Greater", "x", g.constant("bound", np.float32(bound)), output="y")
        return g.model([value("x", ["N", 2])], [value("y", None, 9)])

    assert largest_difference(greater(1), greater(1.5), [feed(0, 2)]) == 0
    assert largest_difference(greater(1), greater(3), [feed(0, 2)]) == np.inf
