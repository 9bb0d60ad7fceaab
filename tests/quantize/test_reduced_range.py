"""Reduced ranges: what the recipe does to models, with an emulator of saturating CPUs as the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.digest import model_digest
from disttune.quantize.parameters import code_range
from tests.models import Graph, attention, depthwise_cnn, mlp, shared_weight, tiny_cnn, value
from tests.quantize.engines import array, dynamic, relative_error, static
from tests.quantize.pairs import Pair
from tests.quantize.saturation import exact_product, saturating_product

MODELS = {"tiny_cnn": tiny_cnn, "depthwise_cnn": depthwise_cnn, "mlp": mlp, "attention": attention}
SPEED = ("Conv", "MatMul", "Gemm")


def codes_of(model: ModelProto) -> dict[str, np.ndarray]:
    """int8 codes of weights, by name."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {n: a for n, a in tensors.items() if a.dtype == np.int8 and a.ndim > 1}


def matrices(model: ModelProto, transposed: bool) -> list[np.ndarray]:
    """Every weight as (K, M): filters and rows of a transposed Gemm are columns."""
    found = codes_of(model).values()
    return [a.reshape(a.shape[0], -1).T if transposed or a.ndim > 2 else a for a in found]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_no_data_saturates_a_model_with_reduced_ranges(make, per_channel):
    t = Pair(make(), N=2, T=4)
    model = t.build_fast(t.everywhere(static(per_channel=per_channel), *SPEED), reduce_range=True)
    random = np.random.default_rng(0)
    for weight in [m for transposed in (False, True) for m in matrices(model, transposed)]:
        data = random.choice(np.array([0, 128, 254, 255], np.uint8), (20, weight.shape[0]))
        data[0] = 255
        assert np.array_equal(saturating_product(data, weight), exact_product(data, weight))


def test_full_ranges_saturate_and_reduced_ones_do_not():
    """All weights alike and all data at their maximum: the worst there is."""
    g = Graph()
    g.node("MatMul", "x", g.constant("w", np.full((8, 4), 0.5, np.float32)), name="fc", output="y")
    data = np.full((3, 8), 255, np.uint8)
    t = Pair(g.model([value("x", ["N", 8])], [value("y", ["N", 4])]))
    full, reduced = (t.build_fast({"fc": static()}, reduce_range=r) for r in (False, True))
    weight = array(full, "w_quantized")
    assert not np.array_equal(saturating_product(data, weight), exact_product(data, weight))
    weight = array(reduced, "w_quantized")
    assert (weight == 64).all()
    assert np.array_equal(saturating_product(data, weight), exact_product(data, weight))


@settings(max_examples=50)
@given(st.integers(0, 255), st.integers(0, 255), st.booleans())
def test_the_reduced_range_is_the_widest_power_of_two_that_never_saturates(first, second, negative):
    most = code_range("int8", True, reduce_range=True)[1]
    sign = -1 if negative else 1
    weight = np.full((2, 1), sign * most, np.int8)
    data = np.array([[first, second]], np.uint8)
    assert np.array_equal(saturating_product(data, weight), exact_product(data, weight))
    data = np.full((1, 2), 255, np.uint8)
    wider = np.full((2, 1), sign * (most + 1), np.int8)
    assert not np.array_equal(saturating_product(data, wider), exact_product(data, wider))


@pytest.mark.parametrize("config", [
    static(), static(per_channel=False), static("int8", "int8", symmetric=True), dynamic(),
    dynamic(per_channel=True),
])  # fmt: skip
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models_are_those_of_onnxruntimes_quantizer_with_its_reduced_range(make, config):
    t = Pair(make(), N=2, T=4)
    types = ("MatMul", "Gemm") if config.approach == "dynamic" else SPEED
    chosen = {op: c for op, c in t.everywhere(config, *types).items() if c.weight}
    if not chosen:
        pytest.skip("nothing to quantize so")
    reference, fast = t.both(chosen, reduce_range=True)
    assert model_digest(fast) == model_digest(reference)
    assert model_digest(fast) != model_digest(t.build_fast(chosen))
    assert max(np.abs(codes.astype(int)).max() for codes in codes_of(fast).values()) <= 64
    assert relative_error(fast, t) < 0.1


@pytest.mark.parametrize("config", [
    static("uint8"), static("int8", "uint16"), static("int16", "int16", symmetric=True),
    OpConfig("weight_only", Scheme("int8", True, "per_channel")),
])  # fmt: skip
def test_what_cannot_saturate_keeps_its_range(config):
    t = Pair(mlp())
    full, reduced = (t.build_fast({"fc1": config}, reduce_range=r) for r in (False, True))
    assert model_digest(full) == model_digest(reduced)


def test_a_weight_that_only_one_of_its_readers_saturates_is_copied():
    t = Pair(shared_weight())
    model = t.build_fast({"first": static(), "second": static("int8", "uint16")}, reduce_range=True)
    most = sorted(int(np.abs(codes.astype(int)).max()) for codes in codes_of(model).values())
    assert most == [64, 127]


@pytest.mark.parametrize("method", ["gptq", "rtn", "mse", "pow2_mse"])
def test_other_weight_methods_keep_to_the_reduced_range(method):
    t = Pair(mlp())
    config = OpConfig("static", Scheme("int8", True, "per_channel", method=method), Scheme("uint8", False))
    model = t.build_fast({"fc1": config, "fc2": config}, reduce_range=True)
    assert 32 <= max(np.abs(codes.astype(int)).max() for codes in codes_of(model).values()) <= 64
