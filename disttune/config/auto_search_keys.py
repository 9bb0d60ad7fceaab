"""Keys of an Auto Search space, as Quark's users write it: names, values, what a key is good for.

A search space is a table. Beside keys of the whole model it has `extra_options`, and that has `FastFinetune`;
every value may be a list of values to try. Keys are told apart by name alone, so a space is read into one
flat table: key to values.

`NumIterLR` is a list of pairs (NumIterations, LearningRate) that go together.
Source: AMD Quark, ONNX, Auto Search.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name

Value = bool | int | float | str | tuple[float, float]
FlatSpace = Mapping[str, tuple[Value, ...]]
METHOD_NAMES = ("MinMSE", "NonOverflow", "MinMax", "Entropy", "Percentile", "LayerWisePercentile")
ACTIVATION_TYPES = ("int8", "uint8", "int16", "uint16")
WEIGHT_TYPES = (*ACTIVATION_TYPES, "int4", "uint4")
WHERE = "[tuning] strategy_kwargs, strategy auto_search"
EXTRA, TUNING = "extra_options", "FastFinetune"
DEFAULT_ALGORITHM = "adaround"  # where fine-tuning is on and a space names none


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a search space.

    Args:
        name: as users write it.
        table: that it stands in: "", `EXTRA` or `TUNING`.
        read: a value in the one form that is compared; raises ValueError with what is valid.
        needs: a key and the values of it without which this one changes nothing.
    """

    name: str
    table: str
    read: Callable[[Any], Value]
    needs: tuple[str, tuple[Value, ...]] | None = None


def _one_of(*names: str) -> Callable[[Any], Value]:
    known = {name.lower(): name for name in names}

    def read(value: Any) -> Value:
        text = str(value).rpartition(".")[2].lower()  # "QuantType.QInt8" and "QInt8" are "int8"
        found = known.get(text) or known.get(text.removeprefix("q"))
        if not isinstance(value, str) or found is None:
            raise ValueError(unknown_name("value", str(value), names))
        return found

    return read


def _boolean(value: Any) -> Value:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false; {value!r} was given")
    return value


def _number(above: float, most: float = math.inf, whole: bool = False) -> Callable[[Any], Value]:
    kind = "a whole number" if whole else "a number"
    limits = f"more than {above:g}" + (f" and at most {most:g}" if math.isfinite(most) else "")

    def read(value: Any) -> Value:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not above < value <= most or (whole and value != int(value)):
            raise ValueError(f"must be {kind} of {limits}; {value!r} was given")
        return int(value) if whole else float(value)

    return read


def _pair(first: Callable[[Any], Value], second: Callable[[Any], Value]) -> Callable[[Any], Value]:
    def read(value: Any) -> Value:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError(f"must be a pair; {value!r} was given")
        return first(value[0]), second(value[1])  # type: ignore[return-value]

    return read


_ITERATIONS, _RATE = _number(0, whole=True), _number(0)
_FINE = ("include_fast_ft", (True,))
_ROUND = ("OptimAlgorithm", ("adaround",))
_ALL = (
    Key("calibrate_method", "", _one_of(*METHOD_NAMES)),
    Key("activation_type", "", _one_of(*ACTIVATION_TYPES)),
    Key("weight_type", "", _one_of(*WEIGHT_TYPES)),
    Key("include_cle", "", _boolean),
    Key("include_auto_mp", "", _boolean),
    Key("include_fast_ft", "", _boolean),
    Key("include_sq", "", _boolean),
    Key("ActivationSymmetric", EXTRA, _boolean),
    Key("WeightSymmetric", EXTRA, _boolean),
    Key("CalibMovingAverage", EXTRA, _boolean, ("calibrate_method", ("MinMax",))),
    Key("CalibMovingAverageConstant", EXTRA, _number(0, 1), ("CalibMovingAverage", (True,))),
    Key("Percentile", EXTRA, _number(0, 100), ("calibrate_method", ("Percentile",))),
    Key("SmoothAlpha", EXTRA, _number(0, 1), ("include_sq", (True,))),
    Key("OptimAlgorithm", TUNING, _one_of("adaround", "adaquant"), _FINE),
    Key("NumIterations", TUNING, _ITERATIONS, _FINE),
    Key("LearningRate", TUNING, _RATE, _FINE),
    Key("NumIterLR", TUNING, _pair(_ITERATIONS, _RATE), _FINE),
    Key("DataSize", TUNING, _number(0, whole=True), _FINE),
    Key("FixedSeed", TUNING, _number(-1, whole=True), _FINE),
    Key("RegParam", TUNING, _number(0), _ROUND),
    Key("BetaRange", TUNING, _pair(_number(0), _number(0)), _ROUND),
    Key("WarmStart", TUNING, _number(-1, 1), _ROUND),
)
KEYS = MappingProxyType({key.name: key for key in _ALL})
_PAIRS = ("NumIterLR", "BetaRange")

