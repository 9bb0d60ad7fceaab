"""Runs that start where others have ended; the oracle is the same run from the inputs."""

import numpy as np
import pytest

from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize import variants
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare
from disttune.quantize.statistics.kept_tensors import Chain, KeptTensors, stretch
from disttune.quantize.statistics.layer_inputs import layer_inputs, measure_layer_inputs
from disttune.quantize.statistics.shapes import element_types
from disttune.space.candidate import Candidate
from tests.models import Graph, attention, feeds, tiny_cnn, value


def chain_of(model, most_bytes=2**20):
    return Chain(KeptTensors(most_bytes), element_types(model), lambda name: f"float {name}")


def skipping():
    """first - second - Add with the output of first - last; a branch that needs the input alone."""
    g = Graph(5)
    h = g.node("MatMul", "x", g.weight("w1", 6, 6), name="first")
    s = g.node("Relu", h, name="relu")
    s = g.node("MatMul", s, g.weight("w2", 6, 6), name="second")
    h = g.node("Add", h, s, name="add")
    h = g.node("Mul", h, g.node("Sigmoid", "x", name="gate"), name="gated")
    g.node("MatMul", h, g.weight("w3", 6, 4), name="last", output="y")
    return prepare(g.model([value("x", ["N", 6])], [value("y", ["N", 4])]))


@pytest.mark.parametrize(
    ("make", "ops"),
    [
        (skipping, ["first", "second", "last"]),
        (lambda: prepare(tiny_cnn()), ["conv1", "conv2", "fc"]),
        (lambda: prepare(attention()), ["query", "key", "value", "out"]),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("most_bytes", [0, 600, 2**20])
def test_layer_after_layer_finds_the_bits_of_all_together(make, ops, backwards, most_bytes):
    model = make()
    names = [n.name for n in model.graph.node]
    ops = [op for op in ops if op in names]
    data, chain = feeds(model, 4), chain_of(model, most_bytes)
    together = measure_layer_inputs(model, ops, data)
    for op in ops[::-1] if backwards else ops:
        found = measure_layer_inputs(model, [op], data, chain=chain)[op]
        assert found.gram.tobytes() == together[op].gram.tobytes()
        assert found.absolute.tobytes() == together[op].absolute.tobytes()


def test_what_comes_before_is_not_computed_again():
    model = skipping()
    chain = chain_of(model)
    measure_layer_inputs(model, ["second"], feeds(model, 3), chain=chain)
    wanted = layer_inputs(model, ["last"])["last"].tensor
    left = stretch(model.graph, [wanted], chain)
    assert not {"first", "relu"} & {node.name for node in left.nodes}
    assert len(left.starts) == 2  # of the Relu, and of the MatMul that the Add reads as well


def test_more_than_the_memory_holds_is_not_kept():
    model = skipping()
    chain = chain_of(model, most_bytes=100)
    measure_layer_inputs(model, ["second"], feeds(model, 3), chain=chain)
    wanted = layer_inputs(model, ["last"])["last"].tensor
    assert not stretch(model.graph, [wanted], chain).starts


def test_what_is_no_longer_of_use_goes_first():
    kept = KeptTensors(most_bytes=24)
    kept.keep({"a": [np.zeros(2, np.float32)], "b": [np.zeros(2, np.float32)]}, [])
    kept.keep({"c": [np.zeros(2, np.float32)]}, ["a"])
    kept.keep({"d": [np.zeros(2, np.float32)]}, ["a"])
    assert [name for name in "abcd" if name in kept] == ["a", "c", "d"]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_sequential_layers_are_the_same_whatever_is_kept(method, monkeypatch):
    model = skipping()
    scheme = Scheme("uint4", False, "per_group", 16, method)
    config = OpConfig("weight_only", scheme)
    ops = {n.name: config if n.op_type == "MatMul" else FLOAT32 for n in model.graph.node}
    digests = set()
    for most_bytes in (0, 2**20):
        monkeypatch.setattr(variants, "KeptTensors", lambda n=most_bytes: KeptTensors(n))
        engine = FastEngine(model, None, feeds(model, 6), EngineSettings(weight_only_format="matmulnbits"))
        digests.add(model_digest(engine.build(Candidate.of(ops))))
        both = Candidate.of({**ops, "first": FLOAT32})  # another start of the same chain
        digests.add(model_digest(engine.build(Candidate.of(ops))))
        engine.build(both)
    assert len(digests) == 1
