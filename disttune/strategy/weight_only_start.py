"""Start stage of weight-only jobs: five named settings, the best of which is the default from then on.

RTN, GPTQ and AWQ with groups of 32, GPTQ with groups of 128, and GPTQ with groups of 32 and the last MatMul
in float; 4 bits with a zero point, in this order. A setting that the job's options do not hold is left out;
where they hold one algorithm only there is nothing to choose.

Source: ONNX Neural Compressor 1.0, get_woq_tuning_config.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

from disttune.config.schemes import OpConfig
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.start import register_start
from disttune.strategy.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Setting:
    """One of the named settings.

    Args:
        method: of the weights.
        group_size: of the weights.
        last_matmul: whether the last MatMul is quantized.
    """

    method: str
    group_size: int
    last_matmul: bool = True

    def __str__(self) -> str:
        rest = "" if self.last_matmul else ", last MatMul in float"
        return f"{self.method} with groups of {self.group_size}{rest}"


SETTINGS = (
    Setting("rtn", 32),
    Setting("gptq", 32),
    Setting("gptq", 32, last_matmul=False),
    Setting("gptq", 128),
    Setting("awq", 32),
)
DTYPES = ("uint4", "int4")


@register_start("1 weight-only algorithm")
def weight_only_algorithm(tuning: Tuning, space: Space) -> Generator[Stage, StageResult, Space]:
    """The stage; returns the space with the best setting as its default."""
    if any(o.approach != "weight_only" for options in space.options.values() for o in options):
        return space
    if len({o.weight.method for options in space.options.values() for o in options if o.weight}) < 2:
        tuning.note("weight-only algorithms: skipped, the job leaves one only")
        return space
    spaces = {setting: _with(space, setting) for setting in SETTINGS}
    missing = [str(setting) for setting, found in spaces.items() if found is None]
    if missing:
        tuning.note(f"weight-only algorithms: not among the job's options: {'; '.join(missing)}")
    candidates: dict[Candidate, Space] = {}
    for found in spaces.values():
        if found is not None:
            candidates.setdefault(found.default_candidate(), found)
    if not candidates:
        return space
    so_far = SoFar(tuning, space.default_candidate())
    yield from so_far.run(Stage("weight-only algorithms", list(candidates)))
    return candidates.get(so_far.best, space)


def _with(space: Space, setting: Setting) -> Space | None:
    """The space with a setting as its default, for the ops that have it; None when none has."""
    chosen = {op: _option(options, setting) for op, options in space.options.items()}
    last = next((op for op in reversed(space.ops) if space.types[op] == "MatMul"), None)
    in_float = frozenset() if setting.last_matmul or last is None else frozenset({last})
    if not any(chosen.values()):
        return None
    return replace(
        space,
        options={op: _first(options, chosen[op]) for op, options in space.options.items()},
        float_sets=tuple(dict.fromkeys(ops | in_float for ops in space.float_sets)),
    )


def _option(options: tuple[OpConfig, ...], setting: Setting) -> OpConfig | None:
    """The option of an op that a setting means."""
    for option in options:
        weight = option.weight
        if (
            weight is not None
            and weight.method == setting.method
            and weight.group_size == setting.group_size
            and not weight.symmetric
            and weight.dtype in DTYPES
        ):
            return option
    return None


def _first(options: tuple[OpConfig, ...], chosen: OpConfig | None) -> tuple[OpConfig, ...]:
    return options if chosen is None else (chosen, *(o for o in options if o != chosen))
