"""Jobs with the engine "layered", which their evaluation registers, and what its works have left."""

from collections import Counter
from pathlib import Path
from typing import Any

from tests.distributed.jobs import make_job

LOG = "DISTTUNE_TEST_WORKS"


def make_layered_job(folder: Path, body: str = "", **options: Any) -> Path:
    """See `make_job`."""
    job = make_job(folder, body, quantization='engine = "layered"', **options)
    evaluation = folder / "eval.py"
    evaluation.write_text(f"import tests.distributed.layered_engine\n{evaluation.read_text()}")
    return job


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {LOG: str(folder / "works.log"), **more}


def done(folder: Path) -> Counter[str]:
    """How often each work was begun."""
    return Counter((folder / "works.log").read_text().splitlines())
