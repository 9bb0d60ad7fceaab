"""Oracle: onnxruntime's QDQ rules as the docstring of the module says them, read from the marks."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from disttune.quantize.builder.float_model import FloatModel, read_float_model
from disttune.quantize.builder.tensor_schemes import WeightCopies
from disttune.quantize.sharing import UNIT_RANGE, Marks, mark_tensors, range_sources
from tests.models import Graph, tiny_cnn, value, with_branches

NO_COPIES = WeightCopies({}, {})


def marked(
    model: ModelProto, *ops: str, removes: bool = True, ranged: set[str] | None = None, **options
) -> Marks:
    """Marks of static ops (all when none is named); every activation has a range."""
    read = read_float_model(model)
    names = ops or tuple(node.name for node in read.nodes)
    known = read.floats if ranged is None else ranged
    sources = range_sources(read, names, known)
    return mark_tensors(
        read, names, NO_COPIES, ranged=sources, data_constants=(), removes_activations=removes, **options
    )


def chain(*types: str, **attributes) -> ModelProto:
    """Nodes of these types named after them, each reading the one before; x (N, 3, 8, 8)."""
    g, h = Graph(), "x"
    for kind in types:
        inputs = [h, g.weight(f"w_{kind}", 3, 3, 1, 1)] if kind.startswith("Conv") else [h]
        h = g.node(kind, *inputs, name=kind, output=f"{kind}_out", **attributes.get(kind, {}))
    return g.model([value("x", ["N", 3, 8, 8])], [value(h, ["N", 3, None, None])])


POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}


def test_inputs_outputs_and_weight_of_a_convolution_get_codes():
    marks = marked(tiny_cnn(), "conv1")
    assert marks.tensors == {"x": None, "conv1_0_out": None, "w1": None}
    assert [(b.name, b.data, b.weight) for b in marks.biases.values()] == [("b1", "x", "w1")]


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("MaxPool", POOL), ("AveragePool", POOL), ("Transpose", {"perm": [0, 1, 3, 2]}), ("Flatten", {})],
)
def test_an_op_that_moves_codes_shares_the_parameters_of_its_input(kind, attributes):
    marks = marked(chain("Conv", kind, **{kind: attributes}))
    assert marks.tensors[f"{kind}_out"] == "Conv_out"


@pytest.mark.parametrize("kind", ["MaxPool", "Relu"])
def test_an_op_that_moves_or_clips_stays_in_float_where_its_input_does(kind):
    assert marked(chain("Tanh", kind, **{"MaxPool": POOL}), kind).tensors == {}


def test_a_relu_behind_codes_goes_away_and_its_input_with_it():
    marks = marked(chain("Conv", "Relu"))
    assert (marks.removed, marks.written("Conv_out")) == ({"Relu"}, "Relu_out")
    assert marks.tensors == {"x": None, "w_Conv": None, "Relu_out": None}


def test_several_of_them_go_away_together():
    marks = marked(chain("Conv", "Relu", "Clip"))
    assert (marks.removed, marks.written("Conv_out")) == ({"Relu", "Clip"}, "Clip_out")


def test_a_relu_stays_where_the_lowest_code_is_not_zero():
    marks = marked(chain("Conv", "Relu"), removes=False)
    assert (marks.removed, list(marks.tensors)) == (set(), ["x", "Conv_out", "w_Conv", "Relu_out"])


@pytest.mark.parametrize("ranged", [{"x", "Conv_out"}, {"x", "Relu_out"}])
def test_a_relu_stays_where_a_range_is_missing(ranged):
    assert marked(chain("Conv", "Relu"), ranged=ranged).removed == set()


def test_a_relu_stays_where_another_op_or_the_user_reads_its_input():
    model = chain("Conv", "Relu")
    model.graph.output.append(value("Conv_out", ["N", 3, 8, 8]))
    assert marked(model).removed == set()
    model = chain("Conv", "Relu")
    model.graph.node.append(helper.make_node("Tanh", ["Conv_out"], ["t"], "Tanh"))
    model.graph.output.append(value("t", ["N", 3, 8, 8]))
    assert marked(model).removed == set()


def test_a_relu_stays_where_a_graph_inside_a_node_reads_its_input():
    model = with_branches()
    relu = helper.make_node("Relu", ["before_out"], ["r"], "relu")
    model.graph.node.insert(1, relu)
    model.graph.node[2].input[0] = "r"
    assert marked(model, "before", "relu").removed == set()


def test_the_input_of_a_relu_that_stays_takes_the_range_of_its_output():
    read = read_float_model(chain("Conv", "Relu"))
    assert range_sources(read, ["Conv", "Relu"], read.floats)["Conv_out"] == "Relu_out"
    assert range_sources(read, ["Conv"], read.floats)["Conv_out"] == "Conv_out"


def test_softmax_gives_the_unit_range_even_without_statistics():
    read = read_float_model(chain("Softmax"))
    assert range_sources(read, ["Softmax"], ["x"]) == {"x": "x", "Softmax_out": UNIT_RANGE}


def gather(table: bool) -> ModelProto:
    g = Graph()
    data = g.weight("t", 5, 4) if table else g.node("Tanh", "x", name="tanh", output="h")
    g.node("Gather", data, "ids", name="gather", output="y")
    return g.model([value("ids", ["N"], TensorProto.INT64), value("x", [5, 4])], [value("y", ["N", 4])])


def test_a_table_gets_codes_and_an_activation_is_gathered_as_it_is():
    assert marked(gather(table=True)).tensors == {"t": None, "y": "t"}
    assert marked(gather(table=False), "gather").tensors == {}
    assert marked(gather(table=False)).tensors == {"x": None, "h": None, "y": "h"}


def test_nothing_shares_several_scales():
    assert marked(gather(table=True), vectors={"t"}).tensors == {"t": None, "y": None}


@pytest.mark.parametrize(
    ("mode", "value_", "shares"),
    [("constant", None, True), ("constant", 0.0, True), ("constant", 0.5, False), ("edge", None, True)],
)
def test_pad_shares_where_what_it_pads_with_has_a_code(mode, value_, shares):
    g = Graph()
    inputs = ["x", g.constant("pads", np.array([0, 1]))]
    inputs += [] if value_ is None else [g.constant("v", np.float32(value_))]
    g.node("Pad", *inputs, name="pad", output="y", mode=mode)
    marks = marked(g.model([value("x", ["N"])], [value("y", ["M"])]))
    assert marks.tensors["y"] == ("x" if shares else None)


def test_split_gives_codes_to_its_input_and_where_does_not():
    g = Graph()
    parts = helper.make_node("Split", ["x"], ["a", "b"], "split")
    g.nodes.append(parts)
    condition = g.node("Greater", "a", "b", name="greater")
    g.node("Where", condition, "a", "b", name="where", output="y")
    model = g.model([value("x", [4])], [value("y", [2])])
    assert marked(model, "split").tensors == {"x": None, "a": "x", "b": "x"}
    assert marked(model, "where").tensors == {}
    assert marked(model, "split", "where").tensors["y"] is None


def test_an_excluded_tensor_stays_in_float():
    assert marked(tiny_cnn(), "conv1", excluded={"x"}).tensors == {"conv1_0_out": None, "w1": None}


def test_a_bias_that_is_data_elsewhere_is_marked_as_data():
    read = read_float_model(tiny_cnn())
    marks = mark_tensors(
        read, ["conv1"], NO_COPIES, ranged=read.floats, data_constants={"b1"}, removes_activations=True
    )
    assert marks.biases == {}
    assert "b1" in marks.tensors


def test_a_weight_only_op_marks_its_weight_alone():
    read: FloatModel = read_float_model(tiny_cnn())
    marks = mark_tensors(
        read, [], NO_COPIES, weights_only=["conv2"], ranged=(), data_constants=(), removes_activations=True
    )
    assert marks.tensors == {"w2": None}
