"""Which ops onnxruntime can quantize at each run, and with which weights."""

from itertools import product

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme

# Weights (dtype, symmetric, granularity) that a type can have: what its kernels run, and what onnxruntime's
# quantizer does not ignore without a word (scales per channel of Conv, uint8 of LSTM, int8 of Gather).
_ANY = frozenset(product(("int8", "uint8"), (True, False), ("per_tensor", "per_channel")))
_WEIGHTS = {
    "MatMul": _ANY,
    "Gemm": _ANY,
    "Attention": _ANY,
    "Conv": frozenset(w for w in _ANY if w[2] == "per_tensor"),
    "LSTM": frozenset(w for w in _ANY if w[0] == "int8") - {("int8", False, "per_channel")},
    "Gather": frozenset({("uint8", False, "per_tensor")}),
}


def check_dynamic_form(op: str, op_type: str, config: OpConfig, *, has_constant_weight: bool) -> Scheme:
    """Check that onnxruntime has a dynamic form of an op with its config.

    Args:
        op: its name, for messages.
        has_constant_weight: whether all inputs that hold its weight are constants.
    Returns:
        Scheme of the weight.
    Raises:
        TrialError: it has none.
    """
    weight, activation = config.weight, config.activation
    if op_type not in _WEIGHTS:
        types = ", ".join(sorted(_WEIGHTS))
        raise TrialError(f"op {op}: onnxruntime quantizes no {op_type} dynamically; it does {types}")
    if weight is None or not has_constant_weight:
        raise TrialError(f"op {op}: a {op_type} without a constant weight cannot be quantized dynamically")
    if activation is not None and (
        activation.dtype != "uint8" or activation.symmetric or activation.granularity != "per_tensor"
    ):
        raise TrialError(
            f"op {op}: activations of a dynamic op are uint8 asymmetric per tensor, not {activation}"
        )
    if (weight.dtype, weight.symmetric, weight.granularity) not in _WEIGHTS[op_type]:
        accepted = sorted(str(Scheme(*w)).removesuffix(" minmax") for w in _WEIGHTS[op_type])
        found = f"op {op}: onnxruntime's dynamic {op_type} has no weights {weight}"
        raise TrialError(f"{found}; it has {', '.join(accepted)}")
    return weight
