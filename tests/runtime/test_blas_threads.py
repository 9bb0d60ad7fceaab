"""Linear algebra in the user's process has one thread while disttune computes; oracle: threadpoolctl."""

import numpy as np
import pytest

from disttune.runtime.blas_threads import one_blas_thread
from disttune.runtime.inline import InlineHost
from disttune.runtime.messages import EvaluateModel, RunTask

threadpoolctl = pytest.importorskip("threadpoolctl")


def threads_of_numpy() -> set[int]:
    np.linalg.inv(np.eye(2))
    found = [p for p in threadpoolctl.threadpool_info() if p["internal_api"] == "openblas"]
    return {p["num_threads"] for p in found} or pytest.skip("numpy has no OpenBLAS here")


def test_threads_are_one_meanwhile_and_as_before_afterwards():
    with threadpoolctl.threadpool_limits(2):
        before = threads_of_numpy()
        with one_blas_thread():
            during = threads_of_numpy()
        assert (before, during, threads_of_numpy()) == ({2}, {1}, {2})


def test_evaluations_of_the_user_keep_their_threads():
    class Looking:
        def handle(self, message: object) -> object:
            return type(message).__name__, threads_of_numpy()

    host = InlineHost()
    host._worker = Looking()  # type: ignore[assignment]
    with threadpoolctl.threadpool_limits(2):
        host.send(RunTask(0, 0, None, 1.0))  # type: ignore[arg-type]
        host.send(EvaluateModel(0))

    assert host.poll()[0] == [("RunTask", {1}), ("EvaluateModel", {2})]
