"""What the tuning space, strategies and scheduler know of a model: names, types, sizes, topology.

Plain data, made by `quantize/summary.py` from the prepared model; it travels between ranks and into
the journal as JSON.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """A constant input of an op that can be quantized as a weight.

    Args:
        name: tensor name in the prepared model.
        input_index: position among the op's inputs.
        shape: dimensions.
        n_channels: slices along the channel axis; 1 means that per tensor and per channel are one.
        size_bytes: in the float model.
    """

    name: str
    input_index: int
    shape: tuple[int, ...]
    n_channels: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OpSummary:
    """One node of the prepared model.

    Args:
        name: the original node's name; `<OpType>:<first output>` when it had none. Unique.
        op_type: ONNX operator type.
        inputs: tensor names, "" for an absent one.
        outputs: tensor names.
        weight: its constant weight, or None (e.g. a MatMul of two activations).
        n_macs: multiply-adds for one sample; 0 where they are not counted.
        sources: names of the original nodes that were fused into it (its own name included).
        has_float_data: whether it computes on float tensors that codes can stand for. Shape arithmetic on
            integers does not, nor does an op with a constant mask (NaN, infinity, 1e30 and more): they are
            never quantized.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: WeightSummary | None = None
    n_macs: int = 0
    sources: tuple[str, ...] = ()
    has_float_data: bool = True


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The model in topological order.

    Args:
        ops: every node, in the order of the graph.
        inputs: names of the graph's inputs (initializers left out).
        outputs: names of the graph's outputs.
        opset: version of the default domain.
        size_bytes: of the float model as given.
        n_parameters: elements of all initializers.
    """

    ops: tuple[OpSummary, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    size_bytes: int
    n_parameters: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        ops = []
        for op in data["ops"]:
            weight = op["weight"]
            if weight is not None:
                weight = WeightSummary(**{**weight, "shape": tuple(weight["shape"])})
            names = {k: tuple(op[k]) for k in ("inputs", "outputs", "sources")}
            ops.append(OpSummary(**{**op, **names, "weight": weight}))
        return cls(
            **{**data, "ops": tuple(ops), "inputs": tuple(data["inputs"]), "outputs": tuple(data["outputs"])}
        )
