"""Weight algorithms beyond thresholds: their names and options, as schemes, jobs and config classes use them.

A weight's `Scheme.method` is a threshold method (`METHODS`: a range, then plain rounding) or one of these.
"""

from dataclasses import dataclass
from types import MappingProxyType

OptionValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class WeightMethod:
    """One weight algorithm.

    Args:
        name: as in `Scheme.method`.
        options: name to default.
        uses_data: whether it needs calibration samples.
        summary: one sentence for the documentation, with the source.
    """

    name: str
    options: MappingProxyType[str, OptionValue]
    uses_data: bool
    summary: str


def _method(name: str, uses_data: bool, summary: str, **options: OptionValue) -> WeightMethod:
    return WeightMethod(name, MappingProxyType(options), uses_data, summary)


_ALL = (
    _method("rtn", False, "Rounds to the nearest code, as onnxruntime does for MatMulNBits.", mse=False),
    _method(
        "gptq", True, "Rounds row by row, the rest makes up for each error (Frantar et al. 2022).",
        percdamp=0.01, block_size=128, act_order=False, mse=False, flip=False, sequential=True,
    ),
    _method(
        "awq", True, "Scales inputs so that salient weights lose less, and clips (Lin et al. 2023).",
        scale_search=True, clip_search=True, sequential=True,
    ),
    _method(
        "hqq", False, "Half-quadratic search of the zero point (Badri and Shaji 2023).", iterations=20,
        float_zero_point=False,
    ),
    _method("k_quant", False, "Weighted least squares of scale and minimum, as llama.cpp's k-quants."),
    _method(
        "adaround", True, "Learns which way each weight is rounded (Nagel et al. 2020).",
        iterations=1000, learning_rate=0.05, reg_param=1.0, beta_start=20.0, beta_end=2.0, warm_start=0.2,
        flip=True,
    ),
    _method(
        "adaquant", True, "Learns weights and bias through rounding (Hubara et al. 2020).",
        iterations=1000, learning_rate=0.02, flip=True,
    ),
    _method("seqmse", True, "Searches each channel's scale for the least output error.", candidates=40),
    _method("flip", True, "Moves single codes while the output error falls (coordinate descent)."),
)  # fmt: skip
WEIGHT_METHODS = MappingProxyType({method.name: method for method in _ALL})
