"""AutoQuant: a fixed chain of steps that win accuracy back, until the goal is met; best effort else.

1. the default candidate; 2. scheme: threshold methods and granularities; 3. 16-bit weights, to see what the
activations alone lose: where that misses the goal, mixed precision takes 16-bit activations too;
4. cross-layer equalization; 5. SmoothQuant, where inputs of products have outliers (a probe); 6. rounding of
weights; 7. bias and weight correction; 8. mixed precision; 9. ops back to float, blocks first. A step stands
on the best of those before it, and is kept when its metric is strictly better.

Source: AIMET, AutoQuant. What we do differently: for ONNX, the candidates of a step run at the same time, a
step that fails ends nothing, a bad 16-bit result widens the search instead of ending it, and ops fall back at
the end.
"""

from collections.abc import Generator, Sequence

from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.config.schemes import OpConfig
from disttune.config.weight_methods import parse_weight_method
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.amp import Amp
from disttune.strategy.autoquant_steps import STEPS, Position, smoothed_ops
from disttune.strategy.basic import fallback_of_blocks, fallback_of_ops
from disttune.strategy.fallback_stages import Stages, number
from disttune.strategy.registry import register_strategy
from disttune.strategy.so_far import SoFar
from disttune.strategy.stage import Probe, Stage, StageResult
from disttune.strategy.start import start
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning

AFTER = ("mixed_precision", "fallback")
GATE = "W16A8"
WIDER = "W8A16"
N_FEEDS = 4


@register_strategy("autoquant")
class AutoQuant:
    """See the head of this file.

    Args:
        candidates: precisions of step 8, as those of `amp`.
        rounding: weight methods of step 6, with options, e.g. "gptq:flip=true".
        outlier_ratio: greatest magnitude over the 99.9th percentile beyond which an input has outliers.
        skip: steps to leave out: scheme, equalization, smoothing, rounding, correction, mixed_precision,
            fallback.
    """

    def __init__(
        self,
        candidates: Sequence[str] | None = None,
        rounding: Sequence[str] = ("adaround", "gptq", "flip"),
        outlier_ratio: float = 8.0,
        skip: Sequence[str] = (),
    ):
        for text in rounding:
            parse_weight_method(text)
        for name in skip:
            if name not in (*STEPS, *AFTER):
                raise InputError(
                    f"[tuning] strategy_kwargs.skip: {unknown_name('step', name, (*STEPS, *AFTER))}"
                )
        if not isinstance(outlier_ratio, int | float) or not outlier_ratio >= 1:
            raise InputError(
                "[tuning] strategy_kwargs.outlier_ratio must be a number of at least 1; "
                f"found {outlier_ratio!r}"
            )
        self.candidates = candidates
        self.rounding = tuple(rounding)
        self.outlier_ratio = outlier_ratio
        self.skip = frozenset(skip)

    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        amp = Amp(self.candidates, repairs=0)  # the goal is what is asked for, not the cheapest that meets it
        amp.prefer_cheap(tuning)
        space = yield from start(tuning)
        chain = _Chain(tuning, space)
        yield from chain.step("default", [space.default_candidate()])
        wider = False
        for key, step in STEPS.items():
            if chain.goal_met:
                return
            if key in self.skip:
                continue
            position = Position(space, tuning.summary, chain.best, self.rounding)
            applies = key != "smoothing" or (yield from self._has_outliers(tuning, position))
            yield from chain.step(step.name, step.variants(position) if applies else [], step.otherwise)
            if key == "scheme" and not chain.goal_met:
                wider = yield from chain.activations_lose_too_much()
        if not chain.goal_met and "mixed_precision" not in self.skip:
            if wider and self.candidates is None:
                amp = Amp(amp.names(tuning, space, chain.best, [WIDER]), repairs=0)
            found = yield from amp.search(tuning, space, chain.best)
            if found is not None:
                return
        if not chain.goal_met and "fallback" not in self.skip:
            yield from _fallback(tuning, space, chain)

    def _has_outliers(self, tuning: Tuning, position: Position) -> Generator[Stage, StageResult, bool]:
        """Whether the input of some product has outliers; True where the probe fails."""
        ops = smoothed_ops(position)
        if not ops:
            return False
        probe = Probe("activation_outliers", {"ops": ops, "n_feeds": N_FEEDS})
        result = yield Stage("outliers of activations", [probe])
        value = result.probes[0] if result.probes else None
        ratios = (
            [r for v in value.values() if (r := number(v)) is not None] if isinstance(value, dict) else []
        )
        if not ratios:
            tuning.note("smoothing: the probe of outliers failed; it is tried")
            return True
        n_far = sum(ratio > self.outlier_ratio for ratio in ratios)
        tuning.note(
            f"smoothing: {n_far} of {len(ratios)} inputs of products have outliers, up to {max(ratios):.1f}"
        )
        return n_far > 0


