"""Random small models over all op types that can be quantized statically, and random configs for them.

The same for the same seed. Weights and biases are sometimes read by several ops, inner tensors are
sometimes outputs, tensors have several readers.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, helper

from disttune.config.schemes import FLOAT32, OpConfig
from disttune.space.summary import ModelSummary, OpSummary
from tests.models import Graph, value


@dataclass(frozen=True)
class Tensor:
    """An image (N, channels, side, side), or rows (N, channels) where side is 0."""

    name: str
    channels: int
    side: int


class Growing(Graph):
    """A graph that steps are added to."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.choice = random.Random(seed)
        self.tensors = [Tensor("x", 3, 8)]
        self.n_names = 0
        self.shared: dict[tuple[int, ...], list[str]] = {}

    def new(self, prefix: str) -> str:
        self.n_names += 1
        return f"{prefix}{self.n_names}"

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = self.new("op")
        return self.node(op_type, *inputs, name=name, output=f"{name}_out", **attributes)

    def parameter(self, *shape: int) -> str:
        """A weight or bias, sometimes one that another op reads as well."""
        known = self.shared.setdefault(shape, [])
        if not known or self.choice.random() < 0.7:
            known.append(self.weight(self.new("w"), *shape))
        return self.choice.choice(known)

    def bias(self, n: int) -> list[str]:
        return [self.parameter(n)] if self.choice.random() < 0.7 else []

    def array(self, *values: float, dtype: type = np.int64) -> str:
        return self.constant(self.new("c"), np.array(values, dtype))

    def same_shape(self, h: Tensor) -> str:
        like = [t for t in self.tensors if (t.channels, t.side) == (h.channels, h.side)]
        return self.choice.choice(like).name


Step = Callable[[Growing, Tensor], Tensor | None]


def elementwise(op_type: str, **attributes: object) -> Step:
    return lambda g, h: replace(h, name=g.add(op_type, h.name, **attributes))


def binary(op_type: str) -> Step:
    return lambda g, h: replace(h, name=g.add(op_type, h.name, g.same_shape(h)))


def with_constant(op_type: str) -> Step:
    def step(g: Growing, h: Tensor) -> Tensor:
        shape = (h.channels, 1, 1) if h.side else (h.channels,)
        return replace(h, name=g.add(op_type, h.name, g.parameter(*shape)))

    return step


def conv(g: Growing, h: Tensor) -> Tensor:
    n = g.choice.choice([2, 3, 4])
    inputs = [h.name, g.parameter(n, h.channels, 3, 3), *g.bias(n)]
    return replace(h, name=g.add("Conv", *inputs, pads=[1, 1, 1, 1]), channels=n)


def conv_transpose(g: Growing, h: Tensor) -> Tensor:
    n = g.choice.choice([2, 3])
    inputs = [h.name, g.parameter(h.channels, n, 3, 3), *g.bias(n)]
    return replace(h, name=g.add("ConvTranspose", *inputs, pads=[1, 1, 1, 1]), channels=n)


def clip(g: Growing, h: Tensor) -> Tensor:
    bounds = [g.constant(g.new("c"), np.float32(bound)) for bound in (g.choice.choice([0, -1]), 1)]
    return replace(h, name=g.add("Clip", h.name, *bounds))


