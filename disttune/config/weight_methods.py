"""Weight algorithms beyond thresholds: their names and options, as schemes, jobs and config classes use them.

A weight's `Scheme.method` is a threshold method (`METHODS`: a range, then plain rounding) or one of these.

Other tools call some options by other names:

| here | AIMET | Quark (FastFinetune) |
| --- | --- | --- |
| method | `apply_adaround`, `apply_seq_mse` | OptimAlgorithm |
| iterations | num_iterations (10,000; 15,000 below 8 bits) | NumIterations (1,000) |
| learning_rate | not settable (0.001) | LearningRate (0.1; adaquant 0.00001, not in codes) |
| reg_param | reg_param (0.01, depends on the layer) | reg_param |
| beta_start, beta_end | beta_range (20, 2) | beta_range |
| warm_start | warm_start (0.2) | warm_start |
| candidates | num_candidates (20) | |

Values outside the ranges of `RULES` are refused wherever an option is given.

Iterations here see all samples at once, so fewer do. Batch sizes, `DropRatio` and `FixedSeed` have no
counterpart: nothing is drawn at random. `DataSize` is the number of calibration samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name

OptionValue = bool | int | float | str
Options = tuple[tuple[str, OptionValue], ...]  # sorted by name, only those other than by default
SCALES = ("auto", "minmax", "seqmse")  # values of option "scale"


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


@dataclass(frozen=True, slots=True)
class Rule:
    """What an option's numbers may be.

    Args:
        text: behind "must be".
        holds: whether a number keeps to it.
    """

    text: str
    holds: Callable[[float], bool]


def _at_least(least: int) -> Rule:
    return Rule(f"a whole number of at least {least}", lambda x: x >= least)


_SHARE = Rule("a number from 0 to 1", lambda x: 0 <= x <= 1)
_POSITIVE = Rule("a number greater than 0", lambda x: x > 0)
RULES = MappingProxyType(
    {
        "accuracy_level": Rule("0 (unset), 1, 2, 3 or 4", lambda x: x in range(5)),
        "percdamp": _SHARE,
        "block_size": _at_least(1),
        "iterations": _at_least(0),
        "candidates": _at_least(1),
        "learning_rate": _POSITIVE,
        "reg_param": Rule("a number of at least 0", lambda x: x >= 0),
        "beta_start": _POSITIVE,
        "beta_end": _POSITIVE,
        "warm_start": _SHARE,
    }
)


def _method(name: str, uses_data: bool, summary: str, **options: OptionValue) -> WeightMethod:
    options["accuracy_level"] = 0  # of MatMulNBits; 0: the job's
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
        iterations=200, learning_rate=0.1, reg_param=1.0, beta_start=20.0, beta_end=2.0, warm_start=0.0,
        scale="auto", flip=True, refine_scale=True, sequential=False,
    ),
    _method(
        "adaquant", True, "Learns weights through the rounding (Hubara et al. 2020).",
        iterations=80, learning_rate=0.05, scale="auto", flip=True, refine_scale=True, bias=False,
        sequential=False,
    ),
    _method(
        "seqmse", True, "Searches each channel's or group's range for the least output error (AIMET).",
        candidates=40, sequential=False,
    ),
    _method("flip", True, "Moves single codes while the output error falls (coordinate descent)."),
)  # fmt: skip
WEIGHT_METHODS = MappingProxyType({method.name: method for method in _ALL})


def parse_weight_method(text: str) -> tuple[str, Options]:
    """Split a weight method as users write it into its name and options.

    Args:
        text: "gptq", "gptq:flip=true" or "gptq:act_order=true,percdamp=0.05".
    Raises:
        InputError: the method or an option is unknown, or a value is of another kind than the default.
    """
    name, _, given = text.partition(":")
    if name not in WEIGHT_METHODS:
        raise InputError(unknown_name("weight method", name, WEIGHT_METHODS))
    pairs = [pair.partition("=") for pair in given.split(",")] if given else []
    return name, weight_options(name, {key.strip(): value.strip() for key, _, value in pairs})


def weight_options(method: str, given: Mapping[str, object]) -> Options:
    """Options of a weight method as a `Scheme` holds them.

    Args:
        method: key of `WEIGHT_METHODS`.
        given: values, or their text.
    Raises:
        InputError: as `parse_weight_method`.
    """
    defaults = WEIGHT_METHODS[method].options
    found: dict[str, OptionValue] = {}
    for name, value in given.items():
        if name not in defaults:
            raise InputError(f'weight method "{method}": {unknown_name("option", name, defaults)}')
        found[name] = option_value(name, defaults[name], value, f'weight method "{method}": option {name}')
    return tuple(sorted((name, value) for name, value in found.items() if value != defaults[name]))


def option_value(name: str, default: OptionValue, value: object, where: str) -> OptionValue:
    """A value of an option, or its text, as the kind that the default is of and within the option's rule.

    Args:
        name: of the option.
        default: of the option.
        value: as it was given.
        where: what the message begins with.
    Raises:
        InputError: it is of another kind, or breaks the rule.
    """
    text = str(value).lower()
    if isinstance(default, str):
        if text in SCALES:
            return text
        raise InputError(f"{where}: {unknown_name('value', text, SCALES)}")
    if isinstance(default, bool):
        if text in ("true", "false"):
            return text == "true"
        raise InputError(f'{where} is true or false; "{value}" was given')
    number = _number(value)
    whole = isinstance(default, int)
    rule = RULES[name]
    if not math.isfinite(number) or (whole and number != int(number)) or not rule.holds(number):
        given = f'"{value}"' if isinstance(value, str) else repr(value)
        raise InputError(f"{where} must be {rule.text}; {given} was given")
    return int(number) if whole else number


def _number(value: object) -> float:
    """NaN for what is none."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(str(value))
    except ValueError:
        return math.nan
