"""A layer as the weight algorithms see it: a matrix, what is known of its inputs, and what comes out.

Every linear op is a set of independent parts Y = X W: one for MatMul and Gemm, one for each group of a
Conv or ConvTranspose. `layout` says what K and N are for each type of op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from disttune.config.schemes import Scheme

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """What calibration found of a layer's inputs X, shape (n_parts, T, K), without keeping them.

    Args:
        n_rows: T, over all samples.
        gram: sum of x x^T, float64, shape (n_parts, K, K).
        total: sum of x, float64, shape (n_parts, K).
        absolute: sum of |x|, float64, shape (n_parts, K).
        cross: sum of xq x^T where xq are the inputs that the quantized model gives instead of x, and `gram`
            is then that of xq; None where both are the same.
    """

    n_rows: int
    gram: Floats
    total: Floats
    absolute: Floats
    cross: Floats | None = None


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """A layer to be quantized.

    Args:
        name: of the op, for messages.
        weight: float64, shape (n_parts, K, N); not to be written to.
        scheme: of the weight: per tensor, per channel (a scale for each part and column), or per group of
            `group_size` rows of K.
        inputs: None for algorithms that need no data.
        takes_shift: whether every op that reads the weight has a bias, or an Add can stand for it.
    """

    name: str
    weight: Floats
    scheme: Scheme
    inputs: LayerInputs | None = None
    takes_shift: bool = False


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """Codes of a layer and what they mean: weight ~ (codes - zero_point) * scale / input_scale.

    Args:
        codes: int32 within the range of the scheme's type, shape (n_parts, K, N).
        scale: float32, not zero; shape (1, 1, 1), (n_parts, 1, N) or (n_parts, n_groups, N). Some of rtn's
            are below zero.
        zero_point: int32, shape of `scale`; float32 only where the algorithm's option says so.
        input_scale: the layer's inputs are divided by it, channel by channel (AWQ); float32, shape (K,);
            None for ones.
        shift: to be added to X V, float64, shape (n_parts * N,); None for zeros.
        report: plain numbers for people: "loss" and "loss_rtn" = sum over columns of d^T H d / T, and others.
        history: of algorithms that iterate: iteration, and the loss of the best codes so far; never rises.
    """

    codes: NDArray[np.int32]
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    input_scale: NDArray[np.float32] | None = None
    shift: Floats | None = None
    report: Mapping[str, float] = field(default_factory=dict)
    history: tuple[tuple[int, float], ...] = ()


class LayerAlgorithm(Protocol):
    """Chooses the codes of a layer. Deterministic: the same problem gives the same bits."""

    needs_inputs: ClassVar[bool]

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Codes that are no worse than plain rounding on the algorithm's own objective.

        Raises:
            TrialError: the layer cannot be quantized so; names it and the cause.
        """
        ...


@runtime_checkable
class JointAlgorithm(Protocol):
    """A `LayerAlgorithm` that solves all layers that read one tensor together (one input scale for all)."""

    def solve_together(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Solutions in the order of the problems; raises what `solve` does."""
        ...
