"""sigopt with a server of one's own, played by a stand-in for its client; and without."""

import sys
import threading
from statistics import mean
from types import SimpleNamespace

import pytest

from disttune.config.errors import InputError
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, simulate
from disttune.schedule.synthetic import additive_landscape
from disttune.strategy.sigopt import Sigopt
from disttune.strategy.tpe import Tpe
from tests.simulated import OPTIONS, small_space

pytest.importorskip("optuna")
GIVEN = {"sigopt_api_token": "token", "sigopt_project_id": "project", "sigopt_api_url": "http://localhost:1"}


class StandIn:
    """Plays the client: suggests points in order; fails from the n-th request on."""

    def __init__(self, fails_at=10**9):
        self.fails_at = fails_at
        self.n_requests = 0
        self.created = {}
        self.observed = []

    def Connection(self, client_token):  # noqa: N802 (the client's name)
        assert client_token == "token"
        return self

    def set_api_url(self, url):
        assert url == GIVEN["sigopt_api_url"]

    def experiments(self, number=None):
        return SimpleNamespace(
            create=self.create,
            suggestions=lambda: SimpleNamespace(create=self.suggest),
            observations=lambda: SimpleNamespace(create=self.observe),
        )

    def request(self):
        self.n_requests += 1
        if self.n_requests >= self.fails_at:
            raise ConnectionError("refused")

    def create(self, **experiment):
        self.request()
        self.created = experiment
        return SimpleNamespace(id=7)

    def suggest(self):
        self.request()
        n = self.n_requests
        names = [p["name"] for p in self.created["parameters"]]
        return SimpleNamespace(id=n, assignments={name: n >> i & 1 for i, name in enumerate(names)})

    def observe(self, **observation):
        self.request()
        self.observed.append(observation)


def run(monkeypatch, client, max_trials=32, **given):
    monkeypatch.setitem(sys.modules, "sigopt", client)
    job = SimulatedJob(
        lambda: Sigopt(**(GIVEN | given)),
        small_space(8),
        additive_landscape(1),
        goal=0.95,
        policy=ExitPolicy("budget", max_trials=max_trials),
        latency=lambda candidate: 0.25,
    )
    ended = simulate(job, 3)
    return ended, [c.text for c in ended.commands if isinstance(c, Note) and "latency" not in c.text]


def test_the_server_is_asked_and_told(monkeypatch):
    client = StandIn()
    ended, notes = run(monkeypatch, client)
    assert len(ended.table) == 32
    assert notes == []
    accuracy, cost = client.created["metrics"]
    assert (accuracy["strategy"], accuracy["threshold"], cost["objective"]) == (
        "constraint",
        0.95,
        "minimize",
    )
    assert client.created["project"] == "project"
    told = [{v["name"]: v["value"] for v in observation["values"]} for observation in client.observed]
    accuracies = [row[4][0] for row in ended.table[:16]]
    assert told[:16] == [{"accuracy": a, "cost": 0.25 if a >= 0.95 else 1.0} for a in accuracies]


class Hanging(StandIn):
    """Never answers from the n-th request on."""

    def request(self):
        self.n_requests += 1
        if self.n_requests >= self.fails_at:
            threading.Event().wait()


@pytest.mark.parametrize("fails_at", [1, 5, 20])
def test_a_server_that_never_answers_is_told_once_and_the_local_search_goes_on(monkeypatch, fails_at):
    ended, notes = run(monkeypatch, Hanging(fails_at), sigopt_api_timeout=0.2)
    assert len({row[2] for row in ended.table}) == 32
    assert notes == [
        "sigopt: the server failed (TimeoutError: no answer within 0.2 s); the search goes on locally"
    ]


@pytest.mark.parametrize("seconds", [0, -1, True, float("nan")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(InputError, match="sigopt_api_timeout must be a number of seconds, more than 0"):
        Sigopt(**GIVEN, sigopt_api_timeout=seconds)


@pytest.mark.parametrize("strategy", [Sigopt, Tpe])
def test_latency_is_minimised_where_the_goal_is_met(strategy):
    def latency(candidate):
        return 0.5 + 0.05 * sum(candidate.config_of(op) == OPTIONS[1] for op in candidate.ops)

    job = SimulatedJob(
        strategy,
        small_space(12),
        lambda candidate: 1.0,
        policy=ExitPolicy("budget", max_trials=64),
        objective="latency",
        latency=latency,
    )
    found = [latency(c.trial.candidate) for c in simulate(job, 3).commands if isinstance(c, Commit)]
    assert mean(found[-16:]) < 0.7  # 0.8 is the mean of the space, 0.1 is 2.3 deviations of 16 of it


@pytest.mark.parametrize("fails_at", [1, 2, 10, 20, 40])
def test_a_server_that_fails_is_told_once_and_the_local_search_goes_on(monkeypatch, fails_at):
    ended, notes = run(monkeypatch, StandIn(fails_at))
    assert len({row[2] for row in ended.table}) == 32
    assert notes == ["sigopt: the server failed (ConnectionError: refused); the search goes on locally"]


def test_a_missing_client_is_told_and_the_search_is_local(monkeypatch):
    ended, notes = run(monkeypatch, None)
    assert len(ended.table) == 32
    assert len(notes) == 1
    assert "the search goes on locally" in notes[0]


def test_without_an_address_the_search_is_local(monkeypatch):
    _, notes = run(monkeypatch, StandIn(), sigopt_api_url=None)
    assert notes == ["sigopt: without sigopt_api_token and sigopt_api_url the search is local"]
