"""Hosts on one machine: network, name, process and mount namespaces of their own, and a bridge.

A host sees the programs, but not the folders of the others: over the job's folder and the place for temporary
files lies an empty file system of its own. A script and a thread stand in for ssh.
"""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.launch.batch_systems import write_command

REACHABLE_S = 3.0  # after a cable was put back
NAMESPACES = ("--net", "--uts", "--pid", "--mount")
ASK = """\
#!{python}
# ssh HOST COMMAND ...
import socket, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({socket!r})
    text = "\\0".join([words[0], " ".join(words[1:])]).encode()
    socket.send_fds(asked, [text], [0, 1, 2])
    sys.exit(int(asked.recv(8) or b"255"))
"""


class Hosts:
    """Hosts that reach each other by name.

    Args:
        folder: for what stands for the network.
        names: of the hosts.
        job: folder that the first alone sees.
    """

    def __init__(self, folder: Path, names: Sequence[str], job: Path):
        self.names = names
        self.host_names = folder / "names"
        self.rsh = folder / "rsh"
        self.calls = folder / "calls"
        self._shell = folder / "shell"
        self._job = job
        self._temporary = folder / "t"
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, str] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._switch = f"dts{uuid.uuid4().hex[:6]}"
        self._temporary.mkdir()
        lines = [f"10.77.0.{i} {name}" for i, name in enumerate(names, 1)]
        self.host_names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        write_command(self.rsh, ASK.format(python=sys.executable, socket=str(self._shell)))
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def on(self, host: str, *command: str | Path) -> list[str]:
        """A command line that runs on a host."""
        return [
            "nsenter", f"--target={self._pids[host]}", "--net", "--uts", "--pid", "--mount", "--",
            "env", f"--chdir={self._job}", f"TMPDIR={self._temporary}", *map(str, command),
        ]  # fmt: skip

    def cut(self, host: str) -> None:
        """Pull the cable."""
        run("ip", "-n", self._switch, "link", "set", host, "down")

    def join(self, host: str) -> None:
        """Put it back."""
        run("ip", "-n", self._switch, "link", "set", host, "up")
        time.sleep(REACHABLE_S)

    def received_bytes(self, host: str) -> int:
        """What has come in over the network so far."""
        command = self.on(host, "cat", "/proc/net/dev")
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        line = next(line for line in shown.splitlines() if "eth0:" in line)
        return int(line.partition(":")[2].split()[0])

    def close(self) -> None:
        self._server.close()
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        subprocess.run(["ip", "netns", "delete", self._switch], stderr=subprocess.DEVNULL, check=False)

    def _serve(self) -> None:
        while True:
            try:
                asked, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(asked,), daemon=True).start()

    def _run(self, asked: socket.socket) -> None:
        """Run a command on a host with the input and outputs of who asked."""
        text, descriptors, _, _ = socket.recv_fds(asked, 2**16, 3)
        host, command = text.decode().split("\0")
        with self.calls.open("a") as calls:
            calls.write(f"{host}\n")
        stdin, stdout, stderr = descriptors
        words = self.on(host, "bash", "-c", command)
        code = subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=stderr).wait()
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(OSError), asked:
            asked.sendall(str(code % 256).encode())

    def _make(self) -> None:
        self._server.bind(str(self._shell))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        run("ip", "netns", "add", self._switch)
        run("ip", "-n", self._switch, "link", "add", "name", "bridge", "type", "bridge")
        run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for i, name in enumerate(self.names, 1):
            self._holders[name] = self._start(name, hides_job=i > 1)
            pid = self._pids[name] = str(psutil.Process(self._holders[name].pid).children()[0].pid)
            run(
                "ip",
                "-n",
                self._switch,
                "link",
                "add",
                "name",
                name,
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                pid,
            )
            run("ip", "-n", self._switch, "link", "set", name, "master", "bridge", "up")
            inside = ("nsenter", f"--target={pid}", "--net", "ip")
            run(*inside, "address", "add", f"10.77.0.{i}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")

    def _start(self, name: str, hides_job: bool) -> subprocess.Popen[bytes]:
        hidden = [self._temporary, *([self._job] if hides_job else [])]
        script = textwrap.dedent(f"""\
            set -e
            hostname {name}
            for folder in {" ".join(map(str, hidden))}; do mount -t tmpfs none "$folder"; done
            mount --bind {self.host_names} /etc/hosts
            echo ready
            exec sleep infinity
            """)
        holder = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        return holder


def can_make_hosts() -> bool:
    """Whether this user may make namespaces and a bridge."""
    return (
        os.geteuid() == 0
        and not subprocess.run(
            ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "name", "br0", "type", "bridge"],
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    )


def run(*command: str) -> None:
    subprocess.run(command, check=True)
