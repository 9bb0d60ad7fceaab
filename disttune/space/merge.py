"""The user's options for op types and op names, laid over what the target can compute.

Pure. Rules:
1. A key of `op_types` is a regex that must match a whole op type, a key of `op_names` a whole op name
   or a whole name of a node that was fused into the op; an exact name always matches.
2. Sections are laid over one another key by key: `op_types` in the order written, then `op_names` in
   the order written; the later one holds.
3. A list keeps the capability's options that it names, in its own order. A list of dtypes or of
   symmetric also orders the rows; dynamic comes before static only where `approach` says so.
4. Values that the capability lacks are left out, and all of them are told in one warning. Where
   nothing would be left, the capability's options stay.
5. Rows "on request" join the others where a section names something that they alone have; of what no section
   names they bring the values of the op's first row, or where it has none the first of their own.
6. An op whose weight or activation dtype names float types only stays in the first of them. A float type
   that the target lacks, there or as fallback, is an error.
7. `fallback` names the float type that an op is put back to first, before float32. Any op can be held to a
   type of 16 bits, also one that has no row.

Source: INC 2.6, merge of `op_type_dict` and `op_name_dict` into the capability. What
we do differently: the user's order is kept, a choice that only a later row offers is found there,
nothing is ignored in silence, and a key that matches nothing is an error.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.quantization_section import OpOptions
from disttune.config.schemes import FLOAT_DTYPES
from disttune.space.capability import APPROACHES, CapabilityRow
from disttune.space.summary import ModelSummary, OpSummary

ATTRIBUTES = ("dtype", "symmetric", "method", "granularity", "group_size")
PARTS = ("approach", *(f"{tensor}.{name}" for tensor in ("activation", "weight") for name in ATTRIBUTES))
DTYPES = ("activation.dtype", "weight.dtype")
ORDERING = ("approach", "activation.dtype", "activation.symmetric", "weight.dtype", "weight.symmetric")


@dataclass(frozen=True, slots=True)
class Layer:
    """One section of the job file.

    Args:
        key: as the job file writes it, below `quantization`.
        lists: part (one of `PARTS`) to the values listed for it.
        fallback: float type to go back to; None: it says nothing.
    """

    key: str
    lists: Mapping[str, tuple[Any, ...]]
    fallback: str | None = None


@dataclass(slots=True)
class _Fate:
    """What became of one value: whether some op took it, and the op types that lack it."""

    used: bool = False
    lacking: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # op type -> what stays instead


class UserOptions:
    """All sections of a job, matched to the ops of its model.

    Args:
        summary: the model.
        op_types: `quantization.op_types`, key to section.
        op_names: `quantization.op_names`, key to section.
        float_types: of the target.
    Raises:
        InputError: a key is no regular expression or matches no op.
    """

    def __init__(
        self,
        summary: ModelSummary,
        op_types: Mapping[str, OpOptions],
        op_names: Mapping[str, OpOptions],
        float_types: Sequence[str] = ("float32",),
    ) -> None:
        self._layers: dict[str, tuple[Layer, ...]] = {}
        self._fates: dict[tuple[str, str, Any], _Fate] = {}
        self._float_types = tuple(float_types)
        types = list(dict.fromkeys(op.op_type for op in summary.ops))
        for key, section in op_types.items():
            layer = self._layer(f"op_types.{_toml_key(key)}", section)
            matching = _matching(key, types, layer.key)
            if not matching:
                raise InputError(f"[quantization] {layer.key}: {unknown_name('op type', key, types)}")
            self._lay(layer, (op for op in summary.ops if op.op_type in matching))
        names = list(dict.fromkeys(name for op in summary.ops for name in (op.name, *op.sources)))
        for key, section in op_names.items():
            layer = self._layer(f"op_names.{_toml_key(key)}", section)
            matching = _matching(key, names, layer.key)
            if not matching:
                raise InputError(f"[quantization] {layer.key}: {_no_op_named(key, names)}")
            self._lay(layer, (op for op in summary.ops if not matching.isdisjoint((op.name, *op.sources))))

    def layers(self, op: OpSummary) -> tuple[Layer, ...]:
        """Sections that hold for an op, the later over the earlier."""
        return self._layers.get(op.name, ())

    def float_key(self, layers: Sequence[Layer]) -> str | None:
        """Key of the section that leaves an op with these sections in float; None when none does."""
        holds = self._holding(layers)
        part = _only_floats(holds)
        if part is None:
            return None
        for other in holds:
            self._use(holds[other], other)
        return holds[part].key

    def held_in(self, op: OpSummary) -> str | None:
        """Float type that the sections of an op hold it to; None when they let it be quantized."""
        holds = self._holding(self.layers(op))
        part = _only_floats(holds)
        return None if part is None else str(holds[part].lists[part][0])

    def fallbacks(self, op: OpSummary) -> tuple[str, ...]:
        """Rule 7: float types that strategies put an op back to, the first to try first."""
        named = [layer.fallback for layer in self.layers(op) if layer.fallback is not None]
        return tuple(dict.fromkeys((*named[-1:], "float32")))

    def allows(self, op: OpSummary, part: str, value: Any) -> bool:
        """Whether the sections of an op say nothing about a part, or list this value for it."""
        lists = [layer.lists[part] for layer in self.layers(op) if part in layer.lists]
        return not lists or value in lists[-1]

    def narrow(
        self, rows: Sequence[CapabilityRow], layers: Sequence[Layer], op_type: str
    ) -> tuple[CapabilityRow, ...]:
        """What these sections leave of the rows of an op that is to be quantized."""
        holds = self._holding(layers)
        rows = _with_requested(rows, {part: layer.lists[part] for part, layer in holds.items()})
        for part in PARTS:
            if part in holds:
                rows = self._filter(rows, holds[part], part, op_type)
        orders = {part: holds[part].lists[part] for part in ORDERING if part in holds}
        return tuple(sorted(rows, key=lambda row: _place(row, {"approach": APPROACHES, **orders})))

    def warnings(self, where: str) -> tuple[str, ...]:
        """At most one sentence, with every value that was left out.

        Args:
            where: what lacks them, e.g. 'target "ort-cpu" with approach "static"'.
        """
        told = [text for place, fate in self._fates.items() if (text := _told(*place, fate))]
        return (f"[quantization] left out, because {where} lacks it: {'; '.join(told)}.",) if told else ()

    def _layer(self, key: str, section: OpOptions) -> Layer:
        found = ((part, _listed(section, part)) for part in PARTS)
        layer = Layer(key, {part: values for part, values in found if values is not None}, section.fallback)
        for part, values in layer.lists.items():
            for value in values:
                self._fates[key, part, value] = _Fate()
        self._check_float_types(layer, section.fallback)
        return layer

    def _check_float_types(self, layer: Layer, fallback: str | None) -> None:
        """Rule 6: refuse what would change nothing, or something else than asked for."""
        asked = [("fallback", fallback)] if fallback is not None else []
        only_floats = [p for p in DTYPES if all(v in FLOAT_DTYPES for v in layer.lists.get(p, ("",)))]
        asked += [(part, value) for part in only_floats for value in layer.lists[part]]
        for part, value in asked:
            if value not in self._float_types:
                raise InputError(
                    f"[quantization] {layer.key} {part}: the target computes float ops in "
                    f'{" or ".join(self._float_types)}, not in "{value}". Leave it out or take one of these.'
                )

    def _lay(self, layer: Layer, ops: Iterable[OpSummary]) -> None:
        for op in ops:
            self._layers[op.name] = (*self.layers(op), layer)

    def _holding(self, layers: Sequence[Layer]) -> dict[str, Layer]:
        """Rule 2: the section that holds for each part."""
        holds: dict[str, Layer] = {}
        for layer in layers:
            for part in layer.lists:
                if part in holds:
                    self._use(holds[part], part)  # left aside by the user's own later section
                holds[part] = layer
        return holds

    def _use(self, layer: Layer, part: str) -> None:
        for value in layer.lists[part]:
            self._fates[layer.key, part, value].used = True

    def _filter(
        self, rows: Sequence[CapabilityRow], layer: Layer, part: str, op_type: str
    ) -> tuple[CapabilityRow, ...]:
        """Rules 3 and 4 for one part; rows that it says nothing about stay as they are."""
        known = tuple(dict.fromkeys(value for row in rows for value in _row_values(row, part)))
        if not known:
            return tuple(rows)
        taken = [v for v in layer.lists[part] if _offered(v, part, known)]
        for value in layer.lists[part]:
            fate = self._fates[layer.key, part, value]
            if value in taken:
                fate.used = True
            else:
                fate.lacking[op_type] = () if taken else known
        if not taken:
            return tuple(rows)
        kept = (_narrowed(row, part, taken) for row in rows)
        return tuple(row for row in kept if row is not None)


def _only_floats(holds: Mapping[str, Layer]) -> str | None:
    """The part that names float types only."""
    parts = (p for p in DTYPES if p in holds and all(v in FLOAT_DTYPES for v in holds[p].lists[p]))
    return next(parts, None)


def _with_requested(
    rows: Sequence[CapabilityRow], asked: Mapping[str, Sequence[Any]]
) -> tuple[CapabilityRow, ...]:
    """Rule 5; part to the values asked for."""
    usual = [row for row in rows if not row.on_request]
    added = [
        _as_usual(row, usual[:1], asked)
        for row in rows
        if row.on_request and any(_is_news(row, usual, part, values) for part, values in asked.items())
    ]
    return (*usual, *added)


def _is_news(row: CapabilityRow, usual: Sequence[CapabilityRow], part: str, values: Sequence[Any]) -> bool:
    """Whether a row offers one of these values and no usual row does."""
    known = [v for other in usual for v in _row_values(other, part)]
    own = _row_values(row, part)
    return any(_offered(v, part, own) and not _offered(v, part, known) for v in values)


def _as_usual(
    row: CapabilityRow, first: Sequence[CapabilityRow], asked: Mapping[str, Sequence[Any]]
) -> CapabilityRow:
    """A row on request with the values of another one, or its own first ones, for what nobody asked for."""
    for part in (f"weight.{name}" for name in ATTRIBUTES):
        if part not in asked:
            own = _row_values(row, part)
            usual = [v for other in first for v in _row_values(other, part) if v in own]
            row = _narrowed(row, part, usual or own[:1]) or row
    return row


def _matching(key: str, names: Iterable[str], where: str) -> set[str]:
    """Rule 1."""
    exact = {name for name in names if name == key}
    try:
        pattern = re.compile(key)
    except (re.error, OverflowError, RecursionError) as error:
        if exact:
            return exact
        raise InputError(f"[quantization] {where}: not a regular expression: {error}") from None
    return exact | {name for name in names if pattern.fullmatch(name)}


def _no_op_named(key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.4)
    nearest = f" Nearest: {', '.join(map(_quoted, near))}." if near else ""
    return (
        f'no op name "{key}", and as a regex it matches none of the {len(names)} names as a whole.{nearest}'
    )


def _listed(section: OpOptions, part: str) -> tuple[Any, ...] | None:
    tensor, _, attribute = part.rpartition(".")
    holder = getattr(section, tensor) if tensor else section
    values = None if holder is None else getattr(holder, attribute)
    return None if values is None else tuple(dict.fromkeys(values))


def _row_values(row: CapabilityRow, part: str) -> tuple[Any, ...]:
    """What a row offers; nothing for a part that changes nothing there."""
    if part == "approach":
        return (row.approach,)
    tensor, _, attribute = part.partition(".")
    options = row.weight if tensor == "weight" else row.activation
    if options is None or (part == "activation.method" and row.approach == "dynamic"):
        return ()
    if attribute == "group_size" and "per_group" not in options.granularity:
        return ()
    values: tuple[Any, ...] = getattr(options, attribute)
    return values


def _offered(value: Any, part: str, known: Iterable[Any]) -> bool:
    """Whether it is among the known ones; a method counts by its name, its parameter is the user's."""
    if part.endswith(".method"):
        return value.partition(":")[0] in {v.partition(":")[0] for v in known}
    return value in known


