"""Oracle: the engine "reference"; for methods that differ on purpose, the ranges of `thresholds`."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from disttune.config.errors import DataError, InternalError, TrialError
from disttune.config.schemes import METHODS, OpConfig, Scheme
from disttune.config.weight_methods import WEIGHT_METHODS
from disttune.quantize.digest import model_digest, serialize
from disttune.quantize.engine import EngineSettings, engine_names, find_engine
from disttune.quantize.fast import FastEngine
from disttune.quantize.parameters import parameters
from disttune.quantize.statistics.collect import collect
from disttune.quantize.thresholds.registry import activation_range, threshold_names
from disttune.space.candidate import Candidate
from tests.models import Graph, attention, feeds, mlp, shared_weight, tiny_cnn, value
from tests.quantize.engines import array, dynamic, node_types, relative_error, static
from tests.quantize.pairs import Pair

MANY_WAYS = {"query": static(method="entropy"), "up": static(activation="uint16"), "down": dynamic()}


def test_it_is_found_by_name():
    assert "fast" in engine_names()
    assert find_engine("fast") is FastEngine


def test_it_has_every_method():
    assert FastEngine.methods == {*METHODS, *WEIGHT_METHODS}
    assert set(METHODS) == set(threshold_names())


def test_asking_for_it_loads_no_onnx():
    code = (
        "import sys; from disttune.quantize.engine import find_engine; find_engine('fast').methods;"
        "sys.exit(any(name in sys.modules for name in ('onnx', 'onnxruntime', 'numpy')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_nothing_quantized_is_the_prepared_model():
    t = Pair(mlp())
    model = t.build_fast({})
    assert model == t.prepared
    model.graph.name = "changed"
    assert t.build_fast({}) == t.prepared
    assert model_digest(t.fast.blueprint(t.candidate({})).model()) == model_digest(t.prepared)


def test_the_same_candidate_gives_the_same_bytes():
    configs = {**MANY_WAYS, "key": static("uint8", per_channel=False), "value": dynamic("uint8", True)}
    t = Pair(attention(), T=4)
    first = serialize(t.build_fast(configs))
    t.build_fast(t.everywhere(static()))
    assert serialize(t.build_fast(configs)) == first
    assert serialize(Pair(attention(), T=4).build_fast(configs)) == first


def test_the_bytes_do_not_depend_on_the_seed_of_hashes():
    code = (
        "from tests.models import attention; from tests.quantize.pairs import Pair;"
        "from tests.quantize.engines import dynamic, static; from hashlib import sha256;"
        "configs = {'query': static(), 'key': dynamic(), 'up': static('uint8', per_channel=False)};"
        "print(sha256(Pair(attention(), T=4).build_fast(configs).SerializeToString()).hexdigest())"
    )
    path = os.pathsep.join(sys.path)
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_neither_the_prepared_model_nor_what_was_built_before_changes():
    t = Pair(attention(), T=4)
    before = serialize(t.prepared)
    model = t.build_fast(MANY_WAYS)
    bytes_of_model = serialize(model)
    t.build_fast(t.everywhere(static("uint8", "uint8", per_channel=False)))
    assert serialize(t.prepared) == before
    assert serialize(model) == bytes_of_model
    del model.graph.node[:], model.graph.initializer[:]
    assert serialize(t.build_fast(MANY_WAYS)) == bytes_of_model


def test_a_blueprint_and_its_tensors_are_the_model():
    g = Graph()
    h = g.node("MatMul", "x", g.weight("w", 64, 64), name="a")
    g.node("MatMul", h, g.weight("v", 64, 64), name="b", output="y")
    t = Pair(g.model([value("x", ["N", 64])], [value("y", ["N", 64])]))
    candidate = t.candidate({"a": static()})
    blueprint = t.fast.blueprint(candidate)
    assert list(blueprint.tensors) == ["v", "w_quantized"]
    assert not {t.name for t in blueprint.skeleton.graph.initializer} & set(blueprint.tensors)
    assert serialize(blueprint.model()) == serialize(t.fast.build(candidate))
    again = t.fast.blueprint(t.candidate({"a": static(), "b": static()}))
    assert again.tensors["w_quantized"] is blueprint.tensors["w_quantized"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_activations_have_the_parameters_of_their_method(method, symmetric):
    t = Pair(attention(), feeds(attention(), 6, N=2, T=4))
    scheme = Scheme("int8" if symmetric else "uint8", symmetric, method=method, parameter=METHODS[method])
    model = t.build_fast({"up": OpConfig("static", Scheme("int8", True), scheme)})
    (name,) = (op.inputs[0] for op in t.summary.ops if op.name == "up")
    statistics = collect(t.prepared, t.feeds, [name])
    scale, zero_point = parameters(*activation_range(statistics[name], scheme), scheme)
    assert (array(model, f"{name}_scale"), array(model, f"{name}_zero_point")) == (scale, zero_point)
    onnx.checker.check_model(model)
    assert relative_error(model, t) < (1 if method == "ema" else 0.2)  # six samples are few for ema


@pytest.mark.parametrize("method", METHODS)
def test_weights_take_every_method(method):
    weight = Scheme("int8", True, "per_channel", method=method, parameter=METHODS[method])
    t = Pair(mlp(), N=2)
    config = OpConfig("static", weight, Scheme("uint8", False))
    assert relative_error(t.build_fast(t.everywhere(config, "Gemm")), t) < 0.2


def test_given_statistics_are_used_and_none_are_collected():
    t = Pair(mlp(), N=2)
    configs = t.everywhere(static(), "Gemm")
    names = [name for node in t.prepared.graph.node for name in (*node.input, *node.output)]
    floats = dict.fromkeys(n for n in names if n not in {i.name for i in t.prepared.graph.initializer})
    statistics = collect(t.prepared, t.feeds, list(floats))
    engine = FastEngine(t.prepared, t.summary, [], EngineSettings())
    engine.use(statistics)
    assert serialize(engine.build(t.candidate(configs))) == serialize(t.build_fast(configs))
    engine.use(collect(t.prepared, [{"x": 10 * feed["x"]} for feed in t.feeds], list(floats)))
    model = engine.build(t.candidate(configs))
    assert array(model, "x_scale") > 9 * array(t.build_fast(configs), "x_scale")


def test_a_tensor_without_statistics_is_named():
    t = Pair(mlp(), N=2)
    t.fast.use(collect(t.prepared, t.feeds, ["x"]))
    with pytest.raises(TrialError, match="was not calibrated: it has no statistics"):
        t.build_fast(t.everywhere(static(), "Gemm"))


def test_static_ops_need_feeds():
    with pytest.raises(TrialError, match="needs calibration feeds, and there are none"):
        Pair(tiny_cnn(), []).build_fast({"conv1": static()})


def test_nan_is_an_error_that_names_the_tensor():
    g = Graph()
    g.node("MatMul", g.node("Log", "x", name="log", output="logs"), g.weight("w", 4, 4), name="a", output="y")
    model = g.model([value("x", ["N", 4])], [value("y", ["N", 4])])
    t = Pair(model, [{"x": -np.ones((1, 4), np.float32)}])
    with pytest.raises(DataError, match='"logs"'):
        t.build_fast({"a": static()})


def test_a_weight_that_is_not_finite_is_named():
    g = Graph()
    g.node("MatMul", "x", g.constant("w", np.full((4, 4), np.nan, np.float32)), name="a", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]), [])
    with pytest.raises(TrialError, match='constant "w": the weight holds NaN'):
        t.build_fast({"a": dynamic()})


def test_a_bias_that_is_not_finite_is_named():
    g = Graph()
    bias = g.constant("b", np.array([1, np.inf, 0, 0], np.float32))
    g.node("Gemm", "x", g.weight("w", 4, 4), bias, name="a", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    with pytest.raises(TrialError, match='constant "b": the bias holds NaN or infinity'):
        t.build_fast({"a": static()})


def test_candidates_of_any_op_types_are_calibrated_for():
    g = Graph()
    h = g.node("Erf", "x", name="erf")
    g.node("Pow", h, g.constant("two", np.float32(2)), name="pow", output="y")
    t = Pair(g.model([value("x", ["N", 4])], [value("y", ["N", 4])]))
    bare = OpConfig("static", None, Scheme("uint8", False))
    reference, fast = t.both({"erf": bare, "pow": bare})
    assert model_digest(fast) == model_digest(reference)


def test_a_recipe_that_it_does_not_know_is_an_error():
    with pytest.raises(TrialError, match='engine "fast" has no recipe rotation'):
        Pair(tiny_cnn()).build_fast({"conv1": static()}, rotation=True)


def test_recipes_that_the_space_resolved_change_nothing():
    t = Pair(tiny_cnn())
    resolved = t.build_fast({"conv2": static()}, first_conv_or_matmul_quantization=False)
    assert serialize(resolved) == serialize(t.build_fast({"conv2": static()}))


def test_a_candidate_of_another_model_is_our_fault():
    with pytest.raises(InternalError, match="op nowhere"):
        Pair(tiny_cnn()).fast.build(Candidate.of({"nowhere": static()}))


def test_building_is_silent(capfd):
    Pair(attention(), T=4).build_fast(MANY_WAYS)
    assert capfd.readouterr() == ("", "")


def test_weights_are_quantized_once(monkeypatch):
    t = Pair(shared_weight())
    t.build_fast({"first": static(), "second": dynamic()})

    def fail(*_: object) -> None:
        raise AssertionError("quantized again")

    monkeypatch.setattr("disttune.quantize.builder.constants.quantize_weight", fail)
    model: ModelProto = t.build_fast({"first": dynamic(), "second": static()})
    assert node_types(model)["MatMulInteger"] == 1
