"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, set up and taken down.

Everything but the programs is in a temporary folder, with ports that are free now.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from tests.distributed.launch import ROOT
from tests.launch.batch_systems import make_environment

INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """\
ClusterName=disttune
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ctld_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=5
ReturnToService=2
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


class Cluster:
    """Nodes n1 and n2 with two CPUs each; `close` ends all daemons."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dts-"))  # short: sockets are made in there
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_", "SLURM"))
        } | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "DISTTUNE_HOME": str(ROOT),
            "DISTTUNE_VENV": str(make_environment(self.folder / "venv")),
            "PYTHONPATH": str(ROOT),
        }
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self, *command: str | Path) -> str:
        """What a command of Slurm prints."""
        ran = subprocess.run(
            [str(word) for word in command], env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout.strip()

    def submit(self, folder: Path, *words: str | Path) -> str:
        """Submit the shipped script with two tasks on each of two nodes; returns the job's id."""
        options = ["--nodes=2", "--ntasks-per-node=2", f"--chdir={folder}", f"--output={folder}/log"]
        return self.run("sbatch", "--parsable", *options, *words)

    def state(self, job: str) -> str:
        fields = self.run("scontrol", "show", "job", "--oneliner", job).split()
        return next(f.partition("=")[2] for f in fields if f.startswith("JobState="))

    def end(self, job: str, timeout_s: float = 400.0) -> str:
        """The state in which a job ends, other than by going back into the queue."""
        until_s = time.monotonic() + timeout_s
        while (state := self.state(job)) not in ENDED:
            assert time.monotonic() < until_s, f"job {job} is {state}\n{self.logs()}"
            self._hurry(job)
            time.sleep(0.5)
        return state

    def _hurry(self, job: str) -> None:
        """Slurm keeps a job that was put back for two minutes; its old rights end in some seconds."""
        words = self.run("scontrol", "show", "job", "--oneliner", job)
        told = dict(word.partition("=")[::2] for word in words.split())
        if told["JobState"] == "PENDING" and told["Reason"] == "BeginTime":
            start = datetime.fromisoformat(told["EligibleTime"])
            if start - datetime.now() > timedelta(seconds=60):
                self.run("scontrol", "update", f"jobid={job}", "starttime=now+10")

    def logs(self) -> str:
        return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        if self._daemons:
            subprocess.run(["scancel", "--user=root"], env=self.environment, check=False)
            time.sleep(2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        (self.folder / "state").mkdir()
        ports = dict(zip(("ctld_port", "n1_port", "n2_port"), free_ports(3), strict=True))
        text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(text)
        socket_file = self.folder / "munge.socket"
        files = {"key-file": key, "socket": socket_file, "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={self.folder / path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--log-file={self.folder}/munge.log", *options)
        wait_until(socket_file.exists)
        self._daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            (self.folder / f"spool-{node}").mkdir()
            self._daemon("slurmd", "-D", "-N", node)
        wait_until(lambda: "idle" in self._nodes() and "*" not in self._nodes(), 60.0)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-out.log").open("ab") as output:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=output, stderr=output, cwd=self.folder)
            )

    def _nodes(self) -> str:
        ran = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=self.environment, capture_output=True, text=True
        )
        return ran.stdout


def is_installed() -> bool:
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/bin"
    return all(shutil.which(program, path=path) for program in PROGRAMS)


def free_ports(n: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def wait_until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.1)
