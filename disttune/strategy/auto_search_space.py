"""Configs of Auto Search: counted, ordered and indexed by arithmetic, with what is filtered told by reason.

Pure. The keys of a space fall into groups whose values depend on one another (a Percentile means something
beside calibrate_method Percentile only). A group lists its settings, each without the keys that change
nothing in it; a space is the product of its groups, several spaces are a union. So 589,824 raw combinations
are some 60 settings.

Order: cheapest first by a fixed model of the time and then of the memory of quantizing; ties in the order of
the user's lists. What was measured decides when a trial starts (see `schedule.durations`), not its number.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from disttune.config.auto_search_keys import DEFAULT_ALGORITHM, KEYS, TUNING, FlatSpace, Value
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.strategy.random import shuffled

Setting = tuple[tuple[str, Value], ...]
Config = Mapping[str, Value]
Cost = tuple[int, int]  # hundredths of a plain trial; extra copies of the model
GROUPS = (
    ("calibrate_method", "CalibMovingAverage", "CalibMovingAverageConstant", "Percentile"),
    ("activation_type", "weight_type"),
    ("include_cle",),
    ("include_auto_mp",),
    ("include_sq", "SmoothAlpha"),
    ("ActivationSymmetric",),
    ("WeightSymmetric",),
    ("include_fast_ft", *(key.name for key in KEYS.values() if key.table == TUNING)),
)
FINE_TUNING = len(GROUPS) - 1
TWICE = "a value is given twice"
MIXED_SIGNS = "activation_type int8 with weight_type uint8: onnxruntime does not do that"
WITHOUT_COUNTERPART = {  # keys that make no config of their own here
    "include_auto_mp": "mixed precision comes last, where the best config misses the goal",
    "DataSize": "all calibration samples count",
    "FixedSeed": "nothing is drawn at random",
}
_METHOD_COST = {"MinMax": 0, "NonOverflow": 0, "Percentile": 1, "LayerWisePercentile": 2}


@dataclass(frozen=True)
class ConfigSpace:
    """One search space.

    Args:
        groups: for each of `GROUPS` its settings, distinct.
        raw: combinations of the lists as given.
        removed: of them, by reason.
    """

    groups: tuple[tuple[Setting, ...], ...]
    raw: int
    removed: Mapping[str, int]

    @classmethod
    def of(cls, space: FlatSpace) -> "ConfigSpace":
        """The space of a table from `read_search_space`."""
        groups, raw, kept = [], 1, 1
        sizes = [math.prod(len(space.get(name, (0,))) for name in names) for names in GROUPS]
        removed: Counter[str] = Counter()
        for position, names in enumerate(GROUPS):
            settings, reasons = _settings({name: space[name] for name in names if name in space})
            later = math.prod(sizes[position + 1 :])
            removed.update({reason: kept * n * later for reason, n in reasons.items()})
            groups.append(settings)
            raw *= sizes[position]
            kept *= len(settings)
        return cls(tuple(groups), raw, removed)

    @cached_property
    def size(self) -> int:
        return math.prod(map(len, self.groups))

    def __getitem__(self, index: int) -> Config:
        """The config at a position; the last group varies fastest."""
        chosen = []
        for settings in reversed(self.groups):
            index, position = divmod(index, len(settings))
            chosen.append(settings[position])
        return dict(pair for setting in reversed(chosen) for pair in setting)

    def __contains__(self, config: Config) -> bool:
        pairs = config.items()
        parts = (tuple((k, v) for k, v in pairs if k in names) for names in GROUPS)
        return all(part in held for part, held in zip(parts, self.sets, strict=True))

    def cheapest_first(self) -> Iterator[tuple[Cost, Config]]:
        """Every config with its cost, made when it is asked for."""
        groups = [sorted(settings, key=setting_cost) for settings in self.groups]
        costs = [[setting_cost(s) for s in settings] for settings in groups]

        def cost(point: tuple[int, ...]) -> Cost:
            chosen = [c[i] for c, i in zip(costs, point, strict=True)]
            return sum(c[0] for c in chosen), sum(c[1] for c in chosen)

        start = (0,) * len(groups)
        waiting = [(cost(start), start, 0)] if self.size else []
        while waiting:  # each point has one parent: one step back in its last coordinate that is not 0
            found, point, last = heapq.heappop(waiting)
            yield found, dict(pair for g, i in zip(groups, point, strict=True) for pair in g[i])
            for axis in range(last, len(groups)):
                if point[axis] + 1 < len(groups[axis]):
                    child = (*point[:axis], point[axis] + 1, *point[axis + 1 :])
                    heapq.heappush(waiting, (cost(child), child, axis))

    def without_fine_tuning(self) -> "ConfigSpace":
        """The same space with nothing said of fine-tuning."""
        groups = list(self.groups)
        groups[FINE_TUNING] = ((),)
        return replace(self, groups=tuple(groups))

    def without_keys(self, names: Mapping[str, str]) -> "ConfigSpace":
        """The same space where these keys make no config of their own."""
        groups = (
            tuple(dict.fromkeys(tuple(p for p in s if p[0] not in names) for s in settings))
            for settings in self.groups
        )
        return replace(self, groups=tuple(groups))

    @cached_property
    def sets(self) -> tuple[frozenset[Setting], ...]:
        return tuple(map(frozenset, self.groups))


@dataclass(frozen=True)
class ConfigSpaces:
    """The union of search spaces: a config of several belongs to the first of them.

    Args:
        spaces: in the order given.
    """

    spaces: tuple[ConfigSpace, ...]

    @property
    def raw(self) -> int:
        return sum(space.raw for space in self.spaces)

    @cached_property
    def size(self) -> int:
        """Distinct configs, exact."""
        return _union_size([s.sets for s in self.spaces])

    @property
    def removed(self) -> Counter[str]:
        """What is filtered, by reason; with `size` it adds up to `raw`."""
        reasons: Counter[str] = Counter()
        for space in self.spaces:
            reasons.update(space.removed)
        if shared := sum(space.size for space in self.spaces) - self.size:
            reasons["an earlier search space holds it"] = shared
        return reasons

    @property
    def fine_tuning(self) -> list[Setting]:
        """Settings that fine-tune, the cheapest first."""
        settings = dict.fromkeys(s for space in self.spaces for s in space.groups[FINE_TUNING])
        return sorted((s for s in settings if ("include_fast_ft", True) in s), key=setting_cost)

    def has(self, pair: tuple[str, Value]) -> bool:
        """Whether a config has a key at a value."""
        return any(pair in s for space in self.spaces for settings in space.groups for s in settings)

    def names(self, key: str) -> bool:
        """Whether a config names a key."""
        pairs = (p for space in self.spaces for settings in space.groups for s in settings for p in s)
        return any(key == name for name, _ in pairs)

    def each(self, change: Callable[[ConfigSpace], ConfigSpace]) -> "ConfigSpaces":
        """The union of the changed spaces."""
        return ConfigSpaces(tuple(map(change, self.spaces)))

    def cheapest_first(self) -> Iterator[Config]:
        merged = heapq.merge(*(self._priced(i) for i in range(len(self.spaces))), key=lambda entry: entry[:2])
        return (config for _, _, config in merged)

    def in_random_order(self, seed: int) -> Iterator[Config]:
        """Every config once, in an order that the seed decides."""
        total = sum(space.size for space in self.spaces)
        for position in range(total):
            index, owner = shuffled(position, total, seed), 0
            while index >= self.spaces[owner].size:
                index -= self.spaces[owner].size
                owner += 1
            config = self.spaces[owner][index]
            if self._is_first(config, owner):
                yield config

    def _priced(self, owner: int) -> Iterator[tuple[Cost, int, Config]]:
        for cost, config in self.spaces[owner].cheapest_first():
            if self._is_first(config, owner):
                yield cost, owner, config

    def _is_first(self, config: Config, owner: int) -> bool:
        return not any(config in earlier for earlier in self.spaces[:owner])


def setting_cost(setting: Setting) -> Cost:
    """Expected cost of a setting beyond that of a plain trial: the fixed model."""
    chosen = dict(setting)
    time = _METHOD_COST.get(str(chosen["calibrate_method"]), 3) if "calibrate_method" in chosen else 0
    copies = 0
    for name in ("activation_type", "weight_type"):
        if str(chosen.get(name)).endswith("16"):
            time, copies = time + 20, copies + 1  # not fused: computed in float
    for name in ("include_cle", "include_sq"):
        if chosen.get(name) is True:
            time, copies = time + 50, copies + 1  # another float graph with statistics of its own
    if chosen.get("include_fast_ft") is True:
        time, copies = time + 100 + _n_iterations(chosen), copies + 2
    return time, copies


def _n_iterations(chosen: Mapping[str, Value]) -> int:
    if "NumIterLR" in chosen:
        pair = chosen["NumIterLR"]
        assert isinstance(pair, tuple)
        return int(pair[0])
    method = str(chosen.get("OptimAlgorithm", DEFAULT_ALGORITHM))
    iterations = chosen.get("NumIterations", WEIGHT_METHODS[method].options["iterations"])
    assert not isinstance(iterations, tuple)
    return int(iterations)


def _settings(lists: FlatSpace) -> tuple[tuple[Setting, ...], Counter[str]]:
    """Distinct settings of a group, and how many combinations each reason removes."""
    removed: Counter[str] = Counter()
    once = {name: tuple(dict.fromkeys(values)) for name, values in lists.items()}
    n_raw, n_once = (math.prod(map(len, listed.values())) for listed in (lists, once))
    if n_raw > n_once:
        removed[TWICE] = n_raw - n_once
    settings: dict[Setting, None] = {}
    for values in product(*once.values()):
        chosen = dict(zip(once, values, strict=True))
        if (chosen.get("activation_type"), chosen.get("weight_type")) == ("int8", "uint8"):
            removed[MIXED_SIGNS] += 1
            continue
        inert = _inert(chosen)
        setting = tuple((k, v) for k, v in chosen.items() if k not in inert)
        if setting in settings:
            name = next(name for name in inert if chosen[name] != once[name][0])
            removed[inert[name]] += 1
        settings[setting] = None
    return tuple(settings), removed


def _inert(chosen: Mapping[str, Value]) -> dict[str, str]:
    """Keys that change nothing beside the others, with the reason."""
    inert = {}
    for name in chosen:
        needs = KEYS[name].needs
        if needs and not _has_effect(name, chosen):
            wanted = "true" if needs[1][0] is True else needs[1][0]
            inert[name] = f"{name} without {needs[0]} = {wanted}"
    return inert


def _has_effect(name: str, chosen: Mapping[str, Value]) -> bool:
    needs = KEYS[name].needs
    if needs is None:
        return True
    default = DEFAULT_ALGORITHM if needs[0] == "OptimAlgorithm" else None
    return chosen.get(needs[0], default) in needs[1] and _has_effect(needs[0], chosen)


def _union_size(spaces: Sequence[tuple[frozenset[Setting], ...]]) -> int:
    """Elements of a union of products of sets, by inclusion and exclusion."""
    total = 0
    for i, space in enumerate(spaces):
        shared = {tuple(a & b for a, b in zip(space, earlier, strict=True)) for earlier in spaces[:i]}
        shared = {s for s in shared if all(s)}
        largest = [s for s in shared if not any(s != t and _within(s, t) for t in shared)]
        total += math.prod(map(len, space)) - _union_size(largest)
    return total


def _within(inner: tuple[frozenset[Setting], ...], outer: tuple[frozenset[Setting], ...]) -> bool:
    return all(a <= b for a, b in zip(inner, outer, strict=True))