DEFAULT_SPACE: Mapping[str, Any] = MappingProxyType({
    "calibrate_method": [*METHOD_NAMES],
    "activation_type": ["int8", "int16"],
    "weight_type": ["int8", "int16"],
    "include_cle": [True, False],
    "include_auto_mp": [False, True],
    "include_fast_ft": [False, True],
    "include_sq": [False, True],
    "extra_options": {
        "ActivationSymmetric": [True, False],
        "WeightSymmetric": [True, False],
        "CalibMovingAverage": [True, False],
        "CalibMovingAverageConstant": [0.01, 0.001],
        "Percentile": [99.99, 99.999],
        "SmoothAlpha": [0.5, 0.6],
        "FastFinetune": {
            "DataSize": [500, 1000],
            "NumIterations": [100, 1000],
            "OptimAlgorithm": ["adaround", "adaquant"],
            "LearningRate": [0.01, 0.001, 0.0001],
            "FixedSeed": [42],
        },
    },
})  # fmt: skip


def read_search_space(given: Mapping[str, Any], where: str) -> FlatSpace:
    """A search space as one flat table, in the order of `KEYS`.

    Args:
        given: as a user writes it; a value that is no list stands for a list of one.
        where: named at the head of a mistake.
    Raises:
        InputError: a key or value is wrong; a line for each.
    """
    mistakes: list[str] = []
    flat = dict(_flattened(given, "", where, mistakes))
    if "NumIterLR" in flat and (both := [k for k in ("NumIterations", "LearningRate") if k in flat]):
        mistakes.append(f"{where}: NumIterLR gives {' and '.join(both)} in pairs; keep one of them")
    if mistakes:
        raise InputError("\n".join(mistakes))
    return {name: flat[name] for name in KEYS if name in flat}


def _flattened(
    given: Any, table: str, where: str, mistakes: list[str]
) -> list[tuple[str, tuple[Value, ...]]]:
    if not isinstance(given, Mapping):
        mistakes.append(f"{where}: must be a table; {given!r} was given")
        return []
    below = {"": EXTRA, EXTRA: TUNING}.get(table)
    found = []
    for name, value in given.items():
        if below is not None and name == below:
            found += _flattened(value, below, f"{where}.{below}", mistakes)
        elif name not in KEYS or KEYS[name].table != table:
            valid = [key.name for key in _ALL if key.table == table] + ([below] if below else [])
            elsewhere = f' It belongs into "{KEYS[name].table or "search_space"}".' if name in KEYS else ""
            mistakes.append(f"{where}: {unknown_name('key', str(name), valid)}{elsewhere}")
        else:
            found.append((name, _values(KEYS[name], value, f"{where}.{name}", mistakes)))
    return found


def _values(key: Key, given: Any, where: str, mistakes: list[str]) -> tuple[Value, ...]:
    listed = isinstance(given, list | tuple)
    if listed and key.name in _PAIRS:
        listed = not given or isinstance(given[0], list | tuple)  # one pair stands for a list of it
    values = []
    for value in given if listed else [given]:
        try:
            values.append(key.read(value))
        except ValueError as error:
            mistakes.append(f"{where}: {error}")
    if listed and not given:
        mistakes.append(f"{where}: holds no value; give at least one, or leave the key out")
    return tuple(values)
