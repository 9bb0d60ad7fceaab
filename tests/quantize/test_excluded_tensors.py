"""Single tensors left in float: found by name, and nothing else changes."""

import numpy as np
import pytest
from onnx import ModelProto

from disttune.config.errors import InputError, TrialError
from disttune.quantize.excluded_tensors import excluded_tensors
from disttune.quantize.graph import prepare
from tests.models import Graph, depthwise_cnn, mlp, shared_weight, tiny_cnn, value
from tests.quantize.engines import dynamic, node_of, relative_error, static
from tests.quantize.pairs import Pair


def quantized_names(model: ModelProto) -> set[str]:
    """Tensors that have codes: their scales are named after them."""
    return {t.name.removesuffix("_scale") for t in model.graph.initializer if t.name.endswith("_scale")}


@pytest.mark.parametrize("name", ["x", "w1", "b1", "w3", "mean_5_out"])
def test_that_tensor_has_no_codes_and_the_model_runs(name):
    t = Pair(tiny_cnn())
    configs = t.everywhere(static())
    before = quantized_names(t.build_fast(configs))
    t.fast.exclude([name])
    model = t.build_fast(configs)
    assert not {name, f"{name}_quantized"} & quantized_names(model)
    assert len(quantized_names(model)) >= len(before) - 3  # a bias without the scales it was made of
    assert relative_error(model, t) < 0.1


def test_every_copy_of_a_shared_weight_stays_in_float():
    t = Pair(shared_weight())
    t.fast.exclude(["w"])
    model = t.build_fast({"first": static(), "second": static(per_channel=False)})
    assert not any(t.data_type != 1 for t in model.graph.initializer if t.name.startswith("w"))
    assert relative_error(model, t) < 0.1


@pytest.mark.parametrize("name", ["x", "w1"])
def test_a_dynamic_op_that_reads_it_stays_in_float(name):
    t = Pair(mlp())
    t.fast.exclude([name])
    model = t.build_fast({"fc1": dynamic(), "fc2": dynamic()})
    assert node_of(model, "fc1").op_type == "Gemm"
    assert relative_error(model, t) < 0.1
    with pytest.raises(TrialError, match="leave all 1 ops of the candidate in float"):
        t.build_fast({"fc1": dynamic()})


def test_keys_are_names_or_regular_expressions_in_the_order_of_the_model():
    prepared = prepare(mlp())
    assert excluded_tensors(["w2", "x"], prepared) == ("x", "w2")
    assert excluded_tensors(["[wb]1"], prepared) == ("w1", "b1")
    assert excluded_tensors([], prepared) == ()


def test_a_name_that_is_also_an_expression_is_taken_as_a_name():
    g = Graph()
    g.node("MatMul", "x", g.constant("w.1", np.eye(4, dtype=np.float32)), name="a", output="h")
    g.node("MatMul", "h", g.constant("wx1", np.eye(4, dtype=np.float32)), name="b", output="y")
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])
    assert excluded_tensors(["w.1"], model) == ("w.1",)


def test_mistakes_name_the_nearest_and_tell_what_was_fused_away():
    model = depthwise_cnn()
    prepared = prepare(model)
    with pytest.raises(
        InputError, match=r'exclude_tensors: no tensor "wpp", and as a regex .* Nearest: "wp"'
    ):
        excluded_tensors(["wpp"], prepared, model)
    with pytest.raises(
        InputError, match=r'tensor "gamma" is gone from the prepared model: its node was fused'
    ):
        excluded_tensors(["gamma"], prepared, model)
    with pytest.raises(InputError, match=r'no tensor "w\[", and it is no regular expression'):
        excluded_tensors(["w["], prepared, model)
