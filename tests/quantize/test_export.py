import errno
import io
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from disttune.config.errors import RunDirectoryError
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.export import save_model
from disttune.quantize.graph import read_model
from tests.models import Graph, mlp, tiny_cnn, value


def wide(seed: int = 0) -> onnx.ModelProto:
    """A MatMul with a weight of 16 kB, an Add with 256 bytes in typed fields, and a string."""
    g = Graph(seed)
    h = g.node("MatMul", "x", g.weight("w", 64, 64), name="product")
    g.initializers.append(helper.make_tensor("b", onnx.TensorProto.FLOAT, [64], [0.5] * 64))
    g.initializers.append(helper.make_tensor("v", onnx.TensorProto.FLOAT, [16, 64], [float(seed)] * 1024))
    g.initializers.append(helper.make_tensor("labels", onnx.TensorProto.STRING, [2], [b"cat", b"dog"]))
    g.node("MatMul", g.node("MatMul", g.node("Add", h, "b"), g.weight("s", 64, 16)), "v", output="y")
    g.node("Identity", "labels", output="names")
    return g.model(
        [value("x", ["N", 64])], [value("y", ["N", 64]), value("names", [2], onnx.TensorProto.STRING)]
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_small_model_is_one_file(tmp_path):
    save_model(mlp(), tmp_path / "best.onnx")
    assert (tmp_path / "best.onnx").read_bytes() == serialize(mlp())
    assert names(tmp_path) == ["best.onnx"]


def test_a_large_model_has_its_tensors_in_a_second_file(tmp_path):
    save_model(wide(), tmp_path / "best.onnx", external_from_bytes=1000)
    assert names(tmp_path) == ["best.onnx", "best.onnx.data"]
    assert (tmp_path / "best.onnx").stat().st_size < 3000
    read = read_model(tmp_path / "best.onnx")
    assert model_digest(read) == model_digest(wide())
    for tensor, expected in zip(read.graph.initializer, wide().graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(expected))
    onnx.checker.check_model(tmp_path / "best.onnx")


def test_a_large_model_runs_from_its_files_as_it_does_from_memory(tmp_path):
    save_model(wide(), tmp_path / "best.onnx", external_from_bytes=1000)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    expected = onnxruntime.InferenceSession(serialize(wide())).run(["y"], {"x": x})[0]
    assert np.array_equal(
        onnxruntime.InferenceSession(tmp_path / "best.onnx").run(["y"], {"x": x})[0], expected
    )


def test_saving_changes_nothing_in_the_model(tmp_path):
    model = wide()
    save_model(model, tmp_path / "best.onnx", external_from_bytes=1000)
    assert serialize(model) == serialize(wide())


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_model(wide(), tmp_path / folder / "best.onnx", external_from_bytes=1000)
    for name in ("best.onnx", "best.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("limit", [1000, 10**9])
def test_a_later_model_takes_the_place_of_the_one_before(tmp_path, limit):
    save_model(wide(1), tmp_path / "best.onnx", external_from_bytes=1000)
    save_model(wide(2), tmp_path / "best.onnx", external_from_bytes=limit)
    assert model_digest(read_model(tmp_path / "best.onnx")) == model_digest(wide(2))
    assert names(tmp_path) == ["best.onnx"] + ["best.onnx.data"] * (limit == 1000)


class Full(io.FileIO):
    """A file on a disk that is full."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("full", [1, 2])
@pytest.mark.parametrize("limit", [1000, 10**9])
def test_a_full_disk_leaves_the_model_before_and_is_told(tmp_path, monkeypatch, full, limit):
    save_model(wide(1), tmp_path / "best.onnx", external_from_bytes=limit)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    opened = []

    def opening(path, mode):
        opened.append(path)
        is_full = len(opened) == (full if limit == 1000 else 1)
        return io.BufferedWriter(Full(path, mode) if is_full else io.FileIO(path, mode))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        with pytest.raises(
            RunDirectoryError, match=r"best\.onnx: the model cannot be written: No space left on device"
        ):
            save_model(wide(1), tmp_path / "best.onnx", external_from_bytes=limit)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(RunDirectoryError, match="cannot be written: No such file or directory"):
        save_model(tiny_cnn(), tmp_path / "nowhere" / "best.onnx")
