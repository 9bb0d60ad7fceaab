"""`check_strategy`: what must hold for every strategy, tried on simulated jobs; for ours and for yours.

1. The table is the same on 1, 2 and 1000 ranks, with uneven durations and lost ranks.
2. Trials that fail, crash or have a bad metric are survived, all of them if need be.
3. The space is never left: every op has one of its options, a float type, or what a preset or a precision
   gives it, with any weight algorithm.
4. The end is reached, within the budget.
5. A job that is cut and resumed ends like an undisturbed one.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from disttune.schedule.events import Commit
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, Simulation, simulate
from disttune.schedule.synthetic import (
    additive_landscape,
    synthetic_cnn,
    synthetic_space,
    synthetic_transformer,
)
from disttune.space.candidate import Candidate
from disttune.space.space import Space
from disttune.strategy.stage import Probe
from disttune.strategy.strategy import Strategy

RANKS = (2, 7, 1000)
MAX_TRIALS = 40
FAILING_SHARE = 0.3


class StrategyFaultError(AssertionError):
    """A strategy breaks one of the rules; the message names it with the job that shows it."""


def check_strategy(
    strategy: Callable[[], Strategy],
    ranks: Sequence[int] = RANKS,
    seeds: Sequence[int] = (0, 1),
    max_trials: int = MAX_TRIALS,
) -> None:
    """Try a strategy on synthetic models.

    Args:
        strategy: makes a new one, e.g. the class itself.
        ranks: numbers of ranks whose tables are compared with that of one.
        seeds: of landscapes, durations and deaths.
        max_trials: budget of each job.
    Raises:
        StrategyFaultError: a rule is broken.
    """
    for seed in seeds:
        for name, job in _jobs(strategy, seed, max_trials).items():
            where = f"job {name}, seed {seed}"
            alone = _whole(job, 1, where)
            _check_space(job.space, alone, where)
            for n in ranks:
                _check_same(alone, _whole(job, n, where), f"{where}, {n} ranks")
            _check_same(alone, simulate(job, 7, {1: 1.5, 5: 4.0}), f"{where}, 7 ranks, 1 and 5 lost")
            cut = simulate(job, 3, until_s=alone.time_s / 6)
            resumed = simulate(job, 2, recording=cut.known)
            _check_same(alone, resumed, f"{where}, resumed")


def _jobs(strategy: Callable[[], Strategy], seed: int, max_trials: int) -> dict[str, SimulatedJob]:
    transformer, cnn = synthetic_transformer(), synthetic_cnn()
    policy = ExitPolicy("goal", max_trials=max_trials)
    easy = SimulatedJob(
        strategy,
        synthetic_space(transformer, "auto"),
        additive_landscape(seed),
        goal=0.95,
        policy=policy,
        duration_s=lambda item, rank: _rng(seed, "lasts", rank, item).uniform(0.1, 3),
        seed=seed,
        summary=transformer,
        probe=lambda probe: _rng(seed, "probe", probe).random(),
        latency=lambda candidate: _rng(seed, "latency", candidate).uniform(0.3, 1.2),
    )
    failing = replace(
        easy,
        space=synthetic_space(cnn),
        summary=cnn,
        goal=2.0,
        metric=_sometimes_failing(easy.metric, seed),
        crash=lambda c: _rng(seed, "crash", c).random() < FAILING_SHARE / 2,
        probe=_no_probe,
    )
    hopeless = replace(failing, metric=_always_failing)
    return {"that can be done": easy, "where trials fail": failing, "where all fail": hopeless}


def _whole(job: SimulatedJob, ranks: int, where: str) -> Simulation:
    simulation = simulate(job, ranks)
    if simulation.finish is None:
        raise StrategyFaultError(f"{where}, {ranks} ranks: the strategy comes to no end")
    return simulation


def _check_same(expected: Simulation, found: Simulation, where: str) -> None:
    if found.table == expected.table:
        return
    n_common = min(len(expected.table), len(found.table))
    pairs = zip(expected.table, found.table, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), n_common)
    raise StrategyFaultError(
        f"{where}: the table is not that of one rank, from row {first} on. Does an iterator of a stage look "
        "at results, at the clock, or at randomness that is not seeded by tuning.seed?"
    )


def _check_space(space: Space, simulation: Simulation, where: str) -> None:
    for command in simulation.commands:
        if not isinstance(command, Commit):
            continue
        candidate = command.trial.candidate
        if candidate.ops != space.ops:
            raise StrategyFaultError(f"{where}: trial {command.trial.number} has other ops than the space")
        for op in space.ops:
            config = candidate.config_of(op)
            if not space.allows(op, config):
                raise StrategyFaultError(
                    f"{where}: trial {command.trial.number} leaves the space: op {op} has {config}"
                )


def _sometimes_failing(metric: Callable[[Candidate], float], seed: int) -> Callable[[Candidate], float]:
    def failing(candidate: Candidate) -> float:
        if _rng(seed, "fails", candidate).random() < FAILING_SHARE:
            raise ValueError("the evaluation raised")
        return metric(candidate)

    return failing


def _always_failing(candidate: Candidate) -> float:
    raise ValueError(f"the evaluation of {candidate} raised")


def _no_probe(probe: Probe) -> object:
    raise ValueError(f"no probe of kind {probe.kind}")


def _rng(*parts: object) -> random.Random:
    texts = (p.digest if isinstance(p, Candidate) else str(p) for p in parts)
    return random.Random(" ".join(texts))
