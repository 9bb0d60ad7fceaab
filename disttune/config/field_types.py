"""Kinds of value that the keys of a job file hold: paths, functions, names, one value or a list.

A wrong value is told by `mistake`; `job_errors` puts file and key before it. The validation context
holds "folder" (relative paths count from it) and "functions_given" (functions come from a script).
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.size import parse_size

T = TypeVar("T")


class Section(BaseModel):
    """A table of the job file: frozen, no unknown key, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


def mistake(text: str) -> PydanticCustomError:
    """Error for the key that is being checked."""
    return PydanticCustomError("mistake", "{text}", {"text": text})


def section_mistake(text: str) -> PydanticCustomError:
    """Error for the table that holds the key that is being checked."""
    return PydanticCustomError("section_mistake", "{text}", {"text": text})


def mistakes(found: Iterable[tuple[str, Any, str]]) -> ValidationError:
    """Error for several keys at once.

    Args:
        found: key below the one that is being checked, value, text.
    """
    details = [InitErrorDetails(type=mistake(text), loc=(key,), input=value) for key, value, text in found]
    return ValidationError.from_exception_data("job", details)


def functions_given(info: ValidationInfo) -> bool:
    """Whether model code and data come from a script instead of the job file."""
    return bool((info.context or {}).get("functions_given"))


class _OneOrMore:
    """Take one value for a list of one; the JSON Schema offers both."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(_as_tuple, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        listed = handler(schema)
        return {"anyOf": [listed["items"], listed]}


OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), _OneOrMore()]


class OneOf:
    """Take one of some names; the message for another one tells the nearest."""

    def __init__(self, kind: str, names: Iterable[str]):
        self.kind = kind
        self.names = tuple(names)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names)}

    def _check(self, name: str) -> str:
        if name not in self.names:
            raise mistake(unknown_name(self.kind, name, self.names))
        return name


def split_reference(reference: str) -> tuple[str, str]:
    """File and name of "file.py:name".

    Raises:
        InputError: the text is not of that form.
    """
    file, _, name = reference.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise InputError(f'must be of the form "file.py:name"; "{reference}" was given')
    return file, name


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a job file: text, number, bool, list or table, nothing else."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(v) for v in value)
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _in_folder(path: str, info: ValidationInfo) -> Path:
    if not path:
        raise mistake("must not be empty")
    if "\0" in path:
        raise mistake("must not hold a null character")
    return Path((info.context or {}).get("folder", ""), path)


def _resolved_path(value: Any, info: ValidationInfo) -> Any:
    return _in_folder(os.fspath(value), info) if isinstance(value, str | Path) else value


def _resolved_reference(value: str, info: ValidationInfo) -> str:
    try:
        file, name = split_reference(value)
    except InputError as error:
        raise mistake(str(error)) from None
    return f"{_in_folder(file, info)}:{name}"


def _resolved_if_file(value: str, info: ValidationInfo) -> str:
    return _resolved_reference(value, info) if ".py" in value else value


def _n_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except InputError as error:
        raise mistake(str(error)) from None


def _plain_table(value: dict[str, Any]) -> dict[str, Any]:
    bad = [(key, v, "must be text, a finite number, a bool, a list or a table") for key, v in value.items()]
    bad = [entry for entry in bad if not is_plain(entry[1])]
    if bad:
        raise mistakes(bad)
    return value


Text = Annotated[str, Field(min_length=1)]
JobPath = Annotated[Path, BeforeValidator(_resolved_path)]
FunctionReference = Annotated[str, AfterValidator(_resolved_reference)]
NameOrReference = Annotated[str, Field(min_length=1), AfterValidator(_resolved_if_file)]
PlainTable = Annotated[dict[str, Any], AfterValidator(_plain_table)]


class _SizeSchema:
    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}


SizeBytes = Annotated[int, Field(ge=1), BeforeValidator(_n_bytes), _SizeSchema()]
