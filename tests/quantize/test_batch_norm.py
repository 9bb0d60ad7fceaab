"""BatchNormalization goes into linear ops wherever that leaves what the model computes."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from disttune.quantize.digest import serialize
from disttune.quantize.graph import prepare
from tests.models import Graph, value

Case = Callable[[Graph], str]


def norm(g: Graph, x: str, n: int, **attributes: object) -> str:
    """Factors of both signs and 0 among them."""
    parameters = {
        "scale": np.linspace(-1, 2, n),
        "shift": np.linspace(1, -2, n),
        "mean": np.linspace(-0.5, 0.5, n),
        "variance": np.linspace(0.5, 2, n),
    }
    names = [g.constant(f"{x}_{k}", v.astype(np.float32)) for k, v in parameters.items()]
    return g.node("BatchNormalization", x, *names, **attributes)


def conv(g: Graph, x: str, name: str, *shape: int, bias: bool = False, **attributes: object) -> str:
    inputs = [g.weight(f"{name}_w", *shape)] + ([g.weight(f"{name}_b", shape[0])] if bias else [])
    return g.node("Conv", x, *inputs, name=name, **attributes)


def turned(g: Graph, x: str, *shape: int, transposed: bool, **attributes: object) -> str:
    return g.node("ConvTranspose" if transposed else "Gemm", x, g.weight("w", *shape), name="l", **attributes)


IMAGE, ROWS, SEQUENCE = (2, 4, 8, 8), (3, 4), (2, 5, 4)
FOLDED: dict[str, tuple[tuple[int, ...], Case]] = {
    "conv": (IMAGE, lambda g: norm(g, conv(g, "x", "l", 6, 4, 3, 3), 6)),
    "conv with bias": (IMAGE, lambda g: norm(g, conv(g, "x", "l", 6, 4, 3, 3, bias=True), 6)),
    "depthwise": (IMAGE, lambda g: norm(g, conv(g, "x", "l", 4, 1, 3, 3, group=4), 4)),
    "groups": (IMAGE, lambda g: norm(g, conv(g, "x", "l", 6, 2, 3, 3, group=2), 6)),
    "one dimension": ((2, 4, 16), lambda g: norm(g, conv(g, "x", "l", 6, 4, 3), 6)),
    "three dimensions": ((1, 2, 4, 4, 4), lambda g: norm(g, conv(g, "x", "l", 3, 2, 2, 2, 2), 3)),
    "epsilon 0": (IMAGE, lambda g: norm(g, conv(g, "x", "l", 6, 4, 3, 3), 6, epsilon=0.0)),
    "transposed": (IMAGE, lambda g: norm(g, turned(g, "x", 4, 6, 3, 3, transposed=True), 6)),
    "transposed groups": (IMAGE, lambda g: norm(g, turned(g, "x", 4, 3, 3, 3, transposed=True, group=2), 6)),
    "transposed depthwise": (
        IMAGE,
        lambda g: norm(g, turned(g, "x", 4, 1, 3, 3, transposed=True, group=4), 4),
    ),
    "gemm": (ROWS, lambda g: norm(g, g.node("Gemm", "x", g.weight("w", 4, 6), g.weight("b", 6)), 6)),
    "gemm, all attributes": (
        ROWS,
        lambda g: norm(
            g,
            g.node("Gemm", "x", g.weight("w", 6, 4), g.weight("b", 1, 6), alpha=2.0, beta=0.5, transB=1),
            6,
        ),
    ),
    "gemm without bias": (ROWS, lambda g: norm(g, g.node("Gemm", "x", g.weight("w", 4, 6)), 6)),
    "matmul": (ROWS, lambda g: norm(g, g.node("MatMul", "x", g.weight("w", 4, 6)), 6)),
    "matmul and bias": (
        ROWS,
        lambda g: norm(g, g.node("Add", g.node("MatMul", "x", g.weight("w", 4, 6)), g.weight("b", 6)), 6),
    ),
    "matmul and transpose": (
        SEQUENCE,
        lambda g: norm(g, g.node("Transpose", g.node("MatMul", "x", g.weight("w", 4, 6)), perm=[0, 2, 1]), 6),
    ),
    "before conv": (IMAGE, lambda g: conv(g, norm(g, "x", 4), "l", 6, 4, 3, 3)),
    "before groups": (IMAGE, lambda g: conv(g, norm(g, "x", 4), "l", 6, 2, 3, 3, bias=True, group=2)),
    "before gemm": (ROWS, lambda g: g.node("Gemm", norm(g, "x", 4), g.weight("w", 6, 4), transB=1)),
    "before matmul": (ROWS, lambda g: g.node("MatMul", norm(g, "x", 4), g.weight("w", 4, 6))),
    "before flatten and gemm": (
        IMAGE,
        lambda g: g.node("Gemm", g.node("Flatten", norm(g, "x", 4)), g.weight("w", 256, 6)),
    ),
    "behind relu": (
        IMAGE,
        lambda g: conv(g, norm(g, g.node("Relu", conv(g, "x", "k", 4, 4, 1, 1)), 4), "l", 6, 4, 3, 3),
    ),
    "weight with two readers": (
        IMAGE,
        lambda g: g.node(
            "Add",
            norm(g, g.node("Conv", "x", g.weight("w", 4, 4, 1, 1), name="k"), 4),
            g.node("Conv", "x", "w", name="l"),
        ),
    ),
}


def two_readers(g: Graph) -> str:
    h = conv(g, "x", "l", 4, 4, 1, 1)
    return g.node("Add", norm(g, h, 4), h)


def relu_behind(g: Graph) -> str:
    return conv(g, g.node("Relu", norm(g, "x", 4)), "l", 6, 4, 3, 3)


KEPT: dict[str, tuple[tuple[int, ...], Case]] = {
    "padded conv behind": (IMAGE, lambda g: conv(g, norm(g, "x", 4), "l", 6, 4, 3, 3, pads=[1] * 4)),
    "padded by name": (IMAGE, lambda g: conv(g, norm(g, "x", 4), "l", 6, 4, 3, 3, auto_pad="SAME_UPPER")),
    "output read twice": (IMAGE, two_readers),
    "relu between": (IMAGE, relu_behind),
    "other axis of a matmul": (SEQUENCE, lambda g: norm(g, g.node("MatMul", "x", g.weight("w", 4, 5)), 5)),
    "square matmul behind": (
        (2, 4, 4),
        lambda g: g.node("MatMul", norm(g, "x", 4), g.weight("w", 4, 4)),
    ),
}


def made(shape: tuple[int, ...], case: Case) -> ModelProto:
    g = Graph(5)
    g.node("Identity", case(g), output="y")
    return g.model([value("x", ["N", *shape[1:]])], [value("y", None)])


def output(model: ModelProto, shape: tuple[int, ...]) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def n_norms(model: ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


@pytest.mark.parametrize("name", FOLDED)
def test_a_batch_norm_is_folded_and_the_outputs_stay(name):
    shape, case = FOLDED[name]
    prepared = prepare(made(shape, case))
    expected = output(made(shape, case), shape)
    assert n_norms(prepared) == 0
    assert np.abs(output(prepared, shape) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", KEPT)
def test_a_batch_norm_that_cannot_be_folded_stays(name):
    shape, case = KEPT[name]
    prepared = prepare(made(shape, case))
    assert n_norms(prepared) == 1
    assert np.allclose(output(prepared, shape), output(made(shape, case), shape), rtol=1e-5, atol=1e-5)


def test_a_folded_op_answers_to_its_own_name():
    shape, case = FOLDED["gemm"]
    model = made(shape, case)
    model.graph.node[0].name = "classifier"
    assert [node.name for node in prepare(model).graph.node if node.op_type == "Gemm"] == ["classifier"]


def test_a_norm_that_is_an_output_of_its_own_is_folded_without_losing_it():
    g = Graph(5)
    h = norm(g, g.node("Gemm", "x", g.weight("w", 4, 6), name="l"), 6)
    g.node("Relu", h, output="y")
    model = g.model([value("x", ["N", 4])], [value("y", None), value(h, None)])
    prepared = prepare(model)
    assert n_norms(prepared) == 0
    assert [v.name for v in prepared.graph.output] == ["y", h]
    assert np.allclose(output(prepared, ROWS), output(model, ROWS), rtol=1e-5, atol=1e-6)
