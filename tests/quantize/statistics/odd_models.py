"""Models with tensors that calibration meets rarely; all take x (N, 4)."""

import numpy as np
from onnx import ModelProto, TensorProto

from tests.models import Graph, value


def _model(g: Graph, *outputs: str, n: int | str | None = "N") -> ModelProto:
    return g.model([value("x", [n, 4])], [value(name, None) for name in outputs])


def constants_and_masks() -> ModelProto:
    """zeros, sevens, tiny (denormal), logs (-inf for x <= 0), masked (-3.4e38 for x < 0), gone (masks)."""
    g = Graph()
    g.node("Mul", "x", g.constant("zero", np.float32(0)), output="zeros")
    g.node("Add", "zeros", g.constant("seven", np.float32(7)), output="sevens")
    g.node("Mul", "x", g.constant("small", np.float32(1e-40)), output="tiny")
    g.node("Relu", "x", output="positive")
    g.node("Log", "positive", output="log")
    g.node("Mul", "log", g.constant("one", np.float32(1)), output="logs")
    g.node("Less", "x", "zero", output="negative")
    g.node("Where", "negative", g.constant("mask", np.float32(-3.4028235e38)), "x", output="masked")
    g.node("Add", "zeros", "mask", output="gone")
    return _model(g, "sevens", "tiny", "logs", "masked", "gone")


def square_roots() -> ModelProto:
    """before, root (NaN where x is below -1), after."""
    g = Graph()
    g.node("Add", "x", g.constant("one", np.float32(1)), output="before")
    g.node("Sqrt", "before", output="sqrt")
    g.node("Mul", "sqrt", "one", output="root")
    g.node("Add", "root", "one", output="after")
    return _model(g, "after")


def selected_rows() -> ModelProto:
    """product, picked (the positive entries of row sums: any number of rows, also none), doubled."""
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 4), output="product")
    g.node("ReduceSum", "x", g.constant("axis", np.array([1])), output="sums", keepdims=0)
    g.node("Greater", "sums", g.constant("zero", np.float32(0)), output="kept")
    g.node("Compress", "product", "kept", output="picked", axis=0)
    g.node("Add", "picked", "picked", output="doubled")
    return _model(g, "doubled")


def scalars() -> ModelProto:
    """total (rank 0), shifted (N, 4), turned (4, N)."""
    g = Graph()
    g.node("ReduceMean", "x", output="total", keepdims=0)
    g.node("Sub", "x", "total", output="shifted")
    g.node("Transpose", "shifted", output="turned", perm=[1, 0])
    return _model(g, "turned")


def optional_outputs() -> ModelProto:
    """h (hidden states of an LSTM without its other outputs), top (of a TopK whose indices nothing reads)."""
    g = Graph()
    g.node("Unsqueeze", "x", g.constant("axis", np.array([0])), output="sequence")
    g.node("LSTM", "sequence", g.weight("w", 1, 12, 4), g.weight("r", 1, 12, 3), output="", hidden_size=3)
    g.nodes[-1].output[:] = ["", "h"]
    g.node("TopK", "h", g.constant("k", np.array([2])), output="top")
    g.nodes[-1].output.append("indices")
    g.node("Add", "top", "top", output="y")
    return _model(g, "y")


def half_precision() -> ModelProto:
    """half (float16), folded (float16), whole, ids (int64)."""
    g = Graph()
    g.node("Cast", "x", output="half", to=TensorProto.FLOAT16)
    g.node("Reshape", "half", g.constant("shape", np.array([-1, 2, 2])), output="folded")
    g.node("Cast", "folded", output="whole", to=TensorProto.FLOAT)
    g.node("Mul", "whole", "whole", output="y")
    g.node("ArgMax", "x", output="ids", axis=1)
    outputs = [value("y", None), value("ids", None, TensorProto.INT64)]
    return g.model([value("x", ["N", 4])], outputs)


def looped() -> ModelProto:
    """MatMul before, a Loop that doubles three times, and Mul after it, which reads before_out too."""
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 4), output="before_out")
    body = Graph()
    body.node("Add", "state", "state", output="state_out")
    body.node("Identity", "going", output="going_out")
    inputs = [value("i", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("state", None)]
    outputs = [value("going_out", [], TensorProto.BOOL), value("state_out", None)]
    graph = body.model(inputs, outputs).graph
    three, true = g.constant("three", np.int64(3)), g.constant("true", np.bool_(True))
    g.node("Loop", three, true, "before_out", output="looped", body=graph)
    g.node("Mul", "looped", "before_out", output="after_out")
    return _model(g, "after_out")


def large_branches() -> ModelProto:
    """wide (N, 400), If chosen: its branches read wide, and a weight of 400 x 400 that is outside of them."""
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 4, 400), output="wide")
    g.weight("captured", 400, 400)
    g.node("ReduceSum", "x", output="sum", keepdims=0)
    g.node("Greater", "sum", g.constant("zero", np.float32(0)), output="positive")
    then, other = Graph(), Graph()
    then.node("MatMul", "wide", "captured", output="then_out")
    other.node("Neg", "wide", output="else_out")
    branches = {
        "then_branch": then.model([], [value("then_out", None)]).graph,
        "else_branch": other.model([], [value("else_out", None)]).graph,
    }
    g.node("If", "positive", output="chosen", **branches)
    g.node("Add", "chosen", "chosen", output="y")
    return _model(g, "y")


def sequences() -> ModelProto:
    """doubled, first (a column of it, by way of a sequence of columns), y."""
    g = Graph()
    g.node("Add", "x", "x", output="doubled")
    g.node("SplitToSequence", "doubled", output="columns", axis=1)
    g.node("Mul", "doubled", "doubled", output="square")
    g.node("SequenceAt", "columns", g.constant("position", np.int64(0)), output="first")
    g.node("Add", "first", "square", output="y")
    return _model(g, "y")
