"""Which accelerator a process computes on: ranks of one node take one each, in turn.

A process is told its number by `DISTTUNE_DEVICE` (the runtime sets it to the local rank). Where a launcher
has given each rank an accelerator of its own, that one is the only one visible, and taken.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

Provider = str | tuple[str, dict[str, str]]

DEVICE_VARIABLE = "DISTTUNE_DEVICE"
# Execution providers of onnxruntime with an option device_id, and the variables that say which are visible.
VISIBLE = {
    "CUDAExecutionProvider": ("CUDA_VISIBLE_DEVICES",),
    "TensorrtExecutionProvider": ("CUDA_VISIBLE_DEVICES",),
    "NvTensorRTRTXExecutionProvider": ("CUDA_VISIBLE_DEVICES",),
    "ROCMExecutionProvider": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    "MIGraphXExecutionProvider": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
}
NVIDIA = Path("/proc/driver/nvidia/gpus")
AMD = Path("/sys/class/kfd/kfd/topology/nodes")


def with_devices(
    providers: Sequence[str], environment: Mapping[str, str] = os.environ, found: int | None = None
) -> list[Provider]:
    """Execution providers as a session takes them: those of accelerators with this process's device.

    Args:
        providers: names, in order.
        environment: of the process.
        found: accelerators of the machine; counted when None.
    """
    number = environment.get(DEVICE_VARIABLE, "")
    return [
        (name, {"device_id": str(int(number) % _n_visible(name, environment, found))})
        if name in VISIBLE and number.isdigit()
        else name
        for name in providers
    ]


def _n_visible(provider: str, environment: Mapping[str, str], found: int | None) -> int:
    """How many accelerators a process sees; 1 where nothing tells."""
    for variable in VISIBLE[provider]:
        if visible := [name for name in environment.get(variable, "").split(",") if name.strip()]:
            return len(visible)
    if found is not None:
        return max(1, found)
    if VISIBLE[provider] == ("CUDA_VISIBLE_DEVICES",):
        return max(1, _n_entries(NVIDIA))
    return max(1, _n_with_cores(AMD))


def _n_entries(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0


def _n_with_cores(folder: Path) -> int:
    """Nodes of AMD's driver that are accelerators: processors have no SIMD units there."""
    n = 0
    for properties in folder.glob("*/properties"):
        try:
            lines = dict(line.split(maxsplit=1) for line in properties.read_text().splitlines())
        except (OSError, ValueError):
            continue
        n += int(lines.get("simd_count", "0")) > 0
    return n
