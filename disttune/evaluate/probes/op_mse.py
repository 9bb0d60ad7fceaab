"""`op_mse`: how far an op's output is from the float model's, on the first calibration feed.

Both models are run once with the outputs of all quantized ops; other probes of the same candidate are then
answered from what that gave. The output of an op is what its consumers see: behind its QuantizeLinear and
DequantizeLinear where it has some.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from disttune.config.errors import InternalError, TrialError
from disttune.evaluate.probes.output_error import normalised_error
from disttune.evaluate.probes.registry import ProbeTools, register_probe
from disttune.space.candidate import Candidate

PORTION_BYTES = 2**28  # of activations that are kept at a time


@register_probe("op_mse")
def op_mse(tools: ProbeTools, candidate: Candidate | None, arguments: Mapping[str, Any]) -> float:
    """The error of one op's output.

    Args:
        tools: model, feeds.
        candidate: whose model is looked at.
        arguments: "op": its name.
    """
    if candidate is None:
        raise InternalError("probe op_mse needs a candidate")
    known = tools.kept.setdefault("op_mse", {})
    if known.get("digest") != candidate.digest:
        known.clear()
        known.update(errors=_errors(tools, candidate), digest=candidate.digest)
    error: float | None = known["errors"].get(arguments["op"])
    if error is None:
        raise TrialError(f"op {arguments['op']}: the quantized model has no output of it")
    return error


def _errors(tools: ProbeTools, candidate: Candidate) -> dict[str, float]:
    """Error of every quantized op whose output both models have."""
    quantized = tools.build(candidate)
    outputs = {op.name: next(filter(None, op.outputs), "") for op in tools.summary.ops}
    seen = _seen_by_consumers(quantized)
    pairs = {op: (outputs[op], seen[outputs[op]]) for op in candidate.quantized_ops if outputs[op] in seen}
    feed = tools.first_feeds(1)[0]
    errors: dict[str, float] = {}
    with (
        tools.open_model(with_outputs(tools.prepared, (a for a, _ in pairs.values()))) as before,
        tools.open_model(with_outputs(quantized, (b for _, b in pairs.values()))) as after,
    ):
        for portion in _portions(tools, list(pairs)):
            references = before.run([pairs[op][0] for op in portion], feed)
            found = after.run([pairs[op][1] for op in portion], feed)
            for op, a, b in zip(portion, references, found, strict=True):
                errors[op] = normalised_error(np.asarray(a), np.asarray(b))
    return errors


def _portions(tools: ProbeTools, ops: Sequence[str]) -> Iterable[list[str]]:
    """Ops in groups whose outputs fit; sizes are not known, so a group is small for a large model."""
    n_at_a_time = max(1, PORTION_BYTES // max(1, tools.summary.size_bytes // 8 + 2**20))
    for start in range(0, len(ops), n_at_a_time):
        yield list(ops[start : start + n_at_a_time])


def _seen_by_consumers(model: ModelProto) -> dict[str, str]:
    """Tensor that a node makes to the tensor that stands for it: itself, or what is behind Q and DQ."""
    graph = model.graph
    quantize = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    dequantize = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    made = [name for node in graph.node for name in node.output if name]
    return {name: dequantize.get(quantize.get(name, ""), name) for name in made}


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of a model with these tensors as outputs too; onnxruntime finds their types itself."""
    copy = ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    types = {value.name: value for value in copy.graph.value_info}
    for name in dict.fromkeys(names):
        if name not in present:
            known = types.get(name)
            copy.graph.output.append(known if _has_type(known) else ValueInfoProto(name=name))
    return copy


def _has_type(value: ValueInfoProto | None) -> bool:
    return value is not None and value.type.tensor_type.elem_type != TensorProto.UNDEFINED
