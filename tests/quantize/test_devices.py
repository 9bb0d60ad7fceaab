"""Accelerators: ranks of a node take one each, in turn; seen by the options made, without one."""

import pytest

from disttune.quantize.devices import DEVICE_VARIABLE, with_devices

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("rank", "visible", "found", "device"),
    [
        ("0", None, 4, "0"),
        ("3", None, 4, "3"),
        ("5", None, 4, "1"),  # two ranks on an accelerator
        ("2", "7", 8, "0"),  # the launcher gave each rank its own
        ("1", "4,5", 8, "1"),
        ("3", None, 0, "0"),  # nothing tells how many there are
    ],
)
def test_ranks_take_devices_in_turn(rank: str, visible: str | None, found: int, device: str):
    environment = {DEVICE_VARIABLE: rank} | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})

    assert with_devices([CUDA, CPU], environment, found) == [(CUDA, {"device_id": device}), CPU]


def test_without_a_number_or_an_accelerator_providers_stay_names():
    assert with_devices([CUDA, CPU], {}, 4) == [CUDA, CPU]
    assert with_devices([CPU], {DEVICE_VARIABLE: "2"}, 4) == [CPU]
