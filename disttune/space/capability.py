"""What a target runtime can compute: rows of options per op type, read from `targets/<name>.toml`.

A new target is one new file in that folder. The order in the file is the order of preference: first
rows before later ones, first values before later ones, and the very first is the default.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from disttune.config.errors import InputError, InternalError
from disttune.config.nearest import unknown_name
from disttune.config.recipes import RECIPES, RecipeValue
from disttune.config.schemes import (
    FLOAT_DTYPES,
    GRANULARITIES,
    HALF_DTYPES,
    QUANTIZED_DTYPES,
    parse_method,
    parse_scheme_method,
)
from disttune.config.weight_methods import WEIGHT_METHODS

APPROACHES = ("static", "dynamic")
WEIGHT_ONLY = "weight_only"
PLACEMENTS = ("speed", "all")
WEIGHT_ONLY_FORMATS = ("matmulnbits", "qdq")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class TensorOptions:
    """Values that each attribute of a `Scheme` may take, in order.

    Args:
        dtype: integer or float8 types.
        symmetric: each value goes with each dtype.
        method: threshold methods as users write them, e.g. "percentile:99.999".
        granularity: "per_tensor", "per_channel", "per_group".
        group_size: elements of a group, used by "per_group" only.
    """

    dtype: tuple[str, ...]
    symmetric: tuple[bool, ...]
    method: tuple[str, ...] = ("minmax",)
    granularity: tuple[str, ...] = ("per_tensor",)
    group_size: tuple[int | None, ...] = (None,)


NO_CODES = TensorOptions((), ())  # of activations that stay in float


@dataclass(frozen=True, slots=True)
class CapabilityRow:
    """One way in which some op types can be quantized.

    Args:
        op_types: ONNX operator types.
        approach: "static", "dynamic" or "weight_only".
        placement: "speed" when the target computes it on integers, "all" when it stays float inside.
        activation: options of the activations; none with "weight_only".
        weight: options of the constant weight; None for op types that have none.
        needs_weight: whether an op without a constant weight is left out.
        searched: whether it is offered to jobs; otherwise it only says what else the target takes.
        on_request: whether it is offered only where the user's sections name something that it alone has.
    """

    op_types: tuple[str, ...]
    approach: str
    placement: str
    activation: TensorOptions
    weight: TensorOptions | None = None
    needs_weight: bool = False
    searched: bool = True
    on_request: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """Everything a target can compute.

    Args:
        target: name of the target.
        placement: used where the job says nothing.
        float_types: float types that an op can stay in.
        half_types: those of 16 bits that it can be computed in where the job asks for it.
        rows: in order of preference.
        recipes: values of recipes where the job says nothing, as far as they are not the usual ones.
        weights_alone: types of weights that it takes beside float activations.
        one_activation_dtype: whether the activations that an op reads and writes must have one type.
        saturates: whether it computes with this machine's CPU, where sums of 8-bit products may saturate.
        weight_only_format: what ops become whose weight alone has codes, where the job says nothing.
    """

    target: str
    placement: str
    float_types: tuple[str, ...]
    rows: tuple[CapabilityRow, ...]
    recipes: Mapping[str, RecipeValue] = field(default_factory=dict)
    weights_alone: tuple[str, ...] = ()
    one_activation_dtype: bool = False
    saturates: bool = False
    weight_only_format: str = "qdq"
    half_types: tuple[str, ...] = ()

    def methods(self, approach: str) -> frozenset[str]:
        """Names of the threshold methods that some row with this approach has for activations."""
        rows = [row for row in self.rows if row.searched and row.approach == approach]
        return frozenset(parse_method(m)[0] for row in rows for m in row.activation.method)

    def select(
        self, approaches: Sequence[str], placement: str, methods: Collection[str]
    ) -> tuple[CapabilityRow, ...]:
        """Rows that are open to a job.

        Args:
            approaches: in order of preference; all rows of the first come before those of the second.
            placement: "speed" for the rows of that placement only, "all" for every row.
            methods: names of the threshold and weight methods that the engine can do; others are removed.
        """
        rows = [
            row
            for approach in approaches
            for row in self.rows
            if row.searched and row.approach == approach and placement in (row.placement, "all")
        ]
        return tuple(narrowed for row in rows if (narrowed := _with_methods(row, methods)) is not None)


def target_names() -> list[str]:
    """Every target that has a file, sorted."""
    folder = files("disttune.space") / "targets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


@cache
def load_capability(target: str) -> Capability:
    """What the target named in the job file (`model.target`) can compute.

    Raises:
        InputError: there is no such target.
        InternalError: its file is wrong.
    """
    names = target_names()
    if target not in names:
        raise InputError("[model] target: " + unknown_name("target", target, names))
    text = (files("disttune.space") / "targets" / f"{target}.toml").read_text(encoding="utf-8")
    return parse_capability(text, target)


def parse_capability(text: str, target: str) -> Capability:
    """Read and check the text of a target's file.

    Raises:
        InternalError: names file, row and key.
    """
    where = f"space/targets/{target}.toml"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InternalError(f"{where}: {error}") from error
    optional = {"recipes", "weights_alone", "one_activation_dtype", "saturates", "weight_only_format"}
    _check_keys(data, {"placement", "float_types", "rows"}, optional | {"half_types"}, where)
    rows = _list(data["rows"], dict, f"{where}: rows")
    return Capability(
        target,
        _one_of(data["placement"], PLACEMENTS, f"{where}: placement"),
        _list(data["float_types"], str, f"{where}: float_types", FLOAT_DTYPES),
        tuple(_row(row, f"{where}, row {_name_of(row, number)}") for number, row in enumerate(rows, start=1)),
        _recipes(data.get("recipes", {}), f"{where}: recipes"),
        _list(data["weights_alone"], str, f"{where}: weights_alone", QUANTIZED_DTYPES)
        if "weights_alone" in data
        else (),
        _one_of(data.get("one_activation_dtype", False), (False, True), f"{where}: one_activation_dtype"),
        _one_of(data.get("saturates", False), (False, True), f"{where}: saturates"),
        _one_of(data.get("weight_only_format", "qdq"), WEIGHT_ONLY_FORMATS, f"{where}: weight_only_format"),
        _list(data["half_types"], str, f"{where}: half_types", HALF_DTYPES) if "half_types" in data else (),
    )


def _recipes(data: Any, where: str) -> dict[str, RecipeValue]:
    _check_keys(data, set(), set(RECIPES), where)
    return {name: _one_of(value, RECIPES[name].values, f"{where}: {name}") for name, value in data.items()}


def _name_of(row: Mapping[str, Any], number: int) -> str:
    return f"{number} ({row.get('approach', '?')} {', '.join(map(str, row.get('op_types', '?')))})"


def _with_methods(row: CapabilityRow, methods: Collection[str]) -> CapabilityRow | None:
    """The row with methods of the engine only; None when nothing is left. Dynamic ones need none."""
    if row.approach == "dynamic":
        return row
    if row.approach == WEIGHT_ONLY:
        assert row.weight is not None
        left = tuple(m for m in row.weight.method if m.partition(":")[0] in methods)
        return replace(row, weight=replace(row.weight, method=left)) if left else None
    left = tuple(m for m in row.activation.method if parse_method(m)[0] in methods)
    weight = row.weight
    if weight is not None:  # every engine finds weights' ranges by thresholds, not every one their codes
        lacking = WEIGHT_METHODS.keys() - methods
        found = tuple(m for m in weight.method if m.partition(":")[0] not in lacking)
        weight = replace(weight, method=found)
        left = left if found else ()
    return replace(row, activation=replace(row.activation, method=left), weight=weight) if left else None


def _row(data: Any, where: str) -> CapabilityRow:
    optional = {"weight", "needs_weight", "searched", "on_request"}
    alone = isinstance(data, dict) and data.get("approach") == WEIGHT_ONLY
    tensors = {"weight"} if alone else {"activation"}
    _check_keys(data, {"op_types", "approach", "placement", *tensors}, optional, where)
    row = CapabilityRow(
        _list(data["op_types"], str, f"{where}: op_types"),
        _one_of(data["approach"], (*APPROACHES, WEIGHT_ONLY), f"{where}: approach"),
        _one_of(data["placement"], PLACEMENTS, f"{where}: placement"),
        NO_CODES if alone else _tensor(data["activation"], f"{where}: activation"),
        _tensor(data["weight"], f"{where}: weight") if "weight" in data else None,
        _one_of(data.get("needs_weight", False), (False, True), f"{where}: needs_weight"),
        _one_of(data.get("searched", True), (False, True), f"{where}: searched"),
        _one_of(data.get("on_request", False), (False, True), f"{where}: on_request"),
    )
    if row.needs_weight and row.weight is None:
        raise InternalError(f"{where}: needs_weight without a weight")
    return row


def _tensor(data: Any, where: str) -> TensorOptions:
    _check_keys(data, {"dtype", "symmetric"}, {"method", "granularity", "group_size"}, where)
    grouped = "per_group" in data.get("granularity", ())
    if grouped != ("group_size" in data):
        raise InternalError(f'{where}: granularity "per_group" and group_size go together')
    return TensorOptions(
        _list(data["dtype"], str, f"{where}.dtype", QUANTIZED_DTYPES),
        _list(data["symmetric"], bool, f"{where}.symmetric"),
        _methods(data.get("method", ["minmax"]), f"{where}.method"),
        _list(data.get("granularity", ["per_tensor"]), str, f"{where}.granularity", GRANULARITIES),
        _list(data["group_size"], int, f"{where}.group_size") if grouped else (None,),
    )


def _methods(values: Any, where: str) -> tuple[str, ...]:
    methods = _list(values, str, where)
    try:
        for method in methods:
            parse_scheme_method(method)
    except InputError as error:  # ours, not the user's: the file is part of the package
        raise InternalError(f"{where}: {error}") from error
    return methods


def _check_keys(data: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(data, dict):
        raise InternalError(f"{where}: must be a table, found {data!r}")
    for key in data:
        if key not in required | optional:
            raise InternalError(f"{where}: {unknown_name('key', key, required | optional)}")
    if missing := sorted(required - data.keys()):
        raise InternalError(f"{where}: {', '.join(missing)} missing")


def _list(values: Any, kind: type[V], where: str, allowed: Sequence[V] | None = None) -> tuple[V, ...]:
    if not isinstance(values, list) or not values or any(type(v) is not kind for v in values):
        raise InternalError(f"{where}: must be a list of at least one {kind.__name__}, found {values!r}")
    if any(v in values[:i] for i, v in enumerate(values)):
        raise InternalError(f"{where}: names a value twice: {values!r}")
    return tuple(values) if allowed is None else tuple(_one_of(v, allowed, where) for v in values)


def _one_of(value: Any, allowed: Sequence[V], where: str) -> V:
    for valid in allowed:
        if value == valid and type(value) is type(valid):
            return valid
    raise InternalError(f"{where}: {unknown_name('value', value, map(str, allowed))}")
