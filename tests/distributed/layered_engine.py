"""An engine that needs works: the fast one, with weight scales that two levels of works decide.

A "gram" for each op, and from it a "solve" for each op and granularity. Each run of a work adds a line to
the file that `DISTTUNE_TEST_WORKS` names. Registered as "layered" in the trial processes that import this.
"""

import hashlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from onnx import ModelProto, numpy_helper

from disttune.config.errors import TrialError
from disttune.quantize.engine import EngineSettings, register_engine
from disttune.quantize.fast import FastEngine
from disttune.quantize.work import Results, Work
from disttune.space.candidate import Candidate
from disttune.space.summary import ModelSummary
from tests.distributed.layered_jobs import LOG


@register_engine("layered")
class LayeredEngine:
    """See `NeedsWork`. What goes wrong is said by environment variables: `op=kill`, `op=fail`, `op=fault`."""

    methods: ClassVar[frozenset[str]] = FastEngine.methods
    approaches: ClassVar[frozenset[str]] = frozenset({"static"})
    recipes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        prepared: ModelProto,
        summary: ModelSummary,
        feeds: Sequence[Mapping[str, Any]],
        settings: EngineSettings,
    ):
        self._fast = FastEngine(prepared, summary, feeds, settings)
        self._weights = {t.name: numpy_helper.to_array(t) for t in prepared.graph.initializer}
        self._learnt: dict[str, Results | str] = {}

    def missing(self, candidate: Candidate) -> tuple[Work, ...]:
        works = []
        for op in sorted(candidate.quantized_ops):
            gram, solve = works_of(candidate, op)
            if gram.key not in self._learnt:
                works.append(gram)
            elif self._found(gram) and solve.key not in self._learnt:
                works.append(solve)
            elif solve.key in self._learnt:
                self._found(solve)
        return tuple(works)

    def run(self, work: Work) -> Results:
        op = work.arguments[0]
        with Path(os.environ[LOG]).open("a") as log:
            log.write(f"{work.what}\n")
        time.sleep(float(os.environ.get("DISTTUNE_TEST_WORK_S", "0")))
        _go_wrong(os.environ.get("DISTTUNE_TEST_WORK_WRONG", ""), op)
        if work.kind == "gram":
            weight = self._weights[op.replace("fc", "w")].astype(np.float64)
            return {"gram": weight.T @ weight}
        (need,) = work.needs
        gram = self._learnt[need]
        assert not isinstance(gram, str)
        share = 0.5 if work.arguments[1] == "per_channel" else 1.0
        return {"factor": np.float32(1.0 + 0.05 * share * np.tanh(gram["gram"].sum()))}

    def learn(self, work: Work, results: Results | str) -> None:
        self._learnt[work.key] = results

    def build(self, candidate: Candidate) -> ModelProto:
        model = self._fast.build(candidate)
        factors = {op.replace("fc", "w"): self._found(works_of(candidate, op)[1])["factor"] for op in
                   candidate.quantized_ops}  # fmt: skip
        for tensor in model.graph.initializer:
            if tensor.name.endswith("_scale") and tensor.name[:2] in factors:
                scale = numpy_helper.to_array(tensor) * factors[tensor.name[:2]]
                tensor.CopyFrom(numpy_helper.from_array(scale.astype(np.float32), tensor.name))
        return model

    def _found(self, work: Work) -> Results:
        found = self._learnt[work.key]
        if isinstance(found, str):
            raise TrialError(found)
        return found


def works_of(candidate: Candidate, op: str) -> tuple[Work, Work]:
    """The two works of an op."""
    weight = candidate.config_of(op).weight
    assert weight is not None
    gram = Work("gram", _key(op), f"gram of {op}", (op,), cost=2.0)
    arguments = (op, weight.granularity)
    what = f"solve of {op}, {weight.granularity}"
    return gram, Work("solve", _key(*arguments), what, arguments, place=op, needs=(gram.key,))


def _key(*facts: str) -> str:
    return hashlib.blake2b("/".join(facts).encode(), digest_size=16).hexdigest()


def _go_wrong(plan: str, op: str) -> None:
    if plan == f"{op}=kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if plan == f"{op}=fail":
        raise TrialError(f"{op}: the matrix is singular")
    if plan == f"{op}=fault":
        raise KeyError(op)
