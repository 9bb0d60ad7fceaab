"""Work that candidates share: statistics of a graph variant, mean inputs, a layer's solution.

Pure. Before a model can be built, an engine may need results that are worth spreading over ranks:
1. `missing` says what a candidate needs next; later steps show when earlier ones are there;
2. `run` does one of them, on any rank: the result depends on the work and the job alone, to the last bit;
3. `learn` takes a result; after all have been learnt `missing` is asked again, until nothing is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from disttune.config.errors import TrialError
from disttune.space.candidate import Candidate

if TYPE_CHECKING:
    import numpy as np

Results = Mapping[str, "np.ndarray[Any, Any]"]  # plain arrays by name; none with objects in it


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work.

    Args:
        kind: "statistics", "channels", "means", "shifts" or "solve"; a word for logs.
        key: hexadecimal digest over everything that the result depends on: equal keys, equal results.
        what: for people: "gptq of layer /mlp/up/MatMul".
        arguments: what `run` needs to know; plain values that pickle small.
        cost: expected time against other works; any unit.
        engine: which of a job's engines it belongs to: the number of calibration samples.
        place: works of one place share what `run` measures on the way: best run by the same rank.
        needs: keys of results that have to be learnt before `run`, by whoever runs it.
    """

    kind: str
    key: str
    what: str
    arguments: tuple[Any, ...] = ()
    cost: float = 1.0
    engine: int = 0
    place: str = ""
    needs: tuple[str, ...] = ()


@runtime_checkable
class NeedsWork(Protocol):
    """An engine that prepares candidates by works."""

    def missing(self, candidate: Candidate) -> tuple[Work, ...]:
        """Works that the candidate needs next and whose own needs are met; empty: it can be built.

        Raises:
            TrialError: it can never be built, for example because one of its works failed.
        """
        ...

    def run(self, work: Work) -> Results:
        """Do a work; changes nothing that can be seen from outside.

        Raises:
            TrialError: it cannot be done; names the layer and the cause.
        """
        ...

    def learn(self, work: Work, results: Results | str) -> None:
        """Take a result, or the reason why there is none."""
        ...


def complete(engine: NeedsWork, candidate: Candidate) -> None:
    """Do everything that a candidate needs right here."""
    while works := engine.missing(candidate):
        for work in works:
            try:
                engine.learn(work, engine.run(work))
            except TrialError as error:
                engine.learn(work, str(error))
