"""What is imported with which module: `--help` is instant, and decisions need no model library."""

import subprocess
import sys

import pytest

HEAVY = {"onnx", "onnxruntime", "numpy", "mpi4py"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*(m for m in sys.modules if '.' not in m))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize("module", [
    "disttune.config", "disttune.config.errors", "disttune.config.tuning_config",
    "disttune.config.algorithms.static", "disttune.config.schemes", "disttune.config.goal",
])  # fmt: skip
def test_plain_modules_import_neither_pydantic_nor_anything_heavy(module):
    assert modules_after(f"import {module}").isdisjoint(HEAVY | {"pydantic"})


def test_job_file_imports_pydantic_and_nothing_heavy():
    loaded = modules_after("import disttune.config.job_file")
    assert "pydantic" in loaded
    assert loaded.isdisjoint(HEAVY)
