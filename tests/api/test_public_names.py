"""`import disttune`: the names that users find there."""

import subprocess
import sys

import disttune


def test_every_public_name_is_listed_and_can_be_had():
    assert set(disttune.__all__) <= set(dir(disttune))
    assert all(getattr(disttune, name) is not None for name in disttune.__all__)


def test_importing_disttune_loads_no_runtime():
    heavy = {"onnx", "onnxruntime", "mpi4py", "numpy"}
    code = f"import sys, disttune; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
