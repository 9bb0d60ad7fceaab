"""What all algorithm configs share: parameters with one value or a list, expansion, reading and writing.

Pure. Order of the expansion, as in ONNX neural-compressor: the product over the parameters of the
whole model outside, the product over those of the op inside, and in both the first named parameter
varies fastest. With per-op parameters a = [1, 2], b = [3, 4] and a model-level m = [5, 6]:

    ====== = = = = = = = =
    config 0 1 2 3 4 5 6 7
    ====== = = = = = = = =
    a      1 2 1 2 1 2 1 2
    b      3 3 4 4 3 3 4 4
    m      5 5 5 5 6 6 6 6
    ====== = = = = = = = =
"""

import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from disttune.config.algorithms.parameter import Parameter
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.recipes import RecipeValue
from disttune.config.schemes import Approach, OpConfig
from disttune.config.toml_text import toml_text


@dataclass(frozen=True)
class AlgorithmConfig:
    """Parameters of one algorithm; subclasses are frozen dataclasses with `per_op` and `model_level` fields.

    A list stands for several configs, which `expand` makes; it is kept as a tuple.

    Args:
        local: configs of single ops or op types, by name; see `set_local`.
    Raises:
        InputError: a value is wrong, a list is empty; one line for each mistake.
    """

    algorithm: ClassVar[str]
    approach: ClassVar[Approach]

    local: tuple[tuple[str, "AlgorithmConfig"], ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        mistakes = [f"{type(self).__name__}: {text}" for text in _local_mistakes(self.local)]
        for name, parameter in self._parameters().items():
            try:
                object.__setattr__(self, name, _checked(name, parameter, getattr(self, name)))
            except InputError as error:
                mistakes.append(f"{type(self).__name__}: {error}")
        if mistakes:
            raise InputError("\n".join(mistakes))

    def expand(self) -> list[Self]:
        """The single-valued configs, in the order that the head of this file shows."""
        return [
            replace(self, **model_values, **op_values)
            for model_values in self._product("model")
            for op_values in self._product("op")
        ]

    def set_local(self, op: str, config: "AlgorithmConfig") -> Self:
        """Let some ops have another config; changes this one, as the peers do, and returns it.

        Args:
            op: an op type, or a regular expression that a whole node name matches. Names go before types,
                later ones before earlier ones.
            config: without lists and local configs of its own.
        Raises:
            InputError: the config holds lists, or `op` is no regular expression.
        """
        local = (*((name, c) for name, c in self.local if name != op), (op, config))
        if mistakes := _local_mistakes(local):
            raise InputError("\n".join(f"{type(self).__name__}: {text}" for text in mistakes))
        object.__setattr__(self, "local", local)
        return self

    def __add__(self, other: "AlgorithmConfig") -> "AlgorithmConfig":
        """One config for both: of one class, this one with the local configs of both; else a composed one."""
        from disttune.config.algorithms.composable import ComposableConfig

        if type(self) is type(other) and not isinstance(self, ComposableConfig):
            merged = replace(self)
            for op, config in other.local:
                merged.set_local(op, config)
            return merged
        return ComposableConfig((*_parts(self), *_parts(other)))

    @property
    def approaches(self) -> frozenset[str]:
        """Approaches of what it asks for."""
        return frozenset({self.approach, *(config.approach for _, config in self.local)})

    @property
    def needs_data(self) -> bool:
        """Whether it needs calibration samples."""
        return self.approach != "dynamic" or any(config.needs_data for _, config in self.local)

    def recipes(self) -> dict[str, RecipeValue]:
        """What a single-valued config asks of the whole model, by name of the recipe."""
        return {}

    @property
    def n_configs(self) -> int:
        """Number of configs that `expand` makes."""
        return math.prod(len(self._values(name)) for name in self._parameters())

    def op_config(self) -> OpConfig:
        """How ops are computed that this single-valued config quantizes.

        Ops without a constant weight take the activation scheme alone.

        Raises:
            InputError: some parameter holds several values.
        """
        if several := [n for n, p in self._parameters().items() if _is_several(p, getattr(self, n))]:
            raise InputError(
                f"{type(self).__name__} holds lists ({', '.join(several)}) and stands for "
                f"{self.n_configs} configs; take one of expand()"
            )
        return self._op_config()

    def _op_config(self) -> OpConfig:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the algorithm's name; parameters at None are left out."""
        values = {name: getattr(self, name) for name in self._parameters()}
        data = {"algorithm": self.algorithm} | {k: _as_lists(v) for k, v in values.items() if v is not None}
        return data | ({"local": {op: c.to_dict() for op, c in self.local}} if self.local else {})

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_toml(self) -> str:
        """`to_dict` as TOML."""
        return toml_text(self.to_dict())

    @classmethod
    def from_json_string(cls, text: str) -> Self:
        """Read what `to_json_string` wrote; raises InputError as `from_dict`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{cls.__name__}: no JSON: {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read what `to_toml` wrote; raises InputError as `from_dict`."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{cls.__name__}: no TOML: {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, or parameters by name.

        Raises:
            InputError: a parameter is unknown or its value wrong, or the data are of another algorithm.
        """
        from disttune.config.algorithms.registry import config_from_dict

        if not isinstance(data, Mapping):
            raise InputError(f"{cls.__name__}: a table of parameters is needed; {data!r} was given")
        values = dict(data)
        local = values.pop("local", {})
        if not isinstance(local, Mapping):
            raise InputError(f"{cls.__name__}: local is a table of configs by op; {local!r} was given")
        if (algorithm := values.pop("algorithm", cls.algorithm)) != cls.algorithm:
            raise InputError(
                f'{cls.__name__} is of algorithm "{cls.algorithm}"; the data are of "{algorithm}"'
            )
        known = cls._parameters()
        if unknown := [unknown_name("parameter", name, known) for name in values if name not in known]:
            raise InputError("\n".join(f"{cls.__name__}: {text}" for text in unknown))
        return cls(**values, local=tuple((op, config_from_dict(config)) for op, config in local.items()))

    @classmethod
    def _parameters(cls) -> dict[str, Parameter]:
        return {f.name: f.metadata["parameter"] for f in fields(cls) if "parameter" in f.metadata}

    def _values(self, name: str) -> tuple[Any, ...]:
        value = getattr(self, name)
        return tuple(value) if _is_several(self._parameters()[name], value) else (value,)

    def _product(self, level: Literal["op", "model"]) -> list[dict[str, Any]]:
        slowest_first = [n for n, p in reversed(self._parameters().items()) if p.level == level]
        rows = itertools.product(*(self._values(n) for n in slowest_first))
        return [dict(zip(slowest_first, row, strict=True)) for row in rows]


def _local_mistakes(local: Sequence[tuple[str, AlgorithmConfig]]) -> list[str]:
    found = []
    for op, config in local:
        if not isinstance(config, AlgorithmConfig):
            found.append(f'local config of "{op}" must be a config such as RTNConfig(); {config!r} was given')
        elif config.n_configs > 1 or config.local:
            found.append(f'local config of "{op}" must hold single values, and no local configs itself')
        try:
            re.compile(op)
        except (re.error, OverflowError, RecursionError) as error:
            found.append(f'"{op}" is no regular expression: {error}')
    return found


def _parts(config: AlgorithmConfig) -> tuple[AlgorithmConfig, ...]:
    return getattr(config, "configs", (config,))


def _checked(name: str, parameter: Parameter, value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if not _is_several(parameter, value):
        return parameter.check(name, value)
    if not value:
        raise InputError(f"{name} must hold at least one value; an empty list was given")
    return tuple(parameter.check(name, v) for v in value)


def _is_several(parameter: Parameter, value: Any) -> bool:
    if not isinstance(value, list | tuple | range):
        return False
    return not parameter.is_list or any(v is None or isinstance(v, list | tuple) for v in value)


def _as_lists(value: Any) -> Any:
    return [_as_lists(v) for v in value] if isinstance(value, tuple) else value
