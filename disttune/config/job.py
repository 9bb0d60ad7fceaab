"""The job: everything that a job file or `autotune()` can say, as frozen typed sections.

Make one with `job_file.load_job` or `job_file.job_from_dict`, which resolve paths and name mistakes.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from disttune.config.evaluation_section import CalibrationSection, EvaluationSection, EvaluatorEntry
from disttune.config.field_types import (
    JobPath,
    NameOrReference,
    OneOrMore,
    PlainTable,
    Section,
    SizeBytes,
    Text,
    functions_given,
    mistake,
)
from disttune.config.nearest import unknown_name
from disttune.config.objective import OBJECTIVES, objective_weights
from disttune.config.quantization_section import OpOptions, QuantizationSection, SchemeOptions
from disttune.config.toml_text import shown

__all__ = [
    "AccuracySection", "CalibrationSection", "EvaluationSection", "EvaluatorEntry", "Job", "ModelSection",
    "OpOptions", "QuantizationSection", "RuntimeSection", "SchemeOptions", "TuningSection",
]  # fmt: skip

MAY_CHANGE_ON_RESUME = frozenset(
    f"tuning.{key}" for key in ("max_trials", "timeout", "find_n", "patience", "max_probes")
)
_FLOAT_MAX = sys.float_info.max
_QUANT_LEVELS = {0: "conservative", 1: None, "auto": "auto"}


class ModelSection(Section):
    """The model and where it will run."""

    path: JobPath = Field(description="The float model, an .onnx file.")
    target: Text = Field(default="ort-cpu", description="Runtime whose capabilities bound the search.")
    providers: OneOrMore[Text] = Field(
        default=("CPUExecutionProvider",),
        description="onnxruntime execution providers, in order of preference.",
    )
    max_opset: int | None = Field(
        default=None, ge=1, description="Opset version that the exported model never exceeds."
    )
    max_ir_version: int | None = Field(
        default=None, ge=1, description="IR version that the exported model never exceeds."
    )


class AccuracySection(Section):
    """How much accuracy may be lost."""

    criterion: Literal["relative", "absolute"] = Field(
        default="relative",
        description="Whether the loss is a fraction of the baseline or in units of the metric.",
    )
    tolerable_loss: float = Field(default=0.01, description="Loss allowed; below 0 the model must improve.")

    @field_validator("tolerable_loss")
    @classmethod
    def _is_fraction(cls, loss: float, info: ValidationInfo) -> float:
        if info.data.get("criterion") == "relative" and not -1 < loss < 1:
            raise mistake(
                'must be more than -1 and less than 1 with criterion "relative" (0.01 is one percent); '
                f"{loss:g} was given"
            )
        return loss


def _check_objective(value: Any) -> Any:
    if isinstance(value, str):
        if value not in ("first", *OBJECTIVES):
            raise mistake(unknown_name("objective", value, ("first", *OBJECTIVES)))
        return value
    if not isinstance(value, Mapping) or not value:
        raise mistake(
            'must be "first" or another objective, or weights such as {latency = 0.7, size = 0.3}; '
            f"{shown(value)} was given"
        )
    for name, weight in value.items():
        if name not in OBJECTIVES:
            raise mistake(unknown_name("objective", name, OBJECTIVES))
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _FLOAT_MAX:
            raise mistake(f"the weight of {name} must be a number of at least 0")
    if not any(value.values()):
        raise mistake("at least one weight must be more than 0")
    return {name: float(weight) for name, weight in value.items()}


_OBJECTIVE_SCHEMA = {
    "anyOf": [
        {"type": "string", "enum": ["first", *OBJECTIVES]},
        {
            "type": "object",
            "properties": {name: {"type": "number", "minimum": 0} for name in OBJECTIVES},
            "additionalProperties": False,
        },
    ]
}


class TuningSection(Section):
    """The search: strategy, budgets, when to stop."""

    strategy: NameOrReference = Field(default="auto", description='Name of a strategy, or "file.py:Class".')
    quant_level: Literal[0, 1, "auto"] | None = Field(
        default=None,
        exclude=True,
        description='Another way to name a strategy. 0: conservative; 1: strategy, or basic; "auto": auto.',
    )
    strategy_kwargs: PlainTable = Field(default_factory=dict, description="Keywords of the strategy's class.")
    max_trials: int = Field(default=100, ge=1, description="Distinct models to measure at most.")
    timeout: float = Field(
        default=0.0, ge=0, description="Seconds for the job, over all restarts; 0: no limit."
    )
    objective: Annotated[
        str | Mapping[str, float], BeforeValidator(_check_objective), WithJsonSchema(_OBJECTIVE_SCHEMA)
    ] = Field(
        default="first",
        description="Which model is best of those that meet the goal: the first, or by latency, size, "
        "float_ops, or weights of them.",
    )
    stop_at: Literal["goal", "budget"] | None = Field(
        default=None,
        description="goal: stop at the first model that meets it; budget: go on. Left out: goal, unless "
        "timeout, objective, find_n or patience is given.",
    )
    find_n: int | None = Field(
        default=None, ge=1, description="Stop after this many models that meet the goal."
    )
    patience: int | None = Field(
        default=None, ge=1, description="Stop after this many trials without a better best."
    )
    max_repeats: int = Field(default=1000, ge=1, description="End a stage after this many repeats in a row.")
    max_probes: int | None = Field(default=None, ge=0, description="Measurements beside the trials at most.")
    trial_timeout: float | None = Field(
        default=None,
        ge=0,
        description="Seconds for the evaluation of one trial; 0: no limit. Left out: 20 times the "
        "baseline's, at least 60.",
    )
    early_stop: Literal["off", "bound", "test"] = Field(
        default="off",
        description="bound: where only meeting the goal counts, end a trial once its metric can neither meet "
        "it nor become the best, whatever the samples left give; such a trial has no metric. test: once "
        "that is so but for early_stop_risk; the best may be missed.",
    )
    early_stop_risk: float = Field(
        default=0.01, gt=0, lt=1, description='Probability that early_stop = "test" ends a trial wrongly.'
    )
    memory_limit: SizeBytes | None = Field(
        default=None, description='Memory of one trial process, e.g. "8 GiB", or a number of bytes.'
    )
    seed: int = Field(default=0, ge=0, description="Of every random choice.")
    batch_size: int = Field(default=16, ge=1, description="Candidates that a sampler proposes at a time.")

    @property
    def effective_stop_at(self) -> Literal["goal", "budget"]:
        """`stop_at`, or what stands for it when it is left out."""
        if self.stop_at is not None:
            return self.stop_at
        counted = self.find_n is not None or self.patience is not None
        return "goal" if self.timeout == 0 and self.objective == "first" and not counted else "budget"

    @model_validator(mode="before")
    @classmethod
    def _strategy_of_level(cls, data: Any) -> Any:
        level = data.get("quant_level") if isinstance(data, dict) else None
        if (
            level is None
            or "strategy" in data
            or not isinstance(level, str | int)
            or level not in _QUANT_LEVELS
        ):
            return data
        return {**data, "strategy": _QUANT_LEVELS[level] or "basic"}

    @field_validator("quant_level")
    @classmethod
    def _agrees_with_strategy(cls, level: Any, info: ValidationInfo) -> None:
        expected, strategy = _QUANT_LEVELS.get(level), info.data.get("strategy")
        if expected is not None and strategy not in (None, expected):
            value = f'"{level}"' if isinstance(level, str) else level
            raise mistake(
                f'{value} stands for strategy "{expected}", but strategy = "{strategy}"; keep one of them'
            )

    @field_validator("find_n")
    @classmethod
    def _can_be_found(cls, find_n: int | None, info: ValidationInfo) -> int | None:
        if find_n is not None and find_n > 1 and info.data.get("stop_at") == "goal":
            raise mistake(
                f'{find_n} cannot be reached with stop_at = "goal", which stops at the first; '
                'leave stop_at out or use "budget"'
            )
        return find_n


class RuntimeSection(Section):
    """How the ranks work together; changes no result (`memory`: of the best)."""

    master_works: bool = Field(default=True, description="Whether rank 0 runs trials as well.")
    memory: Literal["private", "shared"] = Field(
        default="private",
        description="shared: sessions hold no packed copy of the weights; only what may be best is measured "
        "with one as well.",
    )
    split_trials: bool = Field(
        default=True,
        description="Whether a trial is shared out over ranks that have nothing else to do; only metrics and "
        "sample evaluators can be.",
    )
    isolation: Literal["process", "none"] = Field(
        default="process",
        description="process: trials run in a process of their own, which a crash ends alone.",
    )
    heartbeat: float = Field(default=5.0, gt=0, description="Seconds between the signs of life of a rank.")
    lost_after: float = Field(
        default=30.0, gt=0, description="Seconds of silence after which a rank counts as lost."
    )
    master_silent: float = Field(
        default=300.0, gt=0, description="Seconds of silence of rank 0 after which others end."
    )

    preparation_timeout: float = Field(
        default=3600.0,
        gt=0,
        description="Seconds that loading, calibrating or quantizing may take.",
    )

    @field_validator("lost_after", "master_silent")
    @classmethod
    def _is_longer(cls, seconds: float, info: ValidationInfo) -> float:
        beat = info.data.get("heartbeat")
        if beat is not None and seconds <= beat:
            raise mistake(f"must be more than heartbeat, which is {beat:g}; {seconds:g} was given")
        return seconds


class Job(Section):
    """A whole job; all paths are absolute."""

    folder: JobPath = Field(
        default=Path(), description="Where relative paths count from; the job file's folder if left out."
    )
    model: ModelSection
    quantization: QuantizationSection = Field(default_factory=QuantizationSection)
    calibration: CalibrationSection = Field(default_factory=CalibrationSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    accuracy: AccuracySection = Field(default_factory=AccuracySection)
    tuning: TuningSection = Field(default_factory=TuningSection)
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)

    @field_validator("tuning")
    @classmethod
    def _can_measure_latency(cls, section: TuningSection, info: ValidationInfo) -> TuningSection:
        calibration = info.data.get("calibration")
        if (
            "latency" in objective_weights(section.objective)
            and calibration is not None
            and not calibration.given
            and not functions_given(info)
        ):
            raise mistake(
                "objective: latency is measured on calibration feeds, and there are none: give "
                'calibration.loader = "file.py:name" or calibration.data = "file.npz"'
            )
        return section

    @field_validator("calibration")
    @classmethod
    def _calibrates(cls, section: CalibrationSection, info: ValidationInfo) -> CalibrationSection:
        quantization = info.data.get("quantization")
        if (
            section.given
            or functions_given(info)
            or quantization is None
            or quantization.approach in ("dynamic", "weight_only")
        ):
            return section
        raise mistake(
            f'quantization.approach "{quantization.approach}" needs data: give loader = "file.py:name" '
            'or data = "file.npz" (approach "dynamic" needs none)'
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by section, without the keys that stand at None."""
        return self.model_dump(mode="json", exclude_none=True)

    def fingerprint(self) -> dict[str, Any]:
        """Every key that may not change when a job is resumed, as "section.key" -> plain value.

        Paths below the job's folder are relative to it, so that a job may move as a whole.
        """
        sections = self.model_dump(mode="json", exclude={"folder", "runtime"})
        flat = {
            f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()
        }
        start = str(self.folder).rstrip("/") + "/"
        return {k: _relative(v, start) for k, v in flat.items() if k not in MAY_CHANGE_ON_RESUME}

    def moved_to(self, folder: Path) -> "Job":
        """The same job with its folder, and every path below it, in another place."""
        if folder == self.folder:
            return self
        start, target = str(self.folder).rstrip("/") + "/", str(folder).rstrip("/") + "/"
        data = _relative(self.model_dump(mode="json"), start, target) | {"folder": str(folder)}
        return Job.model_validate(data, context={"folder": folder, "functions_given": True})


def default_fingerprint() -> dict[str, Any]:
    """What `Job.fingerprint` has for a job that leaves all open; keys without a default are missing."""
    sections = {name: field.annotation for name, field in Job.model_fields.items() if name != "folder"}
    return {
        f"{name}.{key}": value
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, Section)
        for key, value in section.model_construct().model_dump(mode="json", warnings=False).items()
    }


def _relative(value: Any, start: str, target: str = "") -> Any:
    """Plain values with one start of their paths exchanged for another."""
    if isinstance(value, str):
        return target + value.removeprefix(start) if value.startswith(start) else value
    if isinstance(value, list):
        return [_relative(v, start, target) for v in value]
    if isinstance(value, dict):
        return {k: _relative(v, start, target) for k, v in value.items()}
    return value
