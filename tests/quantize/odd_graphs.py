"""Small graphs as exporters and people write them: shared, computed and odd constants, names, opsets."""

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.models import Graph, value

IMAGE = [value("x", ["N", 3, 8, 8])]
ROWS = [value("x", ["N", 4])]


def _y(*more: str) -> list[object]:
    return [value(name, None) for name in ("y", *more)]


def _image_graph(opset: int = 17, **attributes: object) -> Callable[[], ModelProto]:
    """Conv, Relu, MaxPool, Flatten, Gemm."""

    def make() -> ModelProto:
        g = Graph(1)
        wanted = attributes or {"pads": [1, 1, 1, 1]}
        h = g.node("Conv", "x", g.weight("w1", 4, 3, 3, 3), g.weight("b1", 4), name="c1", **wanted)
        h = g.node("MaxPool", g.node("Relu", h, name="r"), name="p", kernel_shape=[2, 2])
        h = g.node("GlobalAveragePool", h, name="mean")
        h = g.node("Flatten", h, name="f")
        g.node("Gemm", h, g.weight("w2", 4, 5), g.weight("b2", 5), name="fc", output="y")
        model = g.model(IMAGE, _y(), opset=opset)
        model.ir_version = 8 if opset < 21 else 10
        return model

    return make


def transposed_weight() -> ModelProto:
    g = Graph(2)
    h = g.node("MatMul", "x", g.node("Transpose", g.weight("w", 6, 4), name="t", perm=[1, 0]), name="m1")
    g.node("MatMul", h, "w", name="m2", output="y")
    return g.model(ROWS, _y())


def tied_embedding() -> ModelProto:
    g = Graph(3)
    h = g.node("Gather", g.weight("e", 50, 8), "ids", name="g")
    h = g.node("MatMul", h, g.weight("w", 8, 8), name="m")
    g.node("MatMul", h, g.node("Transpose", "e", name="t", perm=[1, 0]), name="head", output="y")
    return g.model([value("ids", ["N", "T"], TensorProto.INT64)], _y())


def shared_bias() -> ModelProto:
    g = Graph(4)
    h = g.node("Conv", "x", g.weight("w1", 4, 3, 3, 3), g.weight("b", 4), name="c1")
    h = g.node("Conv", h, g.weight("w2", 4, 4, 1, 1), "b", name="c2")
    row = g.node("Reshape", "b", g.constant("s", np.int64([1, 4, 1, 1])), name="r")
    g.node("Add", h, row, name="a", output="y")
    return g.model(IMAGE, _y())


def resized() -> ModelProto:
    g = Graph(5)
    h = g.node("Conv", "x", g.weight("w1", 4, 3, 3, 3), name="c1")
    h = g.node("Resize", h, "", g.constant("s", np.float32([1, 1, 2, 2])), name="up", mode="nearest")
    h = g.node("Concat", h, h, name="cat", axis=1)
    g.node("Conv", h, g.weight("w2", 2, 8, 1, 1), name="c2", output="y")
    return g.model(IMAGE, _y())


def normalized_in_groups() -> ModelProto:
    g = Graph(6)
    h = g.node("Conv", "x", g.weight("w1", 4, 3, 3, 3), name="c1")
    h = g.node("GroupNormalization", h, g.weight("s", 4), g.weight("b", 4), name="gn", num_groups=2)
    g.node("Conv", h, g.weight("w2", 2, 4, 1, 1), name="c2", output="y")
    model = g.model(IMAGE, _y(), opset=21)
    model.ir_version = 10
    return model


def names_like_new_ones() -> ModelProto:
    g = Graph(7)
    h = g.node("Conv", "x_QuantizeLinear_Output", g.weight("w", 4, 3, 3, 3), g.weight("x_scale", 4),
               name="x_QuantizeLinear", output="x_DequantizeLinear_Output")  # fmt: skip
    h = g.node("Relu", h, name="w_DequantizeLinear", output="w_quantized")
    weight, bias = g.weight("w_float16", 2, 4, 1, 1), g.weight("w_zero_point", 2)
    g.node("Conv", h, weight, bias, name="y_float16", output="y")
    return g.model([value("x_QuantizeLinear_Output", ["N", 3, 8, 8])], _y())


def names_of_any_characters() -> ModelProto:
    g = Graph(8)
    h = g.node("MatMul", "x", g.weight("w/1 ü", 4, 4), name="/layer 1/fc[0]", output="a:0")
    g.node("MatMul", g.node("Relu", h, name="r\nr", output='"'), g.weight(".*", 4, 3), name="(", output="y")
    return g.model(ROWS, _y())


def constants_that_are_inputs() -> ModelProto:
    model = _image_graph()()
    model.graph.input.extend(value(t.name, list(t.dims)) for t in model.graph.initializer)
    return model


def constants_in_nodes() -> ModelProto:
    model = _image_graph()()
    g = Graph()
    for tensor in model.graph.initializer:
        g.node("Constant", name=f"make {tensor.name}", output=tensor.name, value=tensor)
    nodes = [*g.nodes, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    return model


def every_tensor_is_an_output() -> ModelProto:
    g = Graph(9)
    h = g.node("MatMul", "x", g.weight("w", 4, 4), name="m1", output="a")
    g.node("MatMul", g.node("Tanh", h, name="t", output="b"), "w", name="m2", output="y")
    return g.model(ROWS, [*_y("a", "b"), value("w", [4, 4]), value("x", ["N", 4])])


def half_inputs_and_doubles() -> ModelProto:
    g = Graph(10)
    h = g.node("MatMul", g.node("Cast", "x", name="in", to=1), g.weight("w", 4, 4), name="m1")
    wide = g.node("Mul", g.node("Cast", h, name="d", to=11), g.constant("k", np.float64(2)), name="mul")
    h = g.node("MatMul", g.node("Cast", wide, name="s", to=1), g.weight("v", 4, 3), name="m2")
    g.node("Cast", h, name="out", output="y", to=TensorProto.FLOAT16)
    return g.model([value("x", ["N", 4], TensorProto.FLOAT16)], [value("y", None, TensorProto.FLOAT16)])


def feeds_of(model: ModelProto) -> list[dict[str, np.ndarray]]:
    """Two feeds of random values, N = 2 and T = 3; nothing for inputs that are constants."""
    constants, sizes = {tensor.name for tensor in model.graph.initializer}, {"N": 2, "T": 3}
    feeds = []
    for seed in range(2):
        random, feed = np.random.default_rng(seed), {}
        for spec in model.graph.input:
            if spec.name not in constants:
                kind = spec.type.tensor_type
                shape = [d.dim_value or sizes[d.dim_param] for d in kind.shape.dim]
                values = random.standard_normal(shape)
                is_index = kind.elem_type == TensorProto.INT64
                dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
                feed[spec.name] = random.integers(0, 50, shape) if is_index else values.astype(dtype)
        feeds.append(feed)
    return feeds


ODD = (
    transposed_weight,
    tied_embedding,
    shared_bias,
    resized,
    normalized_in_groups,
    names_like_new_ones,
    names_of_any_characters,
    constants_that_are_inputs,
    constants_in_nodes,
    every_tensor_is_an_output,
    half_inputs_and_doubles,
)
GRAPHS: dict[str, Callable[[], ModelProto]] = {
    **{f"opset {opset}": _image_graph(opset) for opset in (11, 12, 13, 18, 20, 21, 23)},
    "same upper": _image_graph(auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": _image_graph(auto_pad="SAME_LOWER", strides=[2, 2]),
    "dilated": _image_graph(dilations=[2, 2]),
    **{make.__name__.replace("_", " "): make for make in ODD},
}
