"""What is measured of layers and channels; the oracle is X^T X over rows that plain loops cut out."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from onnx import ModelProto

from disttune.config.errors import InternalError, TrialError
from disttune.evaluate.probes.op_mse import with_outputs
from disttune.quantize.algorithms.layer import LayerInputs
from disttune.quantize.algorithms.layout import layout_of
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.graph import prepare
from disttune.quantize.statistics.layer_inputs import (
    layer_inputs,
    measure_cross_inputs,
    measure_layer_inputs,
)
from disttune.quantize.statistics.measure_channels import measure_channels
from tests.models import Graph, attention, depthwise_cnn, feeds, tiny_cnn, value
from tests.quantize.layers import (
    OneLayer,
    convolutions,
    matrices,
    one_layer,
    plain_rows,
    transposed_convolutions,
)

Feeds = Sequence[dict[str, np.ndarray]]


def moments(inputs: LayerInputs) -> dict[str, bytes]:
    """Everything, byte for byte."""
    arrays = (inputs.gram, inputs.total, inputs.absolute, inputs.cross)
    return {"n": inputs.n_rows.to_bytes(8)} | {
        str(i): a.tobytes() for i, a in enumerate(arrays) if a is not None
    }


def assert_is(found: LayerInputs, rows: np.ndarray) -> None:
    """That these are the moments of rows, shape (n_parts, T, K)."""
    assert found.n_rows == rows.shape[1]
    np.testing.assert_allclose(found.gram, rows.swapaxes(1, 2) @ rows, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(found.total, rows.sum(axis=1), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(found.absolute, np.abs(rows).sum(axis=1), rtol=1e-12, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(layer=matrices() | convolutions() | transposed_convolutions())
def test_gram_is_that_of_the_rows_of_all_feeds(layer: OneLayer) -> None:
    inputs = [layer.inputs(n, seed) for seed, n in enumerate((2, 1))]
    rows = np.concatenate([plain_rows(layer, np.maximum(x, 0)) for x in inputs], axis=1)
    found = measure_layer_inputs(layer.model, ["layer"], [{"x": x} for x in inputs])["layer"]
    assert_is(found, rows)


@settings(max_examples=50, deadline=None)
@given(layer=matrices() | convolutions() | transposed_convolutions())
def test_energy_of_the_output_is_told_by_the_gram(layer: OneLayer) -> None:
    x = layer.inputs(2)
    place = layout_of(layer.node, layer.weight.shape)
    weight = place.weight(layer.weight)
    gram = measure_layer_inputs(layer.model, ["layer"], [{"x": x}])["layer"].gram
    energy = np.einsum("pkn,pkl,pln->", weight, gram, weight)
    assert energy == pytest.approx((layer.output(x).astype(np.float64) ** 2).sum(), rel=1e-9)


def test_many_rows_are_those_of_the_whole_matrix() -> None:
    layer = one_layer("Conv", (6, 4, 3, 3), (4, 30, 30), pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1])
    x = np.random.default_rng(0).standard_normal((3, 4, 30, 30)).astype(np.float32)
    found = measure_layer_inputs(layer.model, ["layer"], [{"x": x}])["layer"]
    assert_is(found, plain_rows(layer, np.maximum(x, 0)))


@pytest.mark.parametrize(
    "layer",
    [
        one_layer("MatMul", (16, 4), (33, 16)),
        one_layer("Conv", (4, 2, 3, 3), (4, 24, 24), group=2, strides=[1, 1], dilations=[1, 1]),
    ],
    ids=["MatMul", "Conv"],
)
@pytest.mark.parametrize("most_rows", [10, 1024])
def test_the_same_bits_however_samples_are_grouped(layer: OneLayer, most_rows: int) -> None:
    x = np.random.default_rng(1).standard_normal((40, *layer.shape)).astype(np.float32)
    groupings = ([40], [1] * 40, [7] * 5 + [5], [39, 1])
    found = [
        measure_layer_inputs(
            layer.model,
            ["layer"],
            [{"x": part} for part in np.split(x, np.cumsum(sizes)[:-1])],
            most_rows=most_rows,
        )
        for sizes in groupings
    ]
    assert all(moments(part["layer"]) == moments(found[0]["layer"]) for part in found)


@pytest.mark.parametrize("make", [tiny_cnn, attention, depthwise_cnn])
def test_the_same_bits_alone_together_in_little_memory_and_on_two_threads(make) -> None:
    model = prepare(make())
    names = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    names = [name for name in names if _has_layer(model, name)]
    data = feeds(model, 5)
    together = measure_layer_inputs(model, names, data)
    alone = {name: measure_layer_inputs(model, [name], data)[name] for name in names}
    little = measure_layer_inputs(model, names[::-1], data, memory_bytes=1, n_threads=2)
    assert len(names) > 1
    for name in names:
        assert moments(together[name]) == moments(alone[name]) == moments(little[name])


def _has_layer(model: ModelProto, name: str) -> bool:
    try:
        return bool(layer_inputs(model, [name]))
    except TrialError:
        return False


def test_layers_that_read_the_same_share_one_gram() -> None:
    model = prepare(attention())
    found = measure_layer_inputs(model, ["query", "key"], feeds(model, 2))
    assert found["query"] is found["key"]


def test_large_images_give_rows_that_are_spread_evenly() -> None:
    layer = one_layer("Conv", (1, 1, 1, 1), (1, 64, 64), strides=[1, 1], dilations=[1, 1])
    ramp = np.arange(64 * 64, dtype=np.float32).reshape(1, 1, 64, 64) / 4096
    data = [{"x": ramp}] * 50
    found = measure_layer_inputs(layer.model, ["layer"], data, most_rows=64)["layer"]
    assert found.n_rows == 50 * 64
    assert found.total[0, 0] / found.n_rows == pytest.approx(ramp.mean(), abs=1e-3)
    columns = np.tile(np.arange(64, dtype=np.float32), (1, 1, 64, 1)) / 64  # 64 rows of 4,096 hit one column
    by_column = measure_layer_inputs(layer.model, ["layer"], [{"x": columns}] * 50, most_rows=64)["layer"]
    assert by_column.total[0, 0] / by_column.n_rows == pytest.approx(columns.mean(), abs=0.02)


def residual(noise: float) -> ModelProto:
    """x - scaled (1 or a little more) - Conv "first" - Relu - Conv "second" and MatMul "last"."""
    g = Graph(7)
    h = g.node("Mul", "x", g.constant("noise", np.float32(1 + noise)), name="scaled")
    h = g.node("Conv", h, g.weight("w1", 3, 2, 3, 3), name="first", pads=[1, 1, 1, 1])
    h = g.node("Relu", h, name="relu", output=f"relu_{noise}")
    h = g.node("Conv", h, g.weight("w2", 3, 3, 2, 2), name="second", strides=[2, 2])
    h = g.node("Flatten", h, name="flat")
    g.node("MatMul", h, g.weight("w3", 27, 4), name="last", output="y")
    return g.model([value("x", ["N", 2, 6, 6])], [value("y", ["N", 4])])


def test_cross_gram_is_that_of_both_models_row_by_row() -> None:
    before, after = residual(0.0), residual(0.25)
    data = feeds(before, 4)
    found = measure_cross_inputs(before, Blueprint(after, {}), ["first", "second", "last"], data)
    for name in found:
        x, xq = (_rows_of_model(model, name, data) for model in (before, after))
        np.testing.assert_allclose(found[name].gram, xq.swapaxes(1, 2) @ xq, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(found[name].cross, xq.swapaxes(1, 2) @ x, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(found[name].total, x.sum(axis=1), rtol=1e-12, atol=1e-9)
        assert not np.allclose(found[name].gram, found[name].cross)


def _rows_of_model(model: ModelProto, name: str, data: Feeds) -> np.ndarray:
    node = next(node for node in model.graph.node if node.name == name)
    opened = with_outputs(model, [node.input[0]])
    found = []
    for feed in data:
        x = _run(opened, node.input[0], feed)
        if name == "last":
            found.append(x[np.newaxis].astype(np.float64))
        else:
            kernel, stride, pad = (3, 1, 1) if name == "first" else (2, 2, 0)
            x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)]).astype(np.float64)
            windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))
            windows = windows[:, :, ::stride, ::stride]
            found.append(windows.transpose(0, 2, 3, 1, 4, 5).reshape(1, -1, x.shape[1] * kernel**2))
    return np.concatenate(found, axis=1)


def test_the_same_model_twice_crosses_to_its_own_gram() -> None:
    model = prepare(tiny_cnn())
    names, data = ["conv1", "conv2", "fc"], feeds(model, 3)
    crossed = measure_cross_inputs(model, Blueprint(model, {}), names, data)
    alone = measure_layer_inputs(model, names, data)
    for name in names:
        assert crossed[name].cross is not None
        np.testing.assert_allclose(crossed[name].cross, alone[name].gram, rtol=1e-12)
        assert crossed[name].gram.tobytes() == alone[name].gram.tobytes()


def test_infinity_names_tensor_and_feed() -> None:
    model = prepare(tiny_cnn())
    data = [dict(feed) for feed in feeds(model, 2)]
    data[1]["x"][0, 0, 0, 0] = np.inf
    with pytest.raises(TrialError, match=r'tensor "x" in feed 1 .*NaN or infinity'):
        measure_layer_inputs(model, ["conv1"], data)
    with pytest.raises(TrialError, match=r'tensor "x" in feed 1 .*NaN or infinity'):
        measure_channels(model, {"x": 1}, data)


def test_a_node_without_a_weight_or_of_another_name_is_told() -> None:
    model = prepare(attention())
    with pytest.raises(TrialError, match="op scores: its second input is no constant"):
        measure_layer_inputs(model, ["scores"], feeds(model, 1))
    with pytest.raises(InternalError, match='"nobody"'):
        measure_layer_inputs(model, ["nobody"], feeds(model, 1))
    with pytest.raises(TrialError, match="op query: the quantized model has no node of that name"):
        measure_cross_inputs(model, Blueprint(prepare(tiny_cnn()), {}), ["query"], feeds(model, 1))


@pytest.mark.parametrize(("tensor", "axis"), [("relu1", 1), ("x", -1), ("fc", 1)])
def test_channels_are_those_of_all_values(tensor: str, axis: int) -> None:
    model = prepare(tiny_cnn())
    name = next((n.output[0] for n in model.graph.node if n.name == tensor), tensor)
    data = feeds(model, 6)
    values = np.concatenate([_run(with_outputs(model, [name]), name, feed) for feed in data])
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float64)
    found = measure_channels(model, {name: axis}, data)[name]
    assert found.n == len(rows)
    np.testing.assert_array_equal(found.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=0))
    np.testing.assert_allclose(found.total, rows.sum(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.absolute, np.abs(rows).sum(axis=0), rtol=1e-12)


def test_channels_have_the_same_bits_however_samples_are_grouped() -> None:
    model = prepare(tiny_cnn())
    x = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
    found = [
        measure_channels(model, {"x": 1}, [{"x": part} for part in np.split(x, n)])["x"] for n in (1, 3, 12)
    ]
    assert len({part.total.tobytes() + part.absolute.tobytes() for part in found}) == 1


def _run(model: ModelProto, name: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    if name in feed:
        return feed[name]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString(), options).run([name], feed)[0])
