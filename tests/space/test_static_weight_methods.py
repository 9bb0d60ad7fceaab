"""Static ops whose weights' codes an algorithm finds, where a job asks for it."""

import pytest

from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import METHODS
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.space import Space
from tests.builders import chain

STATIC = ("adaround", "adaquant", "seqmse", "gptq", "flip")


def space(method: object, methods: frozenset[str] = frozenset({*METHODS, *WEIGHT_METHODS})) -> Space:
    section = QuantizationSection(op_types={"Conv": {"weight": {"method": method}}})
    return build_space(chain("Conv", "MatMul"), load_capability("ort-cpu"), section, methods)


@pytest.mark.parametrize("method", STATIC)
def test_a_job_that_names_an_algorithm_gets_it_for_these_ops_and_no_others(method: str):
    s = space(method)
    assert not s.warnings
    assert {o.weight.method for o in s.options["Conv_0"]} == {method}
    assert {o.weight.method for o in s.options["MatMul_1"]} == {"minmax"}


def test_options_of_an_algorithm_go_behind_a_colon():
    (weight,) = {
        o.weight for o in space("gptq:flip=true").options["Conv_0"] if o.weight.granularity == "per_channel"
    }
    assert (weight.method, weight.options) == ("gptq", (("flip", True),))


def test_nobody_gets_an_algorithm_unasked():
    assert {o.weight.method for o in space("minmax").options["Conv_0"]} == {"minmax"}


def test_an_engine_without_the_algorithm_says_that_it_is_left_out():
    s = space("adaround", frozenset(METHODS))
    assert {o.weight.method for o in s.options["Conv_0"]} == {"minmax"}
    assert 'weight.method "adaround"' in s.warnings[0]
