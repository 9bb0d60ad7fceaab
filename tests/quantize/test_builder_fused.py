"""Oracle: what onnxruntime makes of the model of stock `quantize_static`, and its own names of kernels."""

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto

from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.builder.fused import fused_nodes
from tests.models import Graph, attention, depthwise_cnn, mlp, tiny_cnn, value
from tests.quantize.engines import dynamic, static, stock_dynamic, stock_static
from tests.quantize.pairs import Pair

MODELS = [tiny_cnn, depthwise_cnn, mlp, attention]


@pytest.mark.parametrize("types", [("Conv", "MatMul", "Gemm"), ()], ids=["speed", "all"])
@pytest.mark.parametrize("make", MODELS)
def test_as_much_is_fused_as_in_the_model_of_quantize_static(make, types):
    t = Pair(make(), N=2, T=4)
    configs = t.everywhere(static(), *types)
    fast, stock = fused_nodes(t.build_fast(configs)), fused_nodes(stock_static(t, configs))
    assert fast.node_types == stock.node_types
    assert (sorted(fast.on_codes), fast.in_float) == (sorted(stock.on_codes), stock.in_float)


def test_every_op_of_a_network_for_images_computes_on_codes():
    t = Pair(tiny_cnn())
    report = fused_nodes(t.build_fast(t.everywhere(static())))
    assert report.kernels == {
        "conv1": "QLinearConv",
        "pool": "MaxPool",
        "conv2": "QLinearConv",
        "mean": "QLinearGlobalAveragePool",
        "flat": "Flatten",
        "fc": "QGemm",
    }
    assert (set(report.on_codes), report.in_float, report.absorbed) == (set(report.kernels), (), ())


def test_a_relu_before_symmetric_codes_is_in_float():
    t = Pair(tiny_cnn())
    report = fused_nodes(t.build_fast(t.everywhere(static("int8", "int8", symmetric=True))))
    assert report.in_float == ("relu1", "relu2")


@pytest.mark.parametrize("make", [mlp, attention])
def test_dynamic_ops_are_fused_as_in_the_model_of_quantize_dynamic(make):
    t = Pair(make(), N=2, T=4)
    configs = {op.name: dynamic() for op in t.summary.ops if op.weight}
    fast, stock = fused_nodes(t.build_fast(configs)), fused_nodes(stock_dynamic(t, configs))
    assert fast.node_types == stock.node_types
    assert len(fast.on_codes) == len(configs)


def test_an_op_that_no_kernel_computes_on_codes_is_in_float():
    t = Pair(mlp())
    bare = OpConfig("static", None, Scheme("uint16", False))
    report = fused_nodes(t.build_fast({"softmax": bare}))
    assert (report.on_codes, report.in_float) == ((), ("softmax",))
    assert str(report) == "0 on codes, 1 in float (1 Softmax)"


def test_a_table_is_read_as_codes():
    g = Graph()
    h = g.node("Gather", g.weight("table", 5, 4), "ids", name="rows")
    g.node("MatMul", h, g.weight("w", 4, 4), name="fc", output="y")
    model = g.model([value("ids", ["N"], TensorProto.INT64)], [value("y", ["N", 4])])
    t = Pair(model, [{"ids": np.arange(5)}])
    report = fused_nodes(t.build_fast({"rows": static("uint8", per_channel=False), "fc": static()}))
    assert report.on_codes == ("rows", "fc")
    assert report.node_types == Counter({"Gather": 1, "QLinearMatMul": 1, "DequantizeLinear": 1})
    assert str(report) == "2 on codes (1 Gather, 1 QLinearMatMul)"
