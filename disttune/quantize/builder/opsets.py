"""The operator set that a candidate's types need, and the domain of its Q and DQ nodes.

1. float8 needs opset 19, 16-bit types and groups need opset 21: an older model is raised by onnx's
   converter, if that succeeds and the raised model gives the same outputs.
2. 4-bit types, and 16-bit ones in a model that cannot be raised, are left to Q and DQ of com.microsoft, as
   onnxruntime's quantizer does: its CPU provider has the kernels for them at any opset.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from onnx import ModelProto, helper

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT8_DTYPES, Scheme
from disttune.quantize.builder.float_model import (
    FloatModel,
    read_float_model,
)
from disttune.quantize.builder.writer import MS_DOMAIN, add_tensors
from disttune.quantize.equivalence import plain_outputs
from disttune.quantize.opset_conversion import in_opset
from disttune.quantize.preprocess import first_line
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.quantize.tensor_memory import is_large, without_large_tensors
from disttune.quantize.topology import default_opset
from disttune.quantize.weights import FOUR_BIT_DTYPES

_FLOAT8_OPSET = 19
_FULL_OPSET = 21
_TOLERANCE = 1e-3  # of the largest output
Feed = Mapping[str, np.ndarray]


class Opsets:
    """One prepared model in the opsets that candidates need.

    Args:
        prepared: it is kept and must not change any more.
        feeds: the first one is what a raised model is tried with.
    """

    def __init__(self, prepared: ModelProto, feeds: Sequence[Feed]):
        self._prepared = prepared
        self._feeds = feeds[:1]
        self._models = {default_opset(prepared): read_float_model(prepared)}
        self._causes: dict[int, str] = {}

    @property
    def lowest(self) -> FloatModel:
        """The prepared model as it is."""
        return next(iter(self._models.values()))

    def for_schemes(self, schemes: Collection[Scheme]) -> tuple[FloatModel, str]:
        """The float model to build from, and the domain of Q and DQ ("" is the default one).

        Raises:
            TrialError: float8 or groups are asked for and the model cannot be raised.
        """
        dtypes = {scheme.dtype for scheme in schemes}
        if any(scheme.granularity == "per_group" for scheme in schemes):
            return self._raised(_FULL_OPSET, "groups"), ""
        if not dtypes.isdisjoint(("int16", "uint16")):
            try:
                return self._raised(_FULL_OPSET, "16-bit types"), ""
            except TrialError:
                return self.lowest, MS_DOMAIN
        if not dtypes.isdisjoint(FLOAT8_DTYPES):
            return self._raised(_FLOAT8_OPSET, "float8"), ""
        has_4_bits = not dtypes.isdisjoint(FOUR_BIT_DTYPES)
        return self.lowest, MS_DOMAIN if has_4_bits and self.lowest.opset < _FULL_OPSET else ""

    def _raised(self, opset: int, reason: str) -> FloatModel:
        if self.lowest.opset >= opset:
            return self.lowest
        if opset not in self._models and opset not in self._causes:
            try:
                with quiet_onnxruntime():
                    self._models[opset] = _convert(self._prepared, opset, self._feeds)
            except Exception as error:  # whatever onnx's version converter or onnxruntime raises
                self._causes[opset] = first_line(error)
        if opset in self._causes:
            raise TrialError(
                f"{reason} need opset {opset}, the model has {self.lowest.opset} and cannot be raised: "
                f"{self._causes[opset]}. Export it with opset {opset}."
            )
        return self._models[opset]


def _convert(prepared: ModelProto, opset: int, feeds: Sequence[Feed]) -> FloatModel:
    """The prepared model in a later opset; its large tensors are those of the prepared one.

    Raises:
        ValueError: the raised model does not give the same outputs.
        Exception: whatever onnx's version converter or onnxruntime raises.
    """
    raised = in_opset(without_large_tensors(prepared), opset)
    raised.ir_version = max(
        raised.ir_version, helper.find_min_ir_version_for(list(raised.opset_import), ignore_unknown=True)
    )
    model = read_float_model(raised, {t.name: t for t in prepared.graph.initializer if is_large(t)})
    whole = ModelProto()
    whole.CopyFrom(raised)
    del whole.graph.initializer[:]
    add_tensors(whole, model.constants)
    for one, other in zip(plain_outputs(prepared, feeds), plain_outputs(whole, feeds), strict=True):
        for before, after in zip(one, other, strict=True):
            if not np.allclose(before, after, rtol=0, atol=_TOLERANCE * float(np.abs(before).max(initial=0))):
                raise ValueError("raised, it gives other outputs")
    return model
