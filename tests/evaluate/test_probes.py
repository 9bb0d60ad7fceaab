"""Probes on real models: against the models' own outputs, and against curvatures that are known exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization.quant_utils import quantize_data

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.evaluate.data import Feeds
from disttune.evaluate.model import QuantizedModel
from disttune.evaluate.probes import ProbeTools, find_probe, probe_names
from disttune.evaluate.probes.hessian_trace import squared_error
from disttune.evaluate.probes.output_error import normalised_error
from disttune.quantize.engine import EngineSettings, find_engine
from disttune.quantize.graph import prepare
from disttune.quantize.summary import summarize
from disttune.space.candidate import Candidate
from tests.models import Graph, value

INT8 = OpConfig("static", Scheme("int8", True, "per_channel"), Scheme("uint8", False))
DYNAMIC = OpConfig("dynamic", Scheme("int8", True, "per_channel"), Scheme("uint8", False))


def two_layers():
    """first - relu - second; x (N, 6) to y (N, 3)."""
    g = Graph(3)
    h = g.node("MatMul", "x", g.weight("w1", 6, 8), name="first")
    h = g.node("Relu", h, name="relu")
    g.node("MatMul", h, g.weight("w2", 8, 3), name="second", output="y")
    return g.model([value("x", ["N", 6])], [value("y", ["N", 3])])


def one_layer():
    g = Graph(4)
    g.node("MatMul", "x", g.weight("w", 6, 4), name="only", output="y")
    return g.model([value("x", ["N", 6])], [value("y", ["N", 4])])


def feeds_of(n_feeds=4, targets=None):
    rng = np.random.default_rng(5)
    feeds = tuple({"x": rng.standard_normal((16, 6)).astype(np.float32)} for _ in range(n_feeds))
    return Feeds(feeds, targets, 16 * n_feeds)


def tools(model, feeds=None, folder=Path()):
    prepared = prepare(model)
    summary = summarize(prepared, model)
    feeds = feeds or feeds_of()
    engine = find_engine("reference")(prepared, summary, feeds.feeds, EngineSettings())
    return ProbeTools(prepared, summary, feeds, engine.build, QuantizedModel, folder)


def candidate(**configs):
    return Candidate.of(configs)


def outputs(proto, feed):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def test_the_kinds_that_strategies_ask_for_are_there():
    assert {"op_mse", "fallback_mse", "hessian_trace", "latency"} <= set(probe_names())


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(TrialError, match=r'no kind of probe "op_mes"\. Nearest: "op_mse"'):
        find_probe("op_mes")


@pytest.mark.parametrize("config", [INT8, DYNAMIC])
def test_op_mse_of_the_last_op_is_the_error_of_the_models_output(config):
    t = tools(two_layers())
    chosen = candidate(first=config, relu=FLOAT32, second=config)
    feed = t.feeds.feeds[0]
    expected = normalised_error(outputs(t.prepared, feed), outputs(t.build(chosen), feed))
    found = find_probe("op_mse")(t, chosen, {"op": "second"})
    assert found == pytest.approx(expected, rel=1e-3)
    assert found > 0


def test_op_mse_is_zero_where_nothing_is_quantized_before_and_greater_with_coarser_weights():
    t = tools(two_layers())
    fine = candidate(first=FLOAT32, relu=FLOAT32, second=DYNAMIC)
    assert find_probe("op_mse")(t, fine, {"op": "second"}) < 1e-2
    with pytest.raises(TrialError, match="op first: the quantized model has no output of it"):
        find_probe("op_mse")(t, fine, {"op": "first"})


def test_op_mse_sees_the_output_as_its_consumers_do():
    """Quantized to 8 bit: the error of uniform rounding is step**2 / 12."""
    t = tools(two_layers())
    chosen = candidate(first=INT8, relu=FLOAT32, second=FLOAT32)
    tensor = next(i for i in t.prepared.graph.initializer if i.name == "w1")
    products = [feed["x"] @ numpy_helper.to_array(tensor) for feed in t.feeds.feeds]
    step = (np.max(products) - np.min(products)) / 255
    error = find_probe("op_mse")(t, chosen, {"op": "first"})
    assert error >= step**2 / 12 / np.var(products[0])


def test_fallback_mse_is_the_mean_error_of_the_outputs_over_the_feeds():
    t = tools(two_layers())
    chosen = candidate(first=INT8, relu=FLOAT32, second=INT8)
    model = t.build(chosen)
    errors = [normalised_error(outputs(t.prepared, f), outputs(model, f)) for f in t.feeds.feeds[:2]]
    assert find_probe("fallback_mse")(t, chosen, {"n_feeds": 2}) == pytest.approx(np.mean(errors), rel=1e-6)


def test_fallback_mse_is_least_where_the_guilty_op_is_in_float():
    t = tools(two_layers())
    cut = Scheme("uint8", False, method="percentile", parameter=60.0)
    coarse = OpConfig("static", Scheme("int8", True), cut)
    measure = find_probe("fallback_mse")
    without_first = measure(t, candidate(first=FLOAT32, relu=FLOAT32, second=INT8), {"n_feeds": 2})
    without_second = measure(t, candidate(first=coarse, relu=FLOAT32, second=FLOAT32), {"n_feeds": 2})
    assert without_first < without_second


def test_the_trace_of_a_linear_layer_is_the_known_one():
    """L = mean (xW - t)^2 over n rows and m columns: the Hessian's trace is 2/n tr(X'X), for any t."""
    t = tools(one_layer(), feeds_of(1))
    x = t.feeds.feeds[0]["x"].astype(np.float64)
    y = outputs(t.prepared, t.feeds.feeds[0]).astype(np.float64)
    expected = 2 / len(x) * np.sum(x**2) / (6 * 4) / np.var(y)  # ours is over the variance of the output
    found = find_probe("hessian_trace")(t, candidate(only=INT8), {"op": "only", "seed": 0, "max_probes": 500})
    assert found["trace"] == pytest.approx(expected, rel=0.3)
    assert found["n_vectors"] >= 4


def test_the_users_loss_gets_outputs_and_targets(tmp_path):
    lines = ["def loss(output, target):", "    assert output.shape == target.shape"]
    lines += ["    return ((output - target) ** 2).mean()"]
    (tmp_path / "loss.py").write_text("\n".join(lines))
    plain = feeds_of(1)
    t = tools(one_layer(), Feeds(plain.feeds, (np.zeros((16, 4), np.float32),), 16), tmp_path)
    x = plain.feeds[0]["x"].astype(np.float64)
    arguments = {"op": "only", "seed": 1, "max_probes": 500, "loss": "loss.py:loss"}
    found = find_probe("hessian_trace")(t, candidate(only=INT8), arguments)
    assert found["trace"] == pytest.approx(2 / len(x) * np.sum(x**2) / (6 * 4), rel=0.3)


def test_a_loss_without_targets_says_what_to_do(tmp_path):
    (tmp_path / "loss.py").write_text("def loss(output, target):\n    return 0.0\n")
    arguments = {"op": "only", "seed": 0, "max_probes": 4, "loss": "loss.py:loss"}
    with pytest.raises(TrialError, match="let the calibration loader yield"):
        find_probe("hessian_trace")(tools(one_layer(), folder=tmp_path), candidate(only=INT8), arguments)


def test_the_same_seed_gives_the_same_trace():
    arguments = {"op": "second", "seed": 3, "max_probes": 8}
    chosen = candidate(first=INT8, relu=FLOAT32, second=INT8)
    found = [find_probe("hessian_trace")(tools(two_layers()), chosen, arguments) for _ in range(2)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("scheme", "axis"), [
    (Scheme("int8", True, "per_channel"), 1), (Scheme("int8", True), None), (Scheme("uint8", False), None),
    (Scheme("int8", True, "per_channel"), 0), (Scheme("uint8", False, "per_channel"), 1),
])  # fmt: skip
def test_the_error_of_a_weight_is_that_of_onnxruntimes_quantizer(scheme, axis):
    weight = (np.random.default_rng(0).standard_normal((7, 5)) * 0.3 + 0.05).astype(np.float32)
    dtype = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}[scheme.dtype]
    slices = [weight] if scheme.granularity == "per_tensor" else list(np.moveaxis(weight, axis, 0))
    expected = 0.0
    for part in slices:
        zero, scale, codes = quantize_data(part, dtype, scheme.symmetric)[:3]
        expected += np.sum((part.ravel() - (codes.ravel().astype(np.float64) - zero) * scale) ** 2)
    assert squared_error(weight, scheme, axis) == pytest.approx(expected, rel=1e-3)


def test_masks_do_not_count_as_errors():
    a = np.array([1.0, 2.0, -np.inf, 3.0])
    assert normalised_error(a, a) == 0.0
    assert normalised_error(a, np.array([1.0, 2.0, 0.0, 3.0])) == 0.0


def deep(n_layers, width=256):
    """A chain of layers; x (N, width)."""
    g = Graph(6)
    h = "x"
    for i in range(n_layers):
        is_last = i == n_layers - 1
        weight = g.weight(f"w{i}", width, width)
        h = g.node("MatMul", h, weight, name=f"layer_{i}", **({"output": "y"} if is_last else {}))
    return g.model([value("x", ["N", width])], [value("y", ["N", width])])


def test_latency_of_the_float_model_itself_is_that_of_the_float_model():
    rng = np.random.default_rng(0)
    feeds = Feeds(({"x": rng.standard_normal((64, 256)).astype(np.float32)},), None, 64)
    t = tools(deep(4), feeds)

    found = find_probe("latency")(t, candidate(**{f"layer_{i}": FLOAT32 for i in range(4)}), {"trial": 0})

    assert 0.6 < found["ratio"] < 1.6
    assert found["ratio"] * found["float_milliseconds"] == pytest.approx(found["milliseconds"], rel=0.6)
    assert found["spread"] >= 0


def test_latency_is_that_of_packed_sessions_however_others_run(monkeypatch):
    t = tools(two_layers())
    opened = []

    def open_unpacked(source, packed=False):
        opened.append(packed)
        return QuantizedModel(source, packed=packed)

    monkeypatch.setattr("disttune.evaluate.probes.latency.MAX_PAIRS", 6)
    find_probe("latency")(replace(t, open_model=open_unpacked), candidate(relu=FLOAT32), {"trial": 0})
    assert opened == [True, True]


def test_latency_is_that_of_the_candidates_model_and_not_of_the_float_one(monkeypatch):
    """A stand-in clock: a run lasts as long as the model has nodes."""
    t = tools(two_layers())
    now_s = 0.0

    class Clocked(QuantizedModel):
        def run(self, *args):
            nonlocal now_s
            now_s += len(self.proto.graph.node) / 1000
            return super().run(*args)

    monkeypatch.setattr("disttune.evaluate.probes.latency.time.perf_counter", lambda: now_s)
    monkeypatch.setattr("disttune.evaluate.probes.latency.MAX_PAIRS", 6)
    clocked = ProbeTools(t.prepared, t.summary, t.feeds, t.build, Clocked, t.folder)
    chosen = candidate(first=INT8, relu=FLOAT32, second=INT8)

    found = find_probe("latency")(clocked, chosen, {"trial": 0})

    n_quantized, n_float = len(t.build(chosen).graph.node), len(t.prepared.graph.node)
    assert found == pytest.approx({
        "ratio": n_quantized / n_float, "spread": 0.0, "milliseconds": n_quantized,
        "float_milliseconds": n_float,
    })  # fmt: skip


def test_latency_without_feeds_fails_with_the_reason():
    t = tools(two_layers())
    without = ProbeTools(t.prepared, t.summary, Feeds((), None, 0), t.build, QuantizedModel, t.folder)
    with pytest.raises(TrialError, match="a probe needs calibration feeds, and there are none"):
        find_probe("latency")(without, candidate(first=INT8, relu=FLOAT32, second=INT8), {"trial": 0})


def test_outliers_are_the_largest_over_the_999th_of_a_thousand_magnitudes():
    probe = find_probe("activation_outliers")
    rng = np.random.default_rng(6)
    plain = rng.uniform(0.5, 1.0, (500, 6)).astype(np.float32)
    far = plain.copy()
    far[3, 2] = -40.0
    found = {
        name: probe(tools(two_layers(), Feeds(({"x": x},), None, 500)), None, {"ops": ops, "n_feeds": 1})
        for name, x, ops in (("plain", plain, ["first"]), ("far", far, ["first", "second"]))
    }
    bulk = np.percentile(np.abs(far.astype(np.float64)), 99.9)
    assert found["far"]["first"] == pytest.approx(40.0 / bulk)
    assert 1 <= found["plain"]["first"] < 1.1
    assert list(found["far"]) == ["first", "second"]
