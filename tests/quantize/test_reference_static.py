"""Oracle: `onnxruntime.quantization.quantize_static` on the same prepared model."""

import numpy as np
import onnx
import pytest

from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.digest import model_digest, serialize
from tests.models import (
    Graph,
    attention,
    depthwise_cnn,
    feeds,
    mlp,
    shared_weight,
    tiny_cnn,
    value,
    with_branches,
)
from tests.quantize.engines import (
    Tried,
    array,
    arrays,
    node_types,
    outputs,
    relative_error,
    static,
    stock_static,
)

SPEED = ("Conv", "MatMul", "Gemm")
MODELS = [tiny_cnn, depthwise_cnn, mlp, attention]
PARAMETERS = {"percentile": 99.0}


def tried(make) -> Tried:
    return Tried(make(), feeds(make(), 5, N=3, T=4))


def assert_as_stock(model: onnx.ModelProto, stock: onnx.ModelProto) -> None:
    assert node_types(model) == node_types(stock)
    assert arrays(model) == arrays(stock)
    assert model_digest(model) == model_digest(stock)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "distribution"])
@pytest.mark.parametrize("make", MODELS)
def test_a_uniform_candidate_is_what_quantize_static_makes(make, method, per_channel):
    t = tried(make)
    configs = t.uniform(static("int8", "uint8", per_channel, method, PARAMETERS.get(method)), *SPEED)
    assert_as_stock(t.build(configs), stock_static(t, configs))


@pytest.mark.parametrize(
    ("weight", "activation", "symmetric"),
    [("int8", "int8", True), ("uint8", "uint8", False), ("int8", "int8", False), ("int8", "uint16", False)],
)
@pytest.mark.parametrize("make", MODELS)
def test_other_types_are_what_quantize_static_makes(make, weight, activation, symmetric):
    t = tried(make)
    configs = t.uniform(static(weight, activation, False, symmetric=symmetric), *SPEED)
    assert_as_stock(t.build(configs), stock_static(t, configs))


@pytest.mark.parametrize("make", [*MODELS, with_branches])
def test_all_ops_with_a_range_of_their_own_are_what_quantize_static_makes(make):
    t = tried(make)
    types = {op.op_type for op in t.summary.ops if op.has_float_data} - {"If", "Greater", "ReduceSum"}
    configs = t.uniform(static(per_channel=True), *types)
    assert_as_stock(t.build(configs), stock_static(t, configs))


def test_a_symmetric_percentile_is_over_absolute_values_as_in_quantize_static():
    t = tried(tiny_cnn)
    configs = t.uniform(static("int8", "int8", False, "percentile", 90.0, symmetric=True), *SPEED)
    assert_as_stock(t.build(configs), stock_static(t, configs))


@pytest.mark.parametrize(
    ("recipe", "option", "value"),
    [
        ("add_qdq_pair_to_weight", "AddQDQPairToWeight", True),
        ("dedicated_qdq_pair", "DedicatedQDQPair", True),
        ("quantize_bias", "QuantizeBias", False),
        ("optypes_to_exclude_output_quant", "OpTypesToExcludeOutputQuantization", "Conv,MatMul"),
    ],
)
@pytest.mark.parametrize("make", MODELS)
def test_a_recipe_is_the_option_of_quantize_static(make, recipe, option, value):
    t = tried(make)
    configs = t.uniform(static(), *SPEED)
    stock = value.split(",") if isinstance(value, str) else value
    assert_as_stock(t.build(configs, **{recipe: value}), stock_static(t, configs, **{option: stock}))


@pytest.mark.parametrize("make", [*MODELS, shared_weight, with_branches])
def test_the_model_is_valid_close_to_float_and_the_same_in_every_build(make):
    t = tried(make)
    configs = t.uniform(static(), *SPEED)
    model = t.build(configs)
    onnx.checker.check_model(model, full_check=True)
    assert relative_error(model, t) < 0.1
    assert serialize(t.build(configs)) == serialize(model) == serialize(tried(make).build(configs))


def test_ranges_do_not_depend_on_the_candidates_built_before():
    t = tried(tiny_cnn)
    t.build(t.uniform(static(method="entropy"), "Conv"))
    t.build(t.uniform(static(), *SPEED, "Relu"))
    configs = t.uniform(static(), *SPEED)
    assert serialize(t.build(configs)) == serialize(tried(tiny_cnn).build(configs))


def test_nothing_quantized_is_the_prepared_model():
    t = tried(mlp)
    model = t.build({})
    assert model == t.prepared
    model.graph.name = "changed"
    assert t.build({}) == t.prepared


@pytest.mark.parametrize("method", ["entropy", "percentile", "distribution"])
def test_feeds_of_different_lengths_give_the_histogram_of_all_their_values(method):
    several = [feed for n in (1, 5, 3) for feed in feeds(attention(), 1, seed=n, T=n)]
    one = [{"x": np.concatenate([feed["x"] for feed in several], axis=1)}]
    models = []
    for inputs in (several, one):
        t = Tried(attention(), inputs)
        models.append(t.build(t.uniform(static(method=method, parameter=PARAMETERS.get(method)), "MatMul")))
    assert array(models[0], "x_scale") == array(models[1], "x_scale")


def test_portions_of_tensors_give_the_same_ranges_as_all_at_once(monkeypatch):
    configs = tried(attention).uniform(static(method="entropy"), "MatMul")
    whole = tried(attention).build(configs)
    monkeypatch.setattr("disttune.quantize.reference.calibration._PORTION_BYTES", 500)
    assert serialize(tried(attention).build(configs)) == serialize(whole)


def test_a_relu_stays_where_its_range_goes_below_zero():
    t = tried(tiny_cnn)
    configs = t.uniform(static(method="distribution"), "Conv", "Relu")
    assert node_types(t.build(configs))["Relu"] == 2
    stock = outputs(stock_static(t, configs), t.feeds)  # removes them
    assert max(np.abs(a - b).max() for a, b in zip(stock, outputs(t.prepared, t.feeds), strict=True)) > 0.1
    assert relative_error(t.build(configs), t) < 0.1


def test_a_table_is_quantized_per_row():
    g = Graph()
    rows = np.array([[1e-3], [1.0], [1e3]], np.float32) * g.random.standard_normal((3, 8)).astype(np.float32)
    h = g.node("Gather", g.constant("table", rows), "ids", name="lookup")
    g.node("Tanh", h, name="tanh", output="y")
    model = g.model([value("ids", ["N"], onnx.TensorProto.INT64)], [value("y", ["N", 8])])
    t = Tried(model, [{"ids": np.arange(3)}])
    config = OpConfig("static", Scheme("uint8", False, "per_channel"), Scheme("uint8", False))
    built = t.build({"lookup": config})
    assert array(built, "table_scale").shape == (3,)
    codes = array(built, "table_quantized").astype(np.float32) - array(built, "table_zero_point")[:, None]
    scales = array(built, "table_scale")[:, None]
    assert np.all(np.abs(codes * scales - rows) <= scales * 0.501)


def test_a_stacked_weight_has_one_scale_because_no_kernel_takes_more():
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 2, 3, 5), name="stacked", output="y")
    model = g.model([value("x", ["N", 2, 4, 3])], [value("y", ["N", 2, 4, 5])])
    t = Tried(model, feeds(model))
    built = t.build({"stacked": static(per_channel=True)})
    assert array(built, "w_scale").shape == ()
    assert relative_error(built, t) < 0.02
