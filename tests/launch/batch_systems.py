"""Batch systems that are not there: the variables that the real ones set, and commands that note calls.

A script runs from a copy elsewhere, as from a scheduler's spool folder; a signal reaches its shell alone.
"""

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.distributed.launch import MARKER, ROOT, Launched, find_mpirun

NO_SLURM = {"PRTE_MCA_plm": "^slurm", "PRTE_MCA_ras": "^slurm"}  # mpirun must not look for the real one
NOTED = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
"""
SHOWN = """#!/usr/bin/env bash
echo "mpirun $* until ${DISTTUNE_END_TIME:-}"
"""


@dataclass(frozen=True)
class BatchSystem:
    """What a job finds.

    Args:
        script: in launch/.
        variables: of a job with 2 ranks; FOLDER stands for where it was submitted, NODES for a file of nodes.
        commands: what the system's own print, by name.
        arguments_in: variable for disttune's arguments where the script takes none itself.
        put_back: the call by which an interrupted job is run again; "" where its exit code does it.
    """

    script: str
    variables: Mapping[str, str]
    commands: Mapping[str, str]
    arguments_in: str
    put_back: str


SYSTEMS = {
    "slurm": BatchSystem(
        "slurm/tune.sh",
        {
            "SLURM_JOB_ID": "77",
            "SLURM_JOBID": "77",
            "SLURM_NTASKS": "2",
            "SLURM_NNODES": "1",
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_TASKS_PER_NODE": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_CLUSTER_NAME": "stub",
            "SLURM_SUBMIT_DIR": "FOLDER",
        },
        {"squeue": "2035-01-01T00:00:00", "scontrol": ""},
        "",
        "scontrol requeue 77",
    ),
    "pbs": BatchSystem(
        "pbs/tune.sh",
        {"PBS_JOBID": "77.stub", "PBS_O_WORKDIR": "FOLDER", "PBS_NODEFILE": "NODES"},
        {"qstat": "Job Id: 77.stub\n    Resource_List.walltime = 10:30:00", "qsub": "78.stub"},
        "DISTTUNE_ARGUMENTS",
        f"qsub -v DISTTUNE_ARGUMENTS,DISTTUNE_HOME,DISTTUNE_RESTARTS,{MARKER},DISTTUNE_VENV "
        f"{ROOT}/launch/pbs/tune.sh",
    ),
    "lsf": BatchSystem(
        "lsf/tune.sh",
        {"LSB_JOBID": "77", "LSB_JOBINDEX": "0", "LS_SUBCWD": "FOLDER", "LSB_DJOB_HOSTFILE": "NODES"},
        {"bjobs": "10:30 L"},
        "DISTTUNE_ARGUMENTS",
        "",
    ),
}


class Job:
    """One job of a batch system, in a folder.

    Args:
        system: which.
        folder: where it is submitted, and where all that stands for the system is.
        shows: mpirun only shows its arguments.
    """

    def __init__(self, system: BatchSystem, folder: Path, shows: bool = False):
        self.system = system
        self.folder = folder
        self.calls = folder / "calls"
        commands = folder / "commands"
        for name, printed in system.commands.items():
            write_command(commands / name, f"{NOTED}printf '%s\\n' {shlex.quote(printed)}\n")
        if system.script.startswith("slurm"):
            write_command(commands / "srun", NOTED + srun())
        self._spooled = folder / "spool" / "job_script"
        self._spooled.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "launch" / system.script, self._spooled)
        nodes = folder / "nodes"
        nodes.write_text("localhost\nlocalhost\n")
        given = {"FOLDER": str(folder), "NODES": str(nodes)}
        self.environment = NO_SLURM | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "DISTTUNE_HOME": str(ROOT),
            "DISTTUNE_VENV": str(make_environment(folder / "venv", shows)),
            **{name: given.get(text, text) for name, text in system.variables.items()},
        }

    def start(self, *arguments: str | Path, **environment: str) -> Launched:
        """Run the script as the scheduler does."""
        texts = [str(a) for a in arguments]
        if self.system.arguments_in:
            environment[self.system.arguments_in] = " ".join(texts)
            texts = []
        return Launched(["bash", str(self._spooled), *texts], self.environment | environment, cwd=self.folder)

    def noted(self) -> list[str]:
        """Calls of the system's commands that change something."""
        asked = ("squeue", "qstat", "bjobs")
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if not line.startswith(asked)]


def make_environment(folder: Path, shows: bool = False) -> Path:
    """A virtual environment as launch/environment.sh leaves it: this Python, and its mpirun."""
    write_command(folder / "bin/python", f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    real = SHOWN if shows else f'#!/usr/bin/env bash\nexec {find_mpirun()} "$@"\n'
    write_command(folder / "bin/mpirun", real)
    shutil.copy(ROOT / "pyproject.toml", folder / ".disttune-mpi")
    return folder


def write_command(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def srun() -> str:
    """Starts the tasks with the environment's mpirun: the real one's place, not its way."""
    return 'while [[ $1 == -* ]]; do shift; done\nexec "$DISTTUNE_VENV/bin/mpirun" -np "$SLURM_NTASKS" "$@"\n'
