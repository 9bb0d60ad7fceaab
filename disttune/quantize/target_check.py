"""Whether a quantized model has the format that a target takes: looked at, never run.

Every node that reads or writes codes is held against the rows of the target's capability file:
1. A tensor's format is its type, whether its zero points stand where a symmetric scheme has them, its
   granularity, and whether its scales are powers of two. They have to be where all methods of the row's
   tensor give such.
2. A constant at the op's weight position is its weight; int32 codes are a bias, with zero points 0, or none
   where the target's recipe `quantize_bias` is off; other constants have the format of activations, the
   scales of normalizations that of weights.
3. One row has to take weight and activations together. What an op writes may have the format of any row;
   for a target with `one_activation_dtype` it has the type of what the op reads.
4. A weight beside float data is one that the target takes alone (`weights_alone`).
5. An op without rows computes in float between DequantizeLinear and QuantizeLinear: its activations may have
   any format that the target has, but no weight of it has codes.
6. Operators on codes (MatMulInteger, DynamicQuantizeLinear ...) are for targets with dynamic rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from disttune.config.schemes import FLOAT8_DTYPES
from disttune.quantize.graph import is_quantized_type
from disttune.quantize.model_file import read_onnx
from disttune.quantize.parameters import next_power_of_two
from disttune.quantize.sources import FIRST_BIAS, WEIGHT_INPUTS
from disttune.quantize.summary import channel_axis, int_attribute
from disttune.quantize.tensor_memory import tensor_values
from disttune.space.capability import Capability, CapabilityRow, TensorOptions, load_capability

_MIDDLES = {"uint8": 128, "uint16": 32768, "uint4": 8}
_MOST_NAMED = 3
_NORMALIZATIONS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization")


@dataclass(frozen=True, slots=True)
class Format:
    """How a tensor is quantized, as its Q and DQ nodes say it (rule 1).

    Args:
        dtype: of the codes.
        symmetric: whether all zero points stand at 0, or in the middle of an unsigned type.
        granularity: "per_tensor", "per_channel" or "per_group".
        axis: of the channels; None otherwise.
        power_of_two: whether all scales are powers of two.
    """

    dtype: str
    symmetric: bool
    granularity: str
    axis: int | None
    power_of_two: bool

    def __str__(self) -> str:
        symmetry = "symmetric" if self.symmetric else "asymmetric"
        scales = " with power-of-two scales" if self.power_of_two else ""
        return f"{self.dtype} {symmetry} {self.granularity.replace('_', ' ')}{scales}"


@dataclass(frozen=True, slots=True)
class OutsideNode:
    """A node that the target does not take as it is.

    Args:
        op: name of the node.
        op_type: ONNX operator type.
        found: what of it does not fit.
        allowed: what the target takes instead.
    """

    op: str
    op_type: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.op} ({self.op_type}): {self.found}; allowed: {self.allowed}"


@dataclass(frozen=True, slots=True)
class TargetReport:
    """Outcome of a check.

    Args:
        target: its name.
        n_nodes: nodes with codes that were looked at.
        outside: those that do not fit, in the order of the graph.
    """

    target: str
    n_nodes: int
    outside: tuple[OutsideNode, ...]

    @property
    def fits(self) -> bool:
        return not self.outside

    def __str__(self) -> str:
        if self.fits:
            return f"target {self.target}: all {self.n_nodes} nodes with codes fit its format"
        named = "; ".join(map(str, self.outside[:_MOST_NAMED]))
        more = len(self.outside) - _MOST_NAMED
        rest = f"; and {more} more" if more > 0 else ""
        return f"target {self.target}: {len(self.outside)} of {self.n_nodes} nodes are outside: {named}{rest}"


def check_target(model: ModelProto | str | Path, target: str) -> TargetReport:
    """Hold a quantized model against what a target takes, by format; it is not run.

    Args:
        model: the model, or the path of its file.
        target: name of a target: "ort-cpu", "tensorrt" ...
    Raises:
        InputError: there is no such target, or the file is no ONNX model.
    """
    capability = load_capability(target)
    checker = _Checker(model if isinstance(model, ModelProto) else read_onnx(Path(model)), capability)
    return TargetReport(target, checker.n_nodes, tuple(checker.outside()))


class _Checker:
    def __init__(self, model: ModelProto, capability: Capability):
        self._capability = capability
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = model.graph.node
        self._makers = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
        self._quantized = {n.output[0]: n.input[0] for n in nodes if n.op_type == "QuantizeLinear"}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in nodes:
            if node.op_type == "QuantizeLinear":
                self._readers.setdefault(node.input[0], []).append(node)
        self._nodes = [node for node in nodes if self._has_codes(node)]

    @property
    def n_nodes(self) -> int:
        return len(self._nodes)

    def outside(self) -> Iterable[OutsideNode]:
        for node in self._nodes:
            faults = self._operator(node) if is_quantized_type(node.op_type) else self._around(node)
            for found, allowed in faults[:1]:
                yield OutsideNode(node.name, node.op_type, found, allowed)

    def _has_codes(self, node: NodeProto) -> bool:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return False
        reads = any(name in self._makers for name in node.input)
        return reads or any(n in self._readers for n in node.output) or is_quantized_type(node.op_type)

    def _operator(self, node: NodeProto) -> list[tuple[str, str]]:
        """Rule 6."""
        if any(row.approach == "dynamic" for row in self._capability.rows):
            return []
        return [(f"{node.op_type} computes on codes by itself", "QuantizeLinear and DequantizeLinear only")]

    def _around(self, node: NodeProto) -> list[tuple[str, str]]:
        rows = [r for r in self._capability.rows if r.approach == "static" and node.op_type in r.op_types]
        weights, data, biases = self._inputs(node)
        outputs = [
            _Named(name, self._format(pair)) for name in node.output for pair in self._readers.get(name, ())
        ]
        faults = [fault for bias in biases for fault in self._bias(bias, rows)]
        if weights and not data:
            return faults + [f for weight in weights for f in self._alone(weight)]
        if not rows:
            faults += [(f"{w}, but the op has no quantized form", "a float weight") for w in weights]
            return faults + self._fitting([*data, *outputs], self._capability.rows)
        several = sorted({named.format.dtype for named in (*data, *outputs)})
        if self._capability.one_activation_dtype and len(several) > 1:
            faults.append((f"activations of {' and '.join(several)}", "one type for all of them"))
        return faults + self._together(node, rows, weights, data) + self._fitting(outputs, rows)

    def _inputs(self, node: NodeProto) -> tuple[list["_Named"], list["_Named"], list["_Named"]]:
        """Rule 2: weights, activations and what has their format, biases."""
        weights, data, biases = [], [], []
        for i, name in enumerate(node.input):
            maker = self._makers.get(name)
            if maker is None:
                continue
            named = _Named(maker.input[0], self._format(maker))
            if named.format.dtype == "int32":
                biases.append(named)
            elif self._is_constant(maker) and i in WEIGHT_INPUTS.get(node.op_type, ()):
                weights.append(named)
            elif not (node.op_type in _NORMALIZATIONS and i >= FIRST_BIAS[node.op_type]):
                data.append(named)
        return weights, data, biases

    def _bias(self, bias: "_Named", rows: Sequence[CapabilityRow]) -> list[tuple[str, str]]:
        if self._capability.recipes.get("quantize_bias") is False:
            return [(f"bias {bias}", "a float bias")]
        if not bias.format.symmetric:
            return [(f"bias {bias}", "int32 with zero points 0")]
        if rows and all(_is_power_of_two(row.activation) for row in rows) and not bias.format.power_of_two:
            return [(f"bias {bias}", "int32 with power-of-two scales")]
        return []

    def _alone(self, weight: "_Named") -> list[tuple[str, str]]:
        """Rule 4."""
        dtypes = self._capability.weights_alone
        if weight.format.dtype not in dtypes:
            return [(f"weight {weight} beside float data", ", ".join(dtypes) or "data with codes as well")]
        symmetric = all(row.weight.symmetric == (True,) for row in self._capability.rows if row.weight)
        if symmetric and not weight.format.symmetric:
            return [(f"weight {weight} beside float data", "symmetric ones")]
        return []

    def _together(
        self,
        node: NodeProto,
        rows: Sequence[CapabilityRow],
        weights: Sequence["_Named"],
        data: Sequence["_Named"],
    ) -> list[tuple[str, str]]:
        """Rule 3: the nearest row's fault, where no row takes everything."""
        for row in rows:
            if all(_takes(row.activation, d.format) for d in data) and all(
                row.weight is not None and _takes(row.weight, w.format) and self._on_axis(node, w)
                for w in weights
            ):
                return []
        found = ", ".join([f"weight {w}" for w in weights] + [f"activation {d}" for d in data])
        return [(found, " or ".join(dict.fromkeys(map(_row_in_words, rows))))]

    def _fitting(self, tensors: Sequence["_Named"], rows: Sequence[CapabilityRow]) -> list[tuple[str, str]]:
        options = [row.activation for row in rows if row.approach == "static"]
        allowed = " or ".join(dict.fromkeys(_in_words(o) for o in options))
        return [
            (f"activation {named}", allowed)
            for named in tensors
            if not any(_takes(o, named.format) for o in options)
        ]

    def _on_axis(self, node: NodeProto, weight: "_Named") -> bool:
        tensor = self._tensors.get(weight.tensor)
        axis = weight.format.axis
        if tensor is None or axis is None:
            return True
        return axis % len(tensor.dims) == channel_axis(node, len(tensor.dims))

    def _is_constant(self, maker: NodeProto) -> bool:
        """Codes in the model, or of a float constant behind QuantizeLinear."""
        quantized = self._quantized.get(maker.input[0], maker.input[0])
        return quantized in self._tensors

    def _format(self, pair: NodeProto) -> Format:
        """Of a QuantizeLinear or DequantizeLinear."""
        scale = self._array(pair.input[1])
        zero_point = self._tensors.get(pair.input[2]) if len(pair.input) > 2 else None
        tensor = zero_point or self._tensors.get(pair.input[0])
        kind = tensor.data_type if tensor is not None else TensorProto.UINT8
        dtype = str(TensorProto.DataType.Name(kind)).lower()
        granularity = "per_tensor" if scale.size == 1 else "per_channel"
        if int_attribute(pair, "block_size", 0):
            granularity = "per_group"
        return Format(
            dtype,
            dtype in FLOAT8_DTYPES or zero_point is None or self._has_fixed_zero(dtype, zero_point),
            granularity,
            int_attribute(pair, "axis", 1) if granularity == "per_channel" else None,
            bool(np.array_equal(next_power_of_two(scale), scale)),
        )

    def _has_fixed_zero(self, dtype: str, zero_point: TensorProto) -> bool:
        return bool((tensor_values(zero_point).astype(np.int64) == _MIDDLES.get(dtype, 0)).all())

    def _array(self, name: str) -> np.ndarray:
        tensor = self._tensors.get(name)
        return np.ones((), np.float32) if tensor is None else tensor_values(tensor)


@dataclass(frozen=True, slots=True)
class _Named:
    """A tensor and its format."""

    tensor: str
    format: Format

    def __str__(self) -> str:
        return f'"{self.tensor}" is {self.format}'


def _takes(options: TensorOptions, found: Format) -> bool:
    return (
        found.dtype in options.dtype
        and (False in options.symmetric or found.symmetric)
        and found.granularity in (*options.granularity, "per_tensor")
        and (found.power_of_two or not _is_power_of_two(options))
    )


def _is_power_of_two(options: TensorOptions) -> bool:
    return all(method.startswith("pow2_") for method in options.method)


def _row_in_words(row: CapabilityRow) -> str:
    weight = f"weight {_in_words(row.weight)}, " if row.weight else ""
    return f"{weight}activation {_in_words(row.activation)}"


def _in_words(options: TensorOptions) -> str:
    symmetry = "symmetric" if options.symmetric == (True,) else "asymmetric"
    shapes = "/".join(granularity.replace("_", " ") for granularity in options.granularity)
    scales = " with power-of-two scales" if _is_power_of_two(options) else ""
    return f"{'/'.join(options.dtype)} {symmetry} {shapes}{scales}"
