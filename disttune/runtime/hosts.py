"""Which machine a rank is on, which cores it may use, and how ranks of one node share them."""

import os
import platform
import socket
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from disttune.runtime.lock_holder import this_process
from disttune.runtime.replica import has_memory_files
from disttune.runtime.scratch import scratch_place
from disttune.runtime.start_messages import Host

VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


def this_host() -> Host:
    """What this process tells of its machine; `DISTTUNE_NODE` overrides how its node is told apart."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Host(
        socket.gethostname(),
        os.environ.get("DISTTUNE_NODE", _node()),
        os.getpid(),
        cores,
        _n_cores(),
        _cpu(),
        saturates(_cpu_flags()),
        this_process().started_ticks,
        "" if has_memory_files() else str(scratch_place()),
    )


def saturates(flags: Collection[str]) -> bool:
    """Whether sums of two products of uint8 and int8 saturate in onnxruntime's kernels.

    They do where it takes the AVX2 or AVX-512 kernels without the instructions made for it; other processors
    widen the products first.

    Args:
        flags: of the processor, as /proc/cpuinfo has them.
    """
    return "avx2" in flags and not VNNI.intersection(flags)


def reduced_range(asked: bool | None, recorded: bool | None, hosts: Mapping[int, Host]) -> tuple[bool, str]:
    """Whether weights take one bit less on all ranks, and a sentence for the user where that is new to him.

    Args:
        asked: what the job says; None leaves it to the processors.
        recorded: what the first session of a job decided that goes on; None for a new job.
        hosts: of all ranks: one decision holds for all, so that they measure the same models.
    """
    weak = [rank for rank, host in sorted(hosts.items()) if host.saturates]
    if asked is not None:
        return asked, ""
    if recorded is not None:
        kept = "7 bits" if recorded else "8 bits"
        sentence = (
            f"the processors are others than in the first session: weights keep the {kept} decided then"
        )
        return recorded, sentence if recorded != bool(weak) else ""
    if not weak:
        return False, ""
    cpus = sorted({hosts[rank].cpu for rank in weak})
    return True, (
        f"{', '.join(cpus)} has no VNNI and saturates sums of 8-bit products: int8 weights of ops on 8-bit "
        "codes take 7 bits on all ranks (quantization.reduce_range = false keeps 8)"
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


def memory_files_warning(hosts: Mapping[int, Host]) -> str | None:
    """One sentence when what ranks of a node share has to be in files."""
    without = {h.name: h.replica_folder for _, h in sorted(hosts.items()) if h.replica_folder}
    if not without:
        return None
    name, folder = next(iter(without.items()))
    who = f"{name} and {len(without) - 1} others refuse" if len(without) > 1 else f"{name} refuses"
    return (
        f"{who} memory files: what its ranks share is in a file in {folder}; let TMPDIR "
        "name a folder in memory, or a fast disk"
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
    return _cpu_fact("model name") or platform.machine()


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpu_fact("flags").split())


def _cpu_fact(name: str) -> str:
    """What the system says of the first core; empty where it does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