def _narrowed(row: CapabilityRow, part: str, taken: Iterable[Any]) -> CapabilityRow | None:
    known = _row_values(row, part)
    if not known:
        return row
    values = tuple(v for v in taken if _offered(v, part, known))
    if not values or part == "approach":
        return row if values else None
    tensor, _, attribute = part.partition(".")
    return replace(row, **{tensor: replace(getattr(row, tensor), **{attribute: values})})


def _place(row: CapabilityRow, orders: Mapping[str, Sequence[Any]]) -> list[int]:
    """Where a row stands among the others of its op: by its first value in each ordering list."""
    firsts = [(order, _row_values(row, part)[:1]) for part, order in orders.items()]
    return [order.index(first[0]) if first and first[0] in order else len(order) for order, first in firsts]


def _told(key: str, part: str, value: Any, fate: _Fate) -> str:
    """One value's piece of the warning; empty for a value that was taken wherever it could be."""
    if fate.used and not fate.lacking:
        return ""
    text = f"{key} {part} {_quoted(value)}"
    if fate.used:
        text += f" for {', '.join(fate.lacking)}"
    stays = dict.fromkeys(v for values in fate.lacking.values() for v in values)
    if stays:
        text += f" ({', '.join(map(_quoted, stays))} stays)"
    elif part in DTYPES and value in FLOAT_DTYPES:
        text += " (beside integer types; strategies put ops back into float by themselves)"
    return text


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'
