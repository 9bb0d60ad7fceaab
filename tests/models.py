"""Small float models for tests, and inputs for them. Weights are random but always the same."""

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

Shape = Sequence[int | str | None]


def value(name: str, shape: Shape | None, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    """The type of a graph's input or output."""
    return helper.make_tensor_value_info(name, dtype, None if shape is None else list(shape))


class Graph:
    """Collects nodes and weights; each call of `node` returns the name of the node's output."""

    def __init__(self, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.nodes = []
        self.initializers = []

    def node(self, op_type: str, *inputs: str, name: str = "", output: str = "", **attributes: object) -> str:
        output = output or f"{name or op_type.lower()}_{len(self.nodes)}_out"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def weight(self, name: str, *shape: int, scale: float = 0.5) -> str:
        return self.constant(name, (scale * self.random.standard_normal(shape)).astype(np.float32))

    def constant(self, name: str, array: object) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def model(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], opset: int = 17
    ) -> ModelProto:
        graph: GraphProto = helper.make_graph(self.nodes, "test", inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def tiny_cnn() -> ModelProto:
    """conv1 - relu1 - pool - conv2 - relu2 - mean - flat - fc; x (N, 3, 8, 8) to y (N, 5)."""
    g = Graph(1)
    h = g.node("Conv", "x", g.weight("w1", 4, 3, 3, 3), g.weight("b1", 4), name="conv1", pads=[1, 1, 1, 1])
    h = g.node("Relu", h, name="relu1")
    h = g.node("MaxPool", h, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    h = g.node("Conv", h, g.weight("w2", 6, 4, 3, 3), g.weight("b2", 6), name="conv2")
    h = g.node("Relu", h, name="relu2")
    h = g.node("GlobalAveragePool", h, name="mean")
    h = g.node("Flatten", h, name="flat")
    g.node("Gemm", h, g.weight("w3", 5, 6), g.weight("b3", 5), name="fc", output="y", transB=1)
    return g.model([value("x", ["N", 3, 8, 8])], [value("y", ["N", 5])])


def depthwise_cnn() -> ModelProto:
    """stem - norm - depthwise - pointwise - residual Add; x (N, 2, 6, 6) to y (N, 4, 6, 6)."""
    g = Graph(2)
    h = g.node("Conv", "x", g.weight("ws", 4, 2, 3, 3), name="stem", pads=[1, 1, 1, 1])
    statistics = [
        g.constant(n, np.linspace(0.5, 2.0, 4, dtype=np.float32)) for n in ("gamma", "beta", "mean", "var")
    ]
    stem = g.node("BatchNormalization", h, *statistics, name="norm")
    channels = np.array([0.01, 0.1, 1.0, 10.0], np.float32).reshape(4, 1, 1, 1)
    depthwise = g.constant("wd", channels * g.random.standard_normal((4, 1, 3, 3)).astype(np.float32))
    h = g.node("Conv", stem, depthwise, name="depthwise", pads=[1, 1, 1, 1], group=4)
    h = g.node("Conv", h, g.weight("wp", 4, 4, 1, 1), g.weight("bp", 4), name="pointwise")
    g.node("Add", h, stem, name="residual", output="y")
    return g.model([value("x", ["N", 2, 6, 6])], [value("y", ["N", 4, 6, 6])])


def mlp() -> ModelProto:
    """fc1 - relu - fc2 - softmax; x (N, 6) to y (N, 3)."""
    g = Graph(3)
    h = g.node("Gemm", "x", g.weight("w1", 6, 8), g.weight("b1", 8), name="fc1")
    h = g.node("Relu", h, name="relu")
    h = g.node("Gemm", h, g.weight("w2", 3, 8), g.weight("b2", 3), name="fc2", transB=1)
    g.node("Softmax", h, name="softmax", output="y", axis=-1)
    return g.model([value("x", ["N", 6])], [value("y", ["N", 3])])


def attention() -> ModelProto:
    """query, key, value, scores, softmax, mix, out, residual Add, up, relu, down; x to y (N, T, 8)."""
    g = Graph(4)
    query = g.node(
        "Add", g.node("MatMul", "x", g.weight("wq", 8, 8), name="query"), g.weight("bq", 8), name="query_bias"
    )
    key = g.node("MatMul", "x", g.weight("wk", 8, 8), name="key")
    values = g.node("MatMul", "x", g.weight("wv", 8, 8), name="value")
    turned = g.node("Transpose", key, name="turn", perm=[0, 2, 1])
    scores = g.node("Softmax", g.node("MatMul", query, turned, name="scores"), name="softmax", axis=-1)
    mixed = g.node("MatMul", scores, values, name="mix")
    out = g.node("Add", g.node("MatMul", mixed, g.weight("wo", 8, 8), name="out"), "x", name="residual")
    up = g.node("Relu", g.node("MatMul", out, g.weight("wu", 8, 16), name="up"), name="relu")
    g.node("MatMul", up, g.weight("wd", 16, 8), name="down", output="y")
    return g.model([value("x", ["N", "T", 8])], [value("y", ["N", "T", 8])])


def shared_weight() -> ModelProto:
    """first and second read the same weight "w"; x (N, 4) to y (N, 4)."""
    g = Graph(5)
    h = g.node("Tanh", g.node("MatMul", "x", g.weight("w", 4, 4), name="first"), name="tanh")
    g.node("MatMul", h, "w", name="second", output="y")
    return g.model([value("x", ["N", 4])], [value("y", ["N", 4])])


def unnamed() -> ModelProto:
    """MatMul + Add, Identity and Tanh, none of them named; x (N, 4) to y (N, 3)."""
    g = Graph(6)
    product = g.node("MatMul", "x", g.weight("w", 4, 3), output="product")
    total = g.node("Add", product, g.weight("b", 3), output="total")
    g.node("Tanh", g.node("Identity", total, output="same"), output="y")
    return g.model([value("x", ["N", 4])], [value("y", ["N", 3])])


def with_branches() -> ModelProto:
    """MatMul before, If choose, MatMul after; the branches read before_out and w2; x (N, 4) to y (N, 4)."""
    g = Graph(7)
    before = g.node("MatMul", "x", g.weight("w", 4, 4), name="before", output="before_out")
    g.weight("w2", 4, 4)
    summed = g.node("ReduceSum", before, name="sum", keepdims=0, output="sum_out")
    positive = g.node("Greater", summed, g.constant("zero", np.float32(0)), name="positive")
    branches = {
        "then_branch": ("MatMul", [before, "w2"], "then_out"),
        "else_branch": ("Neg", [before], "else_out"),
    }
    graphs = {
        key: helper.make_graph(
            [helper.make_node(kind, inputs, [out], f"{kind}_in_branch")], key, [], [value(out, None)]
        )
        for key, (kind, inputs, out) in branches.items()
    }
    chosen = g.node("If", positive, name="choose", **graphs)
    g.node("MatMul", chosen, g.weight("w3", 4, 4), name="after", output="y")
    return g.model([value("x", ["N", 4])], [value("y", ["N", 4])])


def recurrent() -> ModelProto:
    """table (Gather, 7 rows) - lstm - fc; tokens (T, N) to y (T, 1, N, 2)."""
    g = Graph(8)
    h = g.node("Gather", g.weight("embedding", 7, 3), "tokens", name="table")
    h = g.node("LSTM", h, g.weight("w", 1, 16, 3), g.weight("r", 1, 16, 4), name="lstm", hidden_size=4)
    g.node("MatMul", h, g.weight("wf", 4, 2), name="fc", output="y")
    return g.model([value("tokens", ["T", "N"], TensorProto.INT64)], [value("y", ["T", 1, "N", 2])])


def feeds(model: ModelProto, n: int = 4, seed: int = 0, **dimensions: int) -> list[dict[str, np.ndarray]]:
    """n random feeds; a dimension that is not given is 2, and an integer input is below 7.

    Args:
        dimensions: sizes of symbolic dimensions, e.g. N=8.
    """
    random = np.random.default_rng(seed)
    return [{v.name: _array(v, random, dimensions) for v in model.graph.input} for _ in range(n)]


def _array(spec: ValueInfoProto, random: np.random.Generator, dimensions: dict[str, int]) -> np.ndarray:
    dims = spec.type.tensor_type.shape.dim
    shape = [d.dim_value or dimensions.get(d.dim_param, 2) for d in dims]
    if spec.type.tensor_type.elem_type == TensorProto.INT64:
        return random.integers(0, 7, shape)
    return random.standard_normal(shape).astype(np.float32)
