"""A complete choice of how to quantize a model: immutable, canonical, with a digest.

Pure. Two candidates are equal exactly when their digests are: parts that change nothing were dropped
by the space before a candidate is made, and the default is chosen by rule (case 1 below).
"""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, Self

from disttune.config.errors import InputError
from disttune.config.recipes import RecipeValue
from disttune.config.schemes import FLOAT32, OpConfig


@dataclass(frozen=True)
class Candidate:
    """Recipes, one default `OpConfig`, and the ops that differ from it.

    Make one with `Candidate.of`, which puts it into canonical form:
    1. the default is the most frequent config (the first in op order on a tie);
    2. exceptions are the remaining ops, in op order;
    3. recipes are sorted by name.

    Args:
        ops: names of all ops of the space, in graph order.
        default: config of every op that is not an exception.
        exceptions: (op name, config) pairs.
        recipes: (recipe name, value) pairs, only those that differ from "off".
    """

    ops: tuple[str, ...]
    default: OpConfig
    exceptions: tuple[tuple[str, OpConfig], ...] = ()
    recipes: tuple[tuple[str, RecipeValue], ...] = ()
    _by_op: dict[str, OpConfig] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_op.update(self.exceptions)

    @classmethod
    def of(cls, configs: Mapping[str, OpConfig], recipes: Mapping[str, RecipeValue] | None = None) -> Self:
        """The candidate with these configs, one for each op in graph order."""
        default = _most_frequent(configs.values()) if configs else FLOAT32
        exceptions = tuple((op, c) for op, c in configs.items() if c is not default and c != default)
        return cls(tuple(configs), default, exceptions, tuple(sorted((recipes or {}).items())))

    def config_of(self, op: str) -> OpConfig:
        return self._by_op.get(op, self.default)

    def configs(self) -> dict[str, OpConfig]:
        """Config of every op, in graph order."""
        config_of, default = self._by_op.get, self.default
        return {op: config_of(op, default) for op in self.ops}

    def with_configs(self, changes: Mapping[str, OpConfig]) -> Self:
        """The same candidate with other configs for some ops.

        Raises:
            InputError: one of them is not an op of the space.
        """
        _check_ops(changes, self.ops)
        return self.of({**self.configs(), **changes}, dict(self.recipes))

    def in_float(self, *ops: str) -> Self:
        """The same candidate with these ops left in float32."""
        return self.with_configs(dict.fromkeys(ops, FLOAT32))

    @property
    def quantized_ops(self) -> tuple[str, ...]:
        return tuple(op for op in self.ops if self.config_of(op).quantized)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over the choice (not over the model that comes of it).

        They are of `to_dict` as JSON with sorted keys, put together of parts that many candidates share.
        """
        text = '{"default":' + _text_of(self.default)
        if self.exceptions:
            pairs = (
                f"{json.dumps(op)}:{_text_of(c)}" for op, c in sorted(self.exceptions, key=itemgetter(0))
            )
            text += ',"exceptions":{' + ",".join(pairs) + "}"
        if self.recipes:
            text += ',"recipes":' + _as_text(dict(self.recipes))
        return hashlib.blake2b((text + "}").encode(), digest_size=16).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the list of ops (the space has it)."""
        data: dict[str, Any] = {"default": self.default.to_dict()}
        if self.exceptions:
            known = {id(c): c.to_dict() for c in {id(c): c for _, c in self.exceptions}.values()}
            data["exceptions"] = {op: known[id(c)] for op, c in self.exceptions}
        if self.recipes:
            data["recipes"] = dict(self.recipes)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], ops: Iterable[str]) -> Self:
        """Read what `to_dict` wrote, for a space with these ops.

        Raises:
            InputError: it names an op that is not among them.
        """
        ops = tuple(ops)
        changes = {op: OpConfig.from_dict(c) for op, c in data.get("exceptions", {}).items()}
        _check_ops(changes, ops)
        default = OpConfig.from_dict(data["default"])
        return cls.of({op: changes.get(op, default) for op in ops}, data.get("recipes", {}))

    def __str__(self) -> str:
        kinds = Counter(config for config in self.configs().values() if config.quantized)
        n_float = len(self.ops) - kinds.total()
        parts = [f"{n} x {config}" for config, n in kinds.most_common(2)]
        parts += [f"{len(kinds) - 2} other configs"] if len(kinds) > 2 else []
        parts += [f"{n_float} of {len(self.ops)} ops in float"] if n_float else []
        return "; ".join(parts + [f"{name}={value}" for name, value in self.recipes])


def _most_frequent(configs: Collection[OpConfig]) -> OpConfig:
    """The first on a tie. Counted by identity first: a space has few configs, and hashing them is slow."""
    objects = {id(c): c for c in configs}
    counts: Counter[OpConfig] = Counter()
    for i, n in Counter(map(id, configs)).items():
        counts[objects[i]] += n
    return counts.most_common(1)[0][0]


def _text_of(config: OpConfig) -> str:
    has_options = config.weight is not None and config.weight.options
    return _as_text(config.to_dict()) if has_options else _known_text_of(config)


@lru_cache(maxsize=4096)  # the candidates of a space are made of few configs
def _known_text_of(config: OpConfig) -> str:
    """Not for options: 1, 1.0 and True are equal, and each has a text of its own."""
    return _as_text(config.to_dict())


def _as_text(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _check_ops(names: Iterable[str], ops: tuple[str, ...]) -> None:
    known = frozenset(ops)
    if unknown := [name for name in names if name not in known]:
        near = difflib.get_close_matches(unknown[0], ops, n=1, cutoff=0.4)
        nearest = f' Nearest: "{near[0]}".' if near else ""
        raise InputError(f'no op "{unknown[0]}" among the {len(ops)} ops of the space.{nearest}')