class _Chain:
    """The best row so far, and the steps that led there."""

    def __init__(self, tuning: Tuning, space: Space):
        self._tuning = tuning
        self._space = space
        self._row: Trial | None = None
        self.so_far = SoFar(tuning, space.default_candidate())
        self.goal_met = False

    @property
    def best(self) -> Candidate:
        return self._space.default_candidate() if self._row is None else self._row.candidate

    def step(self, name: str, variants: Sequence[Candidate], otherwise: str = "") -> Stages:
        """One stage; its best row is kept where its metric is strictly better."""
        if not variants:
            self._tuning.note(f"{name}: skipped, {otherwise}")
            return
        result = yield from self.so_far.run(Stage(name, variants))
        order = [result.trials[i] for i in result.best_first() if result.trials[i].metric is not None]
        self.goal_met = self.goal_met or result.goal_met
        before = self._row
        if not order:
            self._tuning.note(f"{name}: not kept, no trial of it has a metric")
        elif before is None or self._is_better(order[0], before):
            self._row = order[0]
            text = "" if before is None else f" instead of {before.metric:.6g}"
            self._tuning.note(f"{name}: kept, {order[0].metric:.6g}{text} ({order[0].candidate})")
        else:
            self._tuning.note(
                f"{name}: not kept, {order[0].metric:.6g} is no better than {before.metric:.6g}"
            )

    def activations_lose_too_much(self) -> Generator[Stage, StageResult, bool]:
        """Step 3: whether the goal is missed with weights of 16 bits; it changes nothing else."""
        precision = self._space.precisions.get(GATE)
        changes = (
            {}
            if precision is None
            else {
                op: _wide_weights(self.best.config_of(op), config)
                for op, config in precision.configs.items()
                if self.best.config_of(op).approach == "static" and config.weight is not None
            }
        )
        if not changes:
            self._tuning.note("weights of 16 bits: skipped, the target does not take them here")
            return False
        candidate = self.best.with_configs(changes)
        result = yield from self.so_far.run(Stage("weights of 16 bits", [candidate], goal_stops=False))
        if not result.trials or result.trials[0].metric is None or result.goal_met:
            return False
        wide = self._space.precisions.get(WIDER)
        end = "mixed precision tries activations of 16 bits too" if wide else "the target has no wider ones"
        self._tuning.note(f"weights of 16 bits miss the goal, so activations lose too much: {end}")
        return wide is not None

    def _is_better(self, trial: Trial, before: Trial) -> bool:
        assert trial.metric is not None
        assert before.metric is not None
        gain = trial.metric - before.metric
        return gain > 0 if self._tuning.goal.higher_is_better else gain < 0


def _wide_weights(config: OpConfig, wide: OpConfig) -> OpConfig:
    """A config with the weight of another."""
    return OpConfig(config.approach, wide.weight, config.activation, config.float_type)


def _fallback(tuning: Tuning, space: Space, chain: _Chain) -> Stages:
    """Step 9."""
    for float_type in space.float_types:
        yield from fallback_of_blocks(tuning, chain.so_far, chain.best, float_type)
        yield from fallback_of_ops(tuning, chain.so_far, chain.best, float_type, exact=False)
