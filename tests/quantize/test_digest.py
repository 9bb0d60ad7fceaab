"""Oracle: two models have one digest exactly when they were written to compute the same thing."""

import itertools
import random

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from disttune.config.errors import InternalError
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.graph import prepare
from tests.models import (
    Graph,
    attention,
    depthwise_cnn,
    mlp,
    recurrent,
    shared_weight,
    tiny_cnn,
    value,
    with_branches,
)

MODELS = [tiny_cnn, depthwise_cnn, mlp, attention, recurrent, shared_weight, with_branches]


def renamed(model: ModelProto, seed: int) -> ModelProto:
    """The same model with other names for nodes, weights and tensors between, and the nodes shuffled."""
    shuffled = random.Random(seed)
    fixed = {v.name for v in (*model.graph.input, *model.graph.output)} | {""}
    numbers = itertools.count()
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if name in fixed else names.setdefault(name, f"t{seed}_{next(numbers)}")

    def rename(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.name = f"n{seed}_{next(numbers)}"
            node.doc_string = "other"
            node.input[:] = map(new, node.input)
            node.output[:] = map(new, node.output)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    rename(attribute.g)
        for tensor in graph.initializer:
            tensor.name = new(tensor.name)
        for result in graph.output:
            result.name = new(result.name)
        del graph.value_info[:]

    changed = ModelProto.FromString(serialize(model))
    rename(changed.graph)
    nodes = shuffled.sample(list(changed.graph.node), len(changed.graph.node))
    weights = shuffled.sample(list(changed.graph.initializer), len(changed.graph.initializer))
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(weights)
    return changed


def changed(model: ModelProto, change) -> ModelProto:
    copy = ModelProto.FromString(serialize(model))
    change(copy)
    return copy


def node(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", MODELS)
def test_names_and_order_do_not_count(make, seed):
    assert model_digest(renamed(make(), seed)) == model_digest(make())


@pytest.mark.parametrize("make", MODELS)
def test_different_models_have_different_digests(make):
    assert sum(model_digest(other()) == model_digest(make()) for other in MODELS) == 1


def test_a_digest_is_32_hexadecimal_digits():
    assert len(model_digest(mlp())) == 32
    int(model_digest(mlp()), 16)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "producer_name", "other"),
        lambda m: setattr(m, "doc_string", "other"),
        lambda m: setattr(m, "ir_version", 9),
        lambda m: helper.set_model_props(m, {"key": "value"}),
        lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
        lambda m: setattr(m.graph, "name", "other"),
        lambda m: m.graph.value_info.append(value("conv1_0_out", None)),
        lambda m: node(m, "fc").attribute.append(helper.make_attribute("alpha", 1.0)),  # its default
    ],
)
def test_what_changes_no_result_does_not_count(change):
    assert model_digest(changed(tiny_cnn(), change)) == model_digest(tiny_cnn())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.opset_import[0], "version", 18),
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 4),
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        lambda m: setattr(node(m, "relu1"), "op_type", "LeakyRelu"),
        lambda m: setattr(node(m, "relu1"), "domain", "com.microsoft"),
        lambda m: node(m, "fc").attribute.append(helper.make_attribute("alpha", 0.5)),
        lambda m: node(m, "pool").attribute.pop(),
        lambda m: node(m, "conv1").input.pop(),
        lambda m: m.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(2 * numpy_helper.to_array(m.graph.initializer[0]), "w1")
        ),
        lambda m: setattr(m.graph.initializer[1], "data_type", TensorProto.INT32),
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.float32(1), "unused")),
        lambda m: m.graph.output.append(value("relu1_1_out", None)),
    ],
)
def test_what_changes_a_result_or_the_size_counts(change):
    assert model_digest(changed(tiny_cnn(), change)) != model_digest(tiny_cnn())


def test_names_of_inputs_and_outputs_count():
    def other_input(model):
        model.graph.input[0].name = node(model, "fc1").input[0] = "other"

    def other_output(model):
        model.graph.output[0].name = node(model, "softmax").output[0] = "other"

    digests = {model_digest(changed(mlp(), change)) for change in (lambda _: None, other_input, other_output)}
    assert len(digests) == 3


def test_inputs_that_change_places_count():
    def difference(first: str, second: str) -> ModelProto:
        g = Graph()
        g.node("Sub", first, second, output="y")
        return g.model([value("a", [2]), value("b", [2])], [value("y", [2])])

    assert model_digest(difference("a", "b")) != model_digest(difference("b", "a"))


def test_what_a_branch_computes_counts():
    def other_branch(model):
        branch = node(model, "choose").attribute[0].g
        branch.node[0].op_type = "Add"

    assert model_digest(changed(with_branches(), other_branch)) != model_digest(with_branches())


def test_one_shared_tensor_is_not_two_equal_ones():
    def copied(model):
        copy = numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[0]), "copy")
        model.graph.initializer.append(copy)
        node(model, "second").input[1] = "copy"

    assert model_digest(changed(shared_weight(), copied)) != model_digest(shared_weight())


def test_one_shared_node_is_not_two_equal_ones():
    def twice(model):
        again = node(model, "tanh")
        copy = model.graph.node.add()
        copy.CopyFrom(again)
        copy.name, copy.output[0] = "again", "again_out"
        node(model, "second").input[0] = "again_out"

    assert model_digest(changed(shared_weight(), twice)) != model_digest(shared_weight())


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-1, 1, 5, dtype=np.float32),
        np.arange(5, dtype=np.int64),
        np.arange(5, dtype=np.uint8),
        np.array([True, False]),
        np.float16([0.5, 1.5]),
    ],
)
def test_it_does_not_count_where_a_tensor_keeps_its_values(values):
    raw = numpy_helper.from_array(values, "c")
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    typed = helper.make_tensor("c", kind, values.shape, values.tolist())
    assert raw.HasField("raw_data")
    assert not typed.HasField("raw_data")
    models = []
    for tensor in (raw, typed):
        graph = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["y"])], "g", [], [value("y", None, kind)], [tensor]
        )
        models.append(helper.make_model(graph))
    assert model_digest(models[0]) == model_digest(models[1])


def test_four_bit_values_count_by_value_not_by_packing():
    digests = set()
    for raw in (False, True):
        codes = bytes([0x21, 0x03]) if raw else [1, 2, 3]
        tensor = helper.make_tensor("c", TensorProto.INT4, [3], codes, raw=raw)
        graph = helper.make_graph(
            [helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)],
            "g",
            [],
            [value("y", None)],
            [tensor],
        )
        digests.add(model_digest(helper.make_model(graph)))
    assert len(digests) == 1


def test_a_tensor_in_a_file_is_our_fault():
    model = tiny_cnn()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(InternalError, match='"w1" lies in a file'):
        model_digest(model)


def test_serializing_gives_a_file_that_onnx_reads_back():
    model = prepare(attention())
    assert onnx.load_model_from_string(serialize(model)) == model
