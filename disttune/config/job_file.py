"""Job files: TOML to a `Job` and back, with every mistake of a file told at once; the JSON Schema."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from disttune.config.auto_search_job import with_auto_search_sections
from disttune.config.errors import JobFileError
from disttune.config.job import Job
from disttune.config.job_errors import SECTIONS, mistake_lines
from disttune.config.overrides import Override, apply_overrides, parse_override
from disttune.config.toml_text import toml_text


def load_job(path: Path, overrides: Sequence[str] = (), functions_given: bool = False) -> Job:
    """Read a job file.

    Args:
        path: of the TOML file; relative paths in it count from its folder.
        overrides: settings laid over it, each "section.key=value".
        functions_given: as in `job_from_dict`.
    Raises:
        JobFileError: the file cannot be read, or a key or value is wrong; one line for each mistake.
    """
    data = _parse_toml(_read_text(path), str(path))
    return job_from_dict(data, path.absolute().parent, str(path), overrides, functions_given)


def job_from_dict(
    data: Mapping[str, Any],
    folder: Path,
    where: str = "tune_config",
    overrides: Sequence[str] = (),
    functions_given: bool = False,
) -> Job:
    """The job that a dictionary of sections stands for.

    Args:
        data: what a job file would hold; tuples, paths and numpy values are taken as well.
        folder: relative paths count from it.
        where: named at the head of each mistake.
        overrides: settings laid over it, each "section.key=value".
        functions_given: whether evaluation and calibration data come from a script, so that their
            sections may be empty.
    Raises:
        JobFileError: a key or value is wrong; one line for each mistake.
    """
    lines: list[str] = []
    settings: list[Override] = []
    for text in overrides:
        try:
            settings.append(parse_override(text))
        except JobFileError as error:
            lines.append(str(error))
    given = _plain(data)
    merged = _plain(data)
    lines += apply_overrides(merged, settings)
    lines += with_auto_search_sections(merged, where)
    if "folder" not in merged or isinstance(merged["folder"], str):
        folder = folder.absolute() / merged.get("folder", "")
        merged["folder"] = str(folder)
    if not _is_unicode(merged):
        raise _error([*lines, f"{where}: holds text or a path that is not valid Unicode; rename it"])
    context = {"folder": folder, "functions_given": functions_given}
    try:
        job = Job.model_validate({name: {} for name in SECTIONS} | merged, context=context)
    except ValidationError as error:
        lines += mistake_lines(error, where, settings, given)
    if lines:
        raise _error(lines)
    return job


def dump_job(job: Job) -> str:
    """TOML text of a job with every key that has a value; reading it back gives an equal job."""
    return toml_text(job.to_dict())


def json_schema() -> dict[str, Any]:
    """JSON Schema of a job file, for editors."""
    schema = Job.model_json_schema(schema_generator=_EditorSchema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "disttune job file"}


class _EditorSchema(GenerateJsonSchema):
    """Without null, which TOML cannot say, and without titles that repeat the key."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        return {k: v for k, v in made.items() if k != "default" or v is not None}

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _error(lines: Sequence[str]) -> JobFileError:
    """One error for all mistakes; line breaks and control characters that they quote are escaped."""
    printable = ("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)
    return JobFileError("\n".join(printable))


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise JobFileError(f"{path}: no such file.{_job_files_beside(path)}") from None
    except IsADirectoryError:
        raise JobFileError(
            f"{path}: is a folder; give the job file in it.{_job_files_beside(path / '_')}"
        ) from None
    except OSError as error:
        raise JobFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise JobFileError(f"{str(path)!r}: is not a path: {error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise JobFileError(f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise JobFileError(f'{path}: is empty; a job needs at least [model] with path = "model.onnx"')
    return text


def _job_files_beside(path: Path) -> str:
    try:
        names = sorted(p.name for p in path.parent.glob("*.toml"))
    except OSError:
        names = []
    return f" TOML files in {path.parent}: {', '.join(names)}." if names else ""


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(
            r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL
        )
        lines = text.splitlines()
        reason = match[1] if match else str(error)
        if not match or not match[2]:
            raise JobFileError(f"{where}, line {len(lines)} (the last): {reason}") from None
        line = lines[int(match[2]) - 1] if int(match[2]) <= len(lines) else ""
        at = f"line {match[2]}, column {match[3]}"
        raise JobFileError(f"{where}, {at}: {reason}: {line.strip()}") from None
    except (ValueError, RecursionError) as error:
        raise JobFileError(f"{where}: cannot be read as TOML: {error}") from None


def _plain(value: Any) -> Any:
    """A copy in the types that TOML gives; anything else stays, for validation to name it."""
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _is_unicode(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_unicode(k) and _is_unicode(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_unicode, value))
    return not isinstance(value, str) or value.isascii() or _encodes(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
