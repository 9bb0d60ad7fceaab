"""Parameters of algorithm configs: their level in the expansion, and the values that they take.

A check takes the parameter's name and one value, and returns the value in our form or raises
InputError. An enum member (`QuantType.QInt8`) is told by its `.name`: no model library is imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.schemes import parse_method
from disttune.config.weight_methods import WEIGHT_METHODS, OptionValue, option_value

Check = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the expansion knows of one parameter.

    Args:
        level: "op" varies in the inner product, "model" in the outer one.
        check: of one value.
        is_list: whether one value is itself a list, so that only a list of lists holds several.
    """

    level: Literal["op", "model"]
    check: Check
    is_list: bool = False


def per_op(check: Check) -> dict[str, Parameter]:
    """Metadata of a dataclass field: a parameter that could differ from op to op."""
    return {"parameter": Parameter("op", check)}


def model_level(check: Check, is_list: bool = False) -> dict[str, Parameter]:
    """Metadata of a dataclass field: a parameter of the whole model."""
    return {"parameter": Parameter("model", check, is_list)}


def one_of(spellings: Mapping[str, str]) -> Check:
    """Check for a name; the mapping leads from every accepted spelling to ours."""

    def check(parameter: str, value: Any) -> str:
        return _spelled(parameter, _name(parameter, value), spellings)

    return check


def method_of(spellings: Mapping[str, str]) -> Check:
    """Check for a threshold method, with or without its parameter ("percentile:99.99")."""

    def check(parameter: str, value: Any) -> str:
        name, colon, number = _name(parameter, value).partition(":")
        method = _spelled(parameter, name, spellings) + colon + number
        parse_method(method)
        return method

    return check


def boolean(parameter: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{parameter} must be True or False; {value!r} was given")
    return value


def always_false(reason: str) -> Check:
    """Check for a parameter that is there for the peers' sake and cannot be True."""

    def check(parameter: str, value: Any) -> bool:
        if boolean(parameter, value):
            raise InputError(f"{parameter} must be False: {reason}")
        return False

    return check


def at_least(minimum: int) -> Check:
    """Check for a whole number with a lower bound."""

    def check(parameter: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InputError(f"{parameter} must be a whole number of at least {minimum}; {value!r} was given")
        return value

    return check


def option_of(method: str, name: str) -> Check:
    """Check for an option of a weight method, by the rules of all who can give it."""
    default = WEIGHT_METHODS[method].options[name]

    def check(parameter: str, value: Any) -> OptionValue:
        return option_value(name, default, value, parameter)

    return check


def names(parameter: str, value: Any) -> tuple[str, ...]:
    """Check for a list of names."""
    listed = tuple(value) if isinstance(value, list | tuple) else value
    if not isinstance(listed, tuple) or not all(isinstance(v, str) and v for v in listed):
        raise InputError(f"{parameter} must be a list of names; {value!r} was given")
    return listed


def names_or_none(parameter: str, value: Any) -> tuple[str, ...] | None:
    """Check for a list of names that may be left to the target."""
    return None if value is None else names(parameter, value)


def _spelled(parameter: str, name: str, spellings: Mapping[str, str]) -> str:
    if name not in spellings:
        raise InputError(unknown_name(parameter, name, spellings))
    return spellings[name]


def _name(parameter: str, value: Any) -> str:
    name: object = getattr(value, "name", value)
    if not isinstance(name, str):
        raise InputError(f"{parameter} must be a name; {value!r} was given")
    return name
