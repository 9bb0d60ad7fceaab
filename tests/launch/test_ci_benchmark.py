"""The shipped CI workflow played through: its own commands, on two commits, one with a made regression."""

import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.distributed.launch import ROOT
from tests.launch.batch_systems import make_environment

WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / "launch/ci/benchmark.yml").read_text())
JOB = "job.toml"


def checkout(folder: Path, **changed: str) -> None:
    """This repository, and the job that the workflow tunes, with changed lines."""
    folder.mkdir(parents=True)
    for name in ("launch", "disttune", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    make_environment(folder / ".venv")
    example = ROOT / "disttune/examples/digits_cnn"
    for path in example.iterdir():
        if path.name != JOB:
            (folder / path.name).symlink_to(path)
    text = (example / JOB).read_text()
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    (folder / JOB).write_text(text)


def play(folder: Path, *names: str) -> list[int]:
    """Exit codes of the workflow's steps whose names start so, as the runner starts them."""
    steps = [s for s in WORKFLOW["jobs"]["benchmark"]["steps"] if str(s.get("name", "")).startswith(names)]
    assert len(steps) == len(names)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    environment |= {k: str(v) for k, v in WORKFLOW["env"].items()}
    environment |= {"JOB": JOB, "RANKS": "2", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return [
        subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=folder, env=environment, capture_output=True, timeout=120, check=False,
        ).returncode
        for step in steps
    ]  # fmt: skip


def test_workflow_parses_and_runs_scripts_of_the_repository():
    steps = WORKFLOW["jobs"]["benchmark"]["steps"]

    assert set(WORKFLOW[True]) == {"pull_request", "workflow_dispatch"}  # YAML 1.1 reads "on" so
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert (ROOT / WORKFLOW["env"]["JOB"]).is_file()


@pytest.mark.parametrize(
    ("changed", "codes", "words"),
    [({}, [0, 0, 0], "| ok |"), ({"max_trials": "max_trials = 1 # "}, [0, 0, 4], "REGRESSION")],
    ids=["as good", "worse"],
)
def test_gate_lets_the_same_pass_and_stops_what_is_worse(
    changed: dict[str, str], codes: list[int], words: str, tmp_path: Path
):
    checkout(tmp_path / "base")
    checkout(tmp_path / "new", **changed)

    assert play(tmp_path, "Tune the base", "Tune this", "Compare") == codes

    summary = (tmp_path / "summary.md").read_text()
    assert "## disttune: new" in summary
    assert words in summary
    assert ElementTree.parse(tmp_path / "runs/junit.xml").getroot().tag.startswith("testsuite")