def pool(op_type: str) -> Step:
    def step(g: Growing, h: Tensor) -> Tensor | None:
        if h.side < 4:
            return None
        return replace(h, name=g.add(op_type, h.name, kernel_shape=[2, 2], strides=[2, 2]), side=h.side // 2)

    return step


def global_pool(g: Growing, h: Tensor) -> Tensor:
    return Tensor(g.add("Flatten", g.add("GlobalAveragePool", h.name)), h.channels, 0)


def flatten(g: Growing, h: Tensor) -> Tensor | None:
    return Tensor(g.add("Flatten", h.name), h.channels * h.side**2, 0) if h.side <= 4 else None


def concat(g: Growing, h: Tensor) -> Tensor | None:
    other = g.choice.choice([t for t in g.tensors if t.side == h.side])
    if h.channels + other.channels > 8:
        return None
    return replace(h, name=g.add("Concat", h.name, other.name, axis=1), channels=h.channels + other.channels)


def split(g: Growing, h: Tensor) -> Tensor | None:
    if h.channels % 2:
        return None
    half, name = h.channels // 2, g.new("op")
    inputs, outputs = [h.name, g.array(half, half)], [f"{name}_a", f"{name}_b"]
    g.nodes.append(helper.make_node("Split", inputs, outputs, name, axis=1))
    g.tensors.append(replace(h, name=outputs[0], channels=half))
    return replace(h, name=outputs[1], channels=half)


def cut(g: Growing, h: Tensor) -> Tensor | None:
    if h.channels < 2:
        return None
    return replace(h, name=g.add("Slice", h.name, g.array(0), g.array(1), g.array(1)), channels=1)


def pad(g: Growing, h: Tensor) -> Tensor | None:
    if h.side > 12:
        return None
    mode = g.choice.choice(["constant", "constant", "edge"])
    inputs = [h.name, g.array(0, 0, 0, 0, 0, 0, 2, 2)]
    if mode == "constant" and g.choice.random() < 0.7:
        inputs.append(g.constant(g.new("c"), np.float32(g.choice.choice([0, 0.5]))))
    return replace(h, name=g.add("Pad", *inputs, mode=mode), side=h.side + 2)


def resize(g: Growing, h: Tensor) -> Tensor | None:
    if h.side > 8:
        return None
    scales = g.array(1, 1, 2, 2, dtype=np.float32)
    return replace(h, name=g.add("Resize", h.name, "", scales, mode="nearest"), side=h.side * 2)


def where(g: Growing, h: Tensor) -> Tensor:
    condition = g.add("Greater", h.name, g.constant(g.new("c"), np.float32(0)))
    return replace(h, name=g.add("Where", condition, h.name, g.same_shape(h)))


def instance_norm(g: Growing, h: Tensor) -> Tensor:
    return replace(
        h, name=g.add("InstanceNormalization", h.name, g.parameter(h.channels), g.parameter(h.channels))
    )


def batch_norm(g: Growing, h: Tensor) -> Tensor:
    """Behind a Tanh, so that it is not fused into a Conv."""
    n = h.channels
    variance = g.constant(g.new("c"), np.ones(n, np.float32))
    inputs = [g.add("Tanh", h.name), g.parameter(n), g.parameter(n), g.parameter(n), variance]
    return replace(h, name=g.add("BatchNormalization", *inputs))


def gemm(**attributes: float) -> Step:
    def step(g: Growing, h: Tensor) -> Tensor:
        n = g.choice.choice([4, 5, 8])
        shape = (n, h.channels) if attributes.get("transB") else (h.channels, n)
        inputs = [h.name, g.parameter(*shape), *g.bias(n)]
        return replace(h, name=g.add("Gemm", *inputs, **attributes), channels=n)

    return step


def matmul(g: Growing, h: Tensor) -> Tensor:
    n = g.choice.choice([4, 5, 8])
    return replace(h, name=g.add("MatMul", h.name, g.parameter(h.channels, n)), channels=n)


def product_of_activations(g: Growing, h: Tensor) -> Tensor:
    turned = g.add("Transpose", h.name, perm=[1, 0])
    scores = g.add("Softmax", g.add("MatMul", h.name, turned), axis=-1)
    return replace(h, name=g.add("MatMul", scores, h.name))


def layer_norm(g: Growing, h: Tensor) -> Tensor:
    inputs = [h.name, g.parameter(h.channels), *g.bias(h.channels)]
    return replace(h, name=g.add("LayerNormalization", *inputs, axis=-1))


def reshape(g: Growing, h: Tensor) -> Tensor:
    return replace(h, name=g.add("Reshape", h.name, g.array(-1, h.channels)))


ANYWHERE: list[Step] = [
    *(elementwise(kind) for kind in ("Relu", "Relu", "Sigmoid", "Tanh", "Abs", "Softmax")),
    elementwise("LeakyRelu", alpha=0.1),
    clip,
    *(binary(kind) for kind in ("Add", "Add", "Mul", "Sub")),
    *(with_constant(kind) for kind in ("Add", "Mul", "PRelu")),
]
ON_IMAGES: list[Step] = [
    *[conv] * 8,
    *(conv_transpose, pool("MaxPool"), pool("AveragePool"), concat, split, cut, pad, resize, where),
    *(instance_norm, batch_norm, elementwise("Transpose", perm=[0, 1, 3, 2]), global_pool, flatten),
]
ON_ROWS: list[Step] = [
    *(gemm(), gemm(transB=1), gemm(alpha=2.0), matmul, matmul, product_of_activations),
    *(layer_norm, reshape),
]


def random_model(seed: int, n_steps: int = 10) -> ModelProto:
    """x (N, 3, 8, 8) to some outputs."""
    g = Growing(seed)
    for _ in range(n_steps):
        h = g.choice.choice(g.tensors[-3:])
        steps = ANYWHERE + 2 * (ON_IMAGES if h.side else ON_ROWS)
        if (result := g.choice.choice(steps)(g, h)) is not None:
            g.tensors.append(result)
    read = {name for node in g.nodes for name in node.input}
    ends = [name for node in g.nodes for name in node.output if name not in read]
    inner = [t.name for t in g.tensors[1:] if t.name in read and g.choice.random() < 0.1]
    outputs = [value(name, None) for name in dict.fromkeys(ends + inner)]
    return g.model([value("x", ["N", 3, 8, 8])], outputs)


def random_configs(
    summary: ModelSummary, seed: int, options: list[OpConfig], dynamic: list[OpConfig] | None = None
) -> dict[str, OpConfig]:
    """A config for each op that computes on floats: one of the options, or float.

    Args:
        dynamic: options for MatMul and Gemm with a weight, beside the others.
    """
    choice = random.Random(seed)
    configs = {}
    for op in summary.ops:
        if op.has_float_data and op.op_type not in ("Greater", "Where"):
            kinds = [*options, FLOAT32]
            if dynamic and op.weight and op.op_type in ("MatMul", "Gemm"):
                kinds += dynamic
            configs[op.name] = fitted(op, choice.choice(kinds))
    return {op: config for op, config in configs.items() if config.quantized}


def fitted(op: OpSummary, config: OpConfig) -> OpConfig:
    """A config without the weight where the op has none."""
    return config if op.weight else OpConfig(config.approach, None, config.activation)
