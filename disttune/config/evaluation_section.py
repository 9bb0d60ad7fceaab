"""The `[calibration]` and `[evaluation]` sections: where data come from and what a model is measured by."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from disttune.config.field_types import (
    FunctionReference,
    JobPath,
    OneOrMore,
    Section,
    Text,
    functions_given,
    mistake,
    section_mistake,
    split_reference,
)
from disttune.config.toml_text import shown

_THREE_WAYS = (
    'function = "file.py:name", or metric = "top1" with data = "file.npz", or [[evaluation.evaluators]]'
)


class CalibrationSection(Section):
    """Data that ranges of activations are measured on."""

    loader: FunctionReference | None = Field(
        default=None,
        description='Function "file.py:name" that yields feeds {input: array}, or (feeds, targets).',
    )
    data: JobPath | None = Field(
        default=None, description="File .npz or .npy with an array for each input of the model."
    )
    samples: OneOrMore[Annotated[int, Field(ge=1)]] = Field(
        default=(128,), description="Samples to calibrate with; of a list each is tried."
    )
    block_samples: int = Field(
        default=16, ge=1, description="Samples in a block, the unit of calibration and of split trials."
    )

    @property
    def given(self) -> bool:
        return self.loader is not None or self.data is not None

    @field_validator("data")
    @classmethod
    def _not_both(cls, data: Path | None, info: ValidationInfo) -> Path | None:
        if data is not None and info.data.get("loader") is not None:
            raise section_mistake("loader and data are both given; keep one of them")
        return data


class EvaluatorEntry(Section):
    """One measurement of a model."""

    function: FunctionReference | None = Field(
        default=None, description='Function "file.py:name" that takes the model and returns a number.'
    )
    metric: Text | None = Field(default=None, description="Name of a built-in metric, with data.")
    data: JobPath | None = Field(default=None, description="File .npz or .npy of the metric.")
    weight: float | None = Field(
        default=None,
        description="Factor in the weighted sum; without weights each evaluator has its own target.",
    )
    name: Text | None = Field(
        default=None, description="Column in trials.csv; the function's or metric's name if left out."
    )
    higher_is_better: bool | None = Field(
        default=None, description="Direction; left out: true for a function, the metric's own for a metric."
    )

    @field_validator("data")
    @classmethod
    def _is_one_measurement(cls, data: Path | None, info: ValidationInfo) -> Path | None:
        _check_measurement(info.data, data)
        return data

    @field_validator("name")
    @classmethod
    def _is_named(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None and info.data.get("function") is not None:
            return split_reference(info.data["function"])[1]
        return name or info.data.get("metric")

    @field_validator("higher_is_better")
    @classmethod
    def _has_direction(cls, higher: bool | None, info: ValidationInfo) -> bool | None:
        return True if higher is None and info.data.get("function") is not None else higher


def _wrapped(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise mistake(
            "must be a list of tables: head each entry with [[evaluation.evaluators]]; "
            f"{shown(value)} was given"
        )
    return tuple(value)


class EvaluationSection(Section):
    """What a model is measured by: a function, a metric with data, or several evaluators."""

    function: FunctionReference | None = Field(
        default=None, description='Function "file.py:name" that takes the model and returns a number.'
    )
    metric: Text | None = Field(default=None, description="Name of a built-in metric, with data.")
    data: JobPath | None = Field(default=None, description="File .npz or .npy of the metric.")
    evaluators: Annotated[tuple[EvaluatorEntry, ...], BeforeValidator(_wrapped)] = Field(
        default=(), description="Several measurements, with weights (one sum) or without (a target for each)."
    )
    higher_is_better: bool | None = Field(
        default=None, description="Direction; left out: true for a function, the metric's own for a metric."
    )
    baseline: OneOrMore[float] | None = Field(
        default=None,
        description="Metric of the float model, which saves measuring it; a list with several evaluators.",
    )
    files: tuple[JobPath, ...] | None = Field(
        default=None, description="Files that the code needs on every node; found by itself if left out."
    )

    @property
    def entries(self) -> tuple[EvaluatorEntry, ...]:
        """The evaluators in whichever of the three ways they were given; empty if in none."""
        if self.function is None and self.metric is None:
            return self.evaluators
        return (
            EvaluatorEntry(
                function=self.function,
                metric=self.metric,
                data=self.data,
                higher_is_better=self.higher_is_better,
            ),
        )

    @field_validator("files", mode="before")
    @classmethod
    def _is_list(cls, files: Any) -> Any:
        return tuple(files) if isinstance(files, list) else files

    @field_validator("evaluators")
    @classmethod
    def _is_one_way(
        cls, entries: tuple[EvaluatorEntry, ...], info: ValidationInfo
    ) -> tuple[EvaluatorEntry, ...]:
        if not entries:
            any_given = any(info.data.get(k) is not None for k in ("function", "metric", "data"))
            if "data" in info.data and (any_given or not functions_given(info)):
                _check_measurement(info.data, info.data["data"])
            return entries
        if beside := [k for k in ("function", "metric", "data") if info.data.get(k) is not None]:
            raise section_mistake(f"{' and '.join(beside)} and evaluators are both given; keep one of them")
        _check_together(entries)
        return entries

    @field_validator("higher_is_better")
    @classmethod
    def _has_direction(cls, higher: bool | None, info: ValidationInfo) -> bool | None:
        if higher is not None and info.data.get("evaluators"):
            raise mistake("belongs into each entry of evaluators")
        return True if higher is None and info.data.get("function") is not None else higher

    @field_validator("baseline")
    @classmethod
    def _fits_evaluators(
        cls, baseline: tuple[float, ...] | None, info: ValidationInfo
    ) -> tuple[float, ...] | None:
        if baseline is None or functions_given(info) or "evaluators" not in info.data:
            return baseline
        n = len(info.data["evaluators"]) or 1
        if len(baseline) != n:
            raise mistake(f"needs one number for each evaluator: {len(baseline)} given for {n}")
        return baseline


def _check_measurement(earlier: dict[str, Any], data: Path | None) -> None:
    """See to it that there is either a function or a metric with data; keys with a mistake of their own
    are missing in `earlier`, and nothing is said about them."""
    if not {"function", "metric"} <= earlier.keys():
        return
    function, metric = earlier["function"], earlier["metric"]
    if function is not None and (metric is not None or data is not None):
        raise section_mistake(
            f"function and {'metric' if metric else 'data'} are both given; keep one of them"
        )
    if function is None and metric is None and data is None:
        raise section_mistake(f"does not tell how to measure a model; give {_THREE_WAYS}")
    if function is None and metric is None:
        raise section_mistake('data needs a metric, for example metric = "top1"')
    if function is None and data is None:
        raise section_mistake(f'metric "{metric}" needs data = "file.npz"')


def _check_together(entries: tuple[EvaluatorEntry, ...]) -> None:
    found = []
    names = [e.name for e in entries]
    if twice := next((n for n in names if names.count(n) > 1), None):
        found.append(f'two entries are named "{twice}": give each its own name = "..."')
    weighted = [e for e in entries if e.weight is not None]
    if weighted and len(weighted) < len(entries):
        found.append("some entries have a weight and some have none: give it to all or to none")
    if weighted and len({e.higher_is_better for e in entries} - {None}) > 1:
        found.append(
            "with weights the metrics are one sum, so all need the same higher_is_better: "
            "give a weight below 0 to the ones that count the other way"
        )
    if found:
        raise mistake("; ".join(found))
