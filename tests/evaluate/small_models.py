"""Small ONNX models for the tests of this folder."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from disttune.quantize.summary import InputSpec

X = InputSpec("x", "float32", ("N", 4))
IDS = InputSpec("ids", "int64", ("N", 8))


def linear(weight=None, bias=None) -> onnx.ModelProto:
    """y (N, n_classes) = x (N, 4) @ weight + bias; the identity by default."""
    weight = np.eye(4, dtype=np.float32) if weight is None else np.asarray(weight, np.float32)
    bias = np.zeros(weight.shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Random inputs of the linear model, shape (n, 4)."""
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


def write(path: Path, text: str) -> Path:
    """A file with that text; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
