"""Which grid a sampler walks: op by op, or op type by op type."""

from disttune.config.errors import InputError
from disttune.space.dimensions import Dimensions, op_dimensions, op_type_dimensions
from disttune.space.space import Space

MAX_OP_DIMENSIONS = 30


def check_level(level: str | None, strategy: str) -> None:
    """Raise InputError for what is no level."""
    if level not in (None, "op", "op_type"):
        raise InputError(
            f'[tuning] strategy_kwargs, strategy {strategy}: level must be "op" or "op_type"; '
            f"{level!r} was given"
        )


def sampler_grid(space: Space, level: str | None) -> Dimensions:
    """The grid of a space.

    Args:
        space: of the job.
        level: "op", "op_type", or None: op by op unless more than 30 ops have several options.
    """
    by_op = op_dimensions(space)
    if level == "op_type" or (level is None and len(by_op.names) > MAX_OP_DIMENSIONS):
        return op_type_dimensions(space)
    return by_op
