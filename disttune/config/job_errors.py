"""What is wrong with a job, one line for each mistake: where, what was found, what is valid or nearest.

Texts are made from the rule that failed. A key that `--set` gave is named by the setting.
"""

import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from disttune.config.job import Job
from disttune.config.nearest import unknown_name
from disttune.config.overrides import Override
from disttune.config.toml_text import shown, toml_key

Location = tuple[int | str, ...]

SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Job.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
_RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "is_instance_of": "must be a path in quotes",  # the only class that values are checked for
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
    "string_too_short": "must not be empty",
    "string_type": "must be text in quotes",
    "too_short": "must hold at least one value",
    "tuple_type": "must be a list",
}


def mistake_lines(
    error: ValidationError, where: str, overrides: Iterable[Override], given: Mapping[str, Any]
) -> list[str]:
    """The mistakes that validation found, in the order of the sections.

    Args:
        error: what validating the job raised.
        where: name of the job file, as the user gave it.
        overrides: settings that were laid over it.
        given: the job before they were.
    """
    last_first = list(overrides)[::-1]
    lines = []
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and details["input"]:  # pydantic counts the valid ones only
            continue
        at = details["loc"][:-1] if details["type"] == "section_mistake" else details["loc"]
        source = next((o for o in last_first if _came_from(o, at, given)), None)
        is_entry = details["type"] in ("section_mistake", "model_type")
        place = f"--set {source.text}" if source else _place(where, at, is_entry)
        lines.append(f"{place}: {_text(details)}")
    return list(dict.fromkeys(lines))


def _came_from(override: Override, at: Location, given: Mapping[str, Any]) -> bool:
    n = min(len(override.path), len(at))
    if override.path[:n] != at[:n]:
        return False
    return len(at) >= len(override.path) or not _holds(given, at)


def _holds(data: Any, at: Location) -> bool:
    for segment in at:
        if not isinstance(data, Mapping) or segment not in data:
            return False
        data = data[segment]
    return True


def _place(where: str, at: Location, is_entry: bool) -> str:
    if not at:
        return where
    if at[0] not in SECTIONS:
        return f"{where}, {'.'.join(toml_key(str(s)) for s in at)}"
    key = ""
    for n, segment in enumerate(at[1:], start=1):
        if isinstance(segment, str):
            separator = "" if not key else "." if isinstance(at[n - 1], str) else ", "
            key += separator + toml_key(segment)
        elif n < len(at) - 1 or is_entry:  # of a list of plain values the value tells which
            key += f" entry {segment + 1}"
    return f"{where}, [{at[0]}] {key}".rstrip()


def _text(details: ErrorDetails) -> str:
    kind, at, found = details["type"], details["loc"], details["input"]
    context = details.get("ctx", {})
    if kind in ("mistake", "section_mistake"):
        return str(context["text"])
    if kind == "extra_forbidden":
        return _unknown_key(at, found)
    if kind == "missing":
        return f"is missing. {_description(at)}"
    if len(at) == 1 and at[0] in SECTIONS:
        example = next(iter(SECTIONS[str(at[0])].model_fields))
        return f"is a section: write [{at[0]}] with keys such as {example} below it; {shown(found)} was given"
    if kind == "literal_error":
        return _not_one_of(str(context["expected"]), at, found)
    rule = _RULES.get(kind)
    text = rule.format(**context) if rule else details["msg"][:1].lower() + details["msg"][1:]
    return f"{text}; {shown(found)} was given"


def _unknown_key(at: Location, found: Any) -> str:
    name = str(at[-1])
    owners = [section for section, cls in SECTIONS.items() if name in cls.model_fields and len(at) <= 2]
    if owners:
        return f'no key "{name}" here; it belongs into [{"] or [".join(owners)}]'
    cls = _class_at(at[:-1])
    return unknown_name(
        "section" if len(at) == 1 and isinstance(found, dict) else "key", name, cls.model_fields
    )


def _not_one_of(expected: str, at: Location, found: Any) -> str:
    names = re.findall(r"'([^']*)'", expected)
    if isinstance(found, str) and names and not re.search(r"\d", expected):
        return unknown_name(str([s for s in at if isinstance(s, str)][-1]), found, names)
    return f"must be {expected.replace(chr(39), chr(34))}; {shown(found)} was given"


def _description(at: Location) -> str:
    return _class_at(at[:-1]).model_fields[str(at[-1])].description or ""


def _class_at(at: Location) -> type[BaseModel]:
    annotation: Any = Job
    for segment in at:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = _bare(annotation.model_fields[str(segment)].annotation)
        else:  # a table by name or a list: its values come last (before the ... of a tuple)
            annotation = _bare([a for a in get_args(annotation) if a is not ...][-1])
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def _bare(annotation: Any) -> Any:
    """The annotation without `| None` and `Annotated`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(a for a in get_args(annotation) if a is not type(None)))
    return annotation
