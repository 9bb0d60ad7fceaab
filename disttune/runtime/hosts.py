"""Which machine a rank is on, which cores it may use, and how ranks of one node share them."""

import os
import platform
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from disttune.runtime.messages import Host


def this_host() -> Host:
    """What this process tells of its machine; `DISTTUNE_NODE` overrides how its node is told apart."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Host(
        socket.gethostname(), os.environ.get("DISTTUNE_NODE", _node()), os.getpid(), cores, _n_cores(), _cpu()
    )


def share_threads(hosts: Mapping[int, Host]) -> dict[int, int]:
    """Threads for each rank: the cores of its affinity mask, divided by the ranks with the same mask."""
    sharing = Counter((h.node, h.cores) for h in hosts.values())
    return {rank: max(1, len(h.cores) // sharing[h.node, h.cores]) for rank, h in hosts.items()}


def binding_warning(hosts: Mapping[int, Host]) -> str | None:
    """One sentence when a launcher bound ranks to fewer cores than their share of the node."""
    ranks_on = Counter(h.node for h in hosts.values())
    bound = [r for r, h in sorted(hosts.items()) if len(h.cores) < h.n_cores // ranks_on[h.node]]
    if not bound:
        return None
    host = hosts[bound[0]]
    share = host.n_cores // ranks_on[host.node]
    return (
        f"rank {bound[0]}{f' and {len(bound) - 1} others are' if len(bound) > 1 else ' is'} bound to "
        f"{len(host.cores)} of {host.n_cores} cores where {share} would be its share: "
        'start mpirun with "--bind-to none" (launch/local.sh does)'
    )


def _node() -> str:
    """Equal for processes that can see each other's open files: same boot, same process space."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}/{os.getpid()}"


def _n_cores() -> int:
    """Cores that the launcher itself may use: what it could have given to its ranks."""
    own = len(os.sched_getaffinity(0))
    try:
        return max(own, len(os.sched_getaffinity(os.getppid())))
    except OSError:
        return own


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
