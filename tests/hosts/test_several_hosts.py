"""Three hosts with two ranks each and no file system in common; a cable is pulled.

On demand, as root (namespaces and a bridge): `pytest -m on_demand tests/hosts`.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.distributed.jobs import make_job, table, write_evaluation
from tests.distributed.launch import ROOT, Launched, disttune, run
from tests.hosts.machines import Hosts, can_make_hosts
from tests.launch.batch_systems import make_environment

pytestmark = pytest.mark.on_demand
Start = Callable[..., Launched]
LOST_S = 6  # without a sign of life


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's folder, with what it gives on this machine alone."""
    folder = tmp_path / "job"
    make_job(folder)
    run(disttune("tune", folder / "job.toml", "-o", folder / "undisturbed"))
    return folder


@pytest.fixture
def hosts(tmp_path: Path, job: Path) -> Iterator[Hosts]:
    if not can_make_hosts():
        pytest.skip("this user may not make namespaces")
    hosts = Hosts(tmp_path, ("h1", "h2", "h3"), job)
    yield hosts
    hosts.close()


@pytest.fixture
def start(hosts: Hosts, job: Path, tmp_path: Path) -> Start:
    """Starts launch/hosts.sh on h1, with two ranks on each host."""
    environment = {
        "DISTTUNE_VENV": str(make_environment(tmp_path / "venv")),
        "DISTTUNE_RSH": str(hosts.rsh),
    }

    def start(*options: str) -> Launched:
        words = ("h1:2,h2:2,h3:2", "tune", "job.toml", "-o", "run", *options)
        return Launched(hosts.on("h1", ROOT / "launch/hosts.sh", *words), environment, cwd=job)

    return start


def test_job_runs_on_hosts_that_share_nothing(hosts: Hosts, job: Path, start: Start):
    ended = start().wait()

    assert ended.code == 3, ended.text
    assert "6 rank(s) on 3 node(s)" in ended.stdout
    assert sorted(hosts.calls.read_text().split()) == ["h2", "h3"]
    assert table(job / "run") == table(job / "undisturbed")
    seen = subprocess.run(hosts.on("h2", "ls", job), capture_output=True, text=True, check=True)
    assert seen.stdout == ""


def test_model_crosses_the_network_once_for_each_host(hosts: Hosts, job: Path, start: Start):
    n_bytes = make_larger(job / "model.onnx", 24_000_000)
    before = {host: hosts.received_bytes(host) for host in hosts.names}

    write_evaluation(job, "time.sleep(1.0)")  # so that every rank gets a trial
    ended = start().wait()

    assert ended.code in (0, 3), ended.text
    for host in ("h2", "h3"):
        assert n_bytes < hosts.received_bytes(host) - before[host] < 1.5 * n_bytes


def test_job_survives_a_cut_cable_and_says_its_result_again(hosts: Hosts, job: Path, start: Start):
    """mpirun waits for a host that it cannot reach, so it is the job's time limit that ends it."""
    options = ("--set", f"runtime.lost_after={LOST_S}", "--set", "runtime.heartbeat=1")
    write_evaluation(job, "time.sleep(3.0)")
    session = start(*options)
    session.wait_for(", rank 5\n")  # which then has its next trial

    hosts.cut("h3")
    session.wait_for("goal not met")
    said = session.said()
    session.kill_all()
    session.wait()
    hosts.join("h3")

    assert "rank 5 takes no further part: nothing was heard of it" in said
    assert start(*options).wait().code == 3
    assert table(job / "run") == table(job / "undisturbed")


def make_larger(path: Path, n_bytes: int) -> int:
    """Let a model read a large table, too; returns its new size."""
    model = onnx.load(path)
    values = np.random.default_rng(0).standard_normal((n_bytes // 32, 8)).astype(np.float32)
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "table"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("ArgMax", ["x"], ["row"], axis=1, keepdims=0),
            onnx.helper.make_node("Gather", ["table", "row"], ["read"]),
            onnx.helper.make_node("Add", ["before", "read"], ["y"]),
        ]
    )
    onnx.save_model(model, path)
    return path.stat().st_size
