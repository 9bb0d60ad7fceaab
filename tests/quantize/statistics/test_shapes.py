import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from disttune.quantize.digest import serialize
from disttune.quantize.graph import prepare
from disttune.quantize.statistics.shapes import element_types, tensor_bytes
from tests.models import attention, feeds, mlp, recurrent, tiny_cnn, unnamed, value, with_branches
from tests.quantize.statistics.odd_models import looped


@pytest.mark.parametrize("make", [tiny_cnn, mlp, attention, recurrent])
def test_sizes_are_those_of_the_arrays_that_a_run_gives(make):
    model = prepare(make())
    (feed,) = feeds(model, 1, N=3, T=5)
    (output,) = (value.name for value in model.graph.output)
    sizes = tensor_bytes(model, feed)
    assert sizes[output] == run(model, feed, output).nbytes
    for node in model.graph.node:
        for name in filter(None, node.output):
            assert sizes[name] == run(model, feed, name).nbytes


def test_a_tensor_of_unknown_size_counts_as_the_largest():
    sizes = tensor_bytes(looped(), {"x": np.zeros((3, 4), np.float32)})
    assert sizes["looped"] == max(sizes.values()) == 48


@pytest.mark.parametrize("domains", [[], ["com.example"]])  # without its domain, inference fails altogether
def test_declared_types_and_shapes_help_where_onnx_does_not_know_an_operator(domains):
    model = mlp()
    model.graph.node[1].domain = "com.example"
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
    hidden = model.graph.node[1].output[0]
    assert hidden not in element_types(model)
    model.graph.value_info.append(helper.make_tensor_value_info(hidden, 1, ["N", 8]))
    assert element_types(model)[hidden] == 1
    assert tensor_bytes(model, {"x": np.zeros((3, 6), np.float32)})[hidden] == 3 * 8 * 4


def run(model: ModelProto, feed: dict[str, np.ndarray], name: str) -> np.ndarray:
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.append(ValueInfoProto(name=name))
    return onnxruntime.InferenceSession(serialize(copy), providers=["CPUExecutionProvider"]).run(None, feed)[
        0
    ]


def inferred(model: ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values if v.type.tensor_type.elem_type}


@pytest.mark.parametrize("make", [attention, recurrent, tiny_cnn, unnamed, with_branches])
def test_types_of_a_prepared_model_are_those_that_onnx_infers(make, monkeypatch):
    prepared = prepare(make())
    expected = inferred(prepared)
    monkeypatch.delattr(onnx.shape_inference, "infer_shapes")  # all are declared
    assert element_types(prepared) == expected


def test_where_one_type_is_missing_all_are_inferred():
    model = tiny_cnn()
    model.graph.value_info.append(value("relu1_1_out", None, TensorProto.FLOAT))
    assert element_types(model) == inferred(model)
    assert "flat_6_out" in element_types(model)
