"""Models of one linear op, drawn by hypothesis, and its rows by the slowest plain loops."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto
from onnx.helper import get_attribute_value

from tests.models import Graph, value


@dataclass(frozen=True)
class OneLayer:
    """A model "x" to "y" of a Relu and the op "layer", without a bias.

    Args:
        weight: as the op reads it.
        shape: of x for one sample; without a batch dimension where the op has none.
    """

    model: ModelProto
    weight: np.ndarray
    shape: tuple[int, ...]
    batched: bool

    @property
    def node(self) -> NodeProto:
        return self.model.graph.node[1]

    def inputs(self, n: int, seed: int = 0) -> np.ndarray:
        """x for n samples: numbers that are sums of few powers of two, so that no sum of them rounds."""
        shape = (n, *self.shape) if self.batched else self.shape
        return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32) / 4

    def output(self, x: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(self.model.SerializeToString())
        return np.asarray(session.run(None, {"x": x})[0])


def one_layer(
    op_type: str, weight: tuple[int, ...], shape: tuple[int, ...], batched: bool = True, **attributes: Any
) -> OneLayer:
    g = Graph()
    values = g.random.integers(-8, 9, weight).astype(np.float32) / 4
    h = g.node("Relu", "x", name="relu")
    g.node(op_type, h, g.constant("w", values), name="layer", output="y", **attributes)
    given = ["N", *shape] if batched else shape
    model = g.model([value("x", given)], [value("y", None)])
    return OneLayer(model, values, shape, batched)


sizes = st.integers(1, 4)


@st.composite
def matrices(draw: st.DrawFn) -> OneLayer:
    """MatMul with inputs of one to four dimensions; Gemm with both of its flags."""
    n_inputs, n_outputs = draw(sizes), draw(sizes)
    if draw(st.booleans()):
        leading = draw(st.lists(sizes, max_size=2))
        return one_layer("MatMul", (n_inputs, n_outputs), (*leading, n_inputs))
    trans_a, trans_b = draw(st.booleans()), draw(st.booleans())
    weight = (n_outputs, n_inputs) if trans_b else (n_inputs, n_outputs)
    shape = (n_inputs, draw(sizes)) if trans_a else (n_inputs,)
    return one_layer("Gemm", weight, shape, batched=not trans_a, transA=int(trans_a), transB=int(trans_b))


@st.composite
def convolutions(draw: st.DrawFn) -> OneLayer:
    """Conv of one to three dimensions, grouped and depth-wise, with every way to pad."""
    n_spatial, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    each = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    kernel, strides, dilations = (
        draw(st.lists(st.integers(1, most), min_size=n_spatial, max_size=n_spatial)) for most in (3, 3, 2)
    )
    shape = (groups * each[0], *draw(st.lists(st.integers(5, 7), min_size=n_spatial, max_size=n_spatial)))
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    pad = draw(st.sampled_from(["NOTSET", "pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if pad == "pads":
        attributes["pads"] = draw(st.lists(st.integers(0, 2), min_size=2 * n_spatial, max_size=2 * n_spatial))
    else:
        attributes["auto_pad"] = pad
    if pad.startswith("SAME"):
        attributes["dilations"] = [1] * n_spatial  # onnxruntime takes no others
    return one_layer("Conv", (groups * each[1], each[0], *kernel), shape, **attributes)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> OneLayer:
    """ConvTranspose of one or two dimensions whose products do not overlap: stride = kernel."""
    n_spatial, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    each = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    kernel = draw(st.lists(st.integers(1, 3), min_size=n_spatial, max_size=n_spatial))
    shape = (groups * each[0], *draw(st.lists(st.integers(2, 4), min_size=n_spatial, max_size=n_spatial)))
    weight = (groups * each[0], each[1], *kernel)
    return one_layer("ConvTranspose", weight, shape, group=groups, strides=kernel)


def plain_rows(layer: OneLayer, read: np.ndarray) -> np.ndarray:
    """X of shape (n_parts, T, K) from the tensor that the op reads, value by value."""
    attributes = {a.name: get_attribute_value(a) for a in layer.node.attribute}
    if layer.node.op_type in ("MatMul", "Gemm"):
        matrix = read.T if attributes.get("transA") else read.reshape(-1, read.shape[-1])
        return matrix[np.newaxis].astype(np.float64)
    groups = attributes.get("group", 1)
    if layer.node.op_type == "ConvTranspose":
        pixels = np.moveaxis(read, 1, -1).reshape(-1, groups, read.shape[1] // groups)
        return pixels.swapaxes(0, 1).astype(np.float64)
    return _plain_patches(layer.weight.shape, read.astype(np.float64), groups, attributes)


def _plain_patches(
    shape: tuple[int, ...], read: np.ndarray, groups: int, attributes: dict[str, Any]
) -> np.ndarray:
    kernel, n = shape[2:], len(shape) - 2
    strides, dilations = attributes["strides"], attributes["dilations"]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = attributes.get("pads", [0] * 2 * n)
    auto = attributes.get("auto_pad", b"").decode()
    if auto.startswith("SAME"):
        totals = [
            max((-(-size // s) - 1) * s + span - size, 0)
            for size, s, span in zip(read.shape[2:], strides, spans, strict=True)
        ]
        first = [t // 2 if auto == "SAME_UPPER" else -(-t // 2) for t in totals]
        pads = [*first, *(t - a for t, a in zip(totals, first, strict=True))]
    read = np.pad(read, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
    counts = [(a - b) // s + 1 for a, b, s in zip(read.shape[2:], spans, strides, strict=True)]
    rows: list[list[list[float]]] = [[] for _ in range(groups)]
    for sample, at in itertools.product(read, itertools.product(*map(range, counts))):
        for g in range(groups):
            rows[g].append(
                [
                    sample[g * shape[1] + c][
                        tuple(p * s + k * d for p, s, k, d in zip(at, strides, ks, dilations, strict=True))
                    ]
                    for c in range(shape[1])
                    for ks in itertools.product(*map(range, kernel))
                ]
            )
    return np.array(rows)


def output_rows(layer: OneLayer, y: np.ndarray, n_parts: int, n_outputs: int) -> np.ndarray:
    """The op's output as (n_parts, T, N)."""
    if layer.node.op_type in ("MatMul", "Gemm"):
        return y.reshape(1, -1, n_outputs)
    if layer.node.op_type == "Conv":
        pixels = np.moveaxis(y, 1, -1).reshape(-1, n_parts, n_outputs)
        return pixels.swapaxes(0, 1)
    kernel = layer.weight.shape[2:]
    sizes = [size for n, k in zip(y.shape[2:], kernel, strict=True) for size in (n // k, k)]
    split = y.reshape(y.shape[0], n_parts, -1, *sizes)  # batch, part, channel, then place and element in turn
    places, elements = range(3, split.ndim, 2), range(4, split.ndim, 2)
    return split.transpose(1, 0, *places, 2, *elements).reshape(n_parts, -1, n_outputs)
