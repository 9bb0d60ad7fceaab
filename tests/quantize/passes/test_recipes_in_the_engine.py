"""Recipes through the engine. Oracle: an engine over the changed model itself."""

from dataclasses import replace

import pytest

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT32, Scheme
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare
from disttune.quantize.tensor_memory import TensorMemory
from disttune.quantize.work import complete
from disttune.space.candidate import Candidate
from tests.models import attention, depthwise_cnn, feeds, mlp, shared_weight, tiny_cnn
from tests.quantize.engines import static
from tests.quantize.passes.measured import applied
from tests.quantize.test_tensor_memory import beside

RECIPES = [
    (tiny_cnn, {"cross_layer_equalization": True}),
    (tiny_cnn, {"cross_layer_equalization": True, "cross_layer_equalization_absorb_bias": True}),
    (depthwise_cnn, {"cross_layer_equalization": True}),
    (attention, {"smooth_quant": True}),
    (attention, {"smooth_quant": True, "smooth_quant_alpha": "auto"}),
    (tiny_cnn, {"smooth_quant": True, "smooth_quant_conv": True, "smooth_quant_alpha": 0.3}),
]


def engine(model, n=8):
    return FastEngine(model, None, feeds(model, n), EngineSettings())


def candidate(model, recipes):
    types = ("Conv", "Gemm", "MatMul")
    ops = {n.name: static() if n.op_type in types else FLOAT32 for n in model.graph.node}
    return Candidate.of(ops, recipes)


@pytest.mark.parametrize(("make", "recipes"), RECIPES)
def test_a_recipe_gives_the_model_that_the_changed_graph_gives(make, recipes):
    prepared = prepare(make())
    name = next(iter(recipes))
    changed = applied(name, prepared, feeds(prepared, 8), **recipes).model
    with_recipe = engine(prepared).build(candidate(prepared, recipes))
    alone = engine(changed).build(candidate(prepared, {}))
    assert model_digest(with_recipe) == model_digest(alone)
    assert model_digest(with_recipe) != model_digest(engine(prepared).build(candidate(prepared, {})))


def test_two_recipes_are_applied_one_after_the_other():
    prepared = prepare(tiny_cnn())
    samples = feeds(prepared, 8)
    equalized = applied("cross_layer_equalization", prepared, samples).model
    both = applied("smooth_quant", equalized, samples, smooth_quant_conv=True).model
    recipes = {"cross_layer_equalization": True, "smooth_quant": True, "smooth_quant_conv": True}
    built = engine(prepared).build(candidate(prepared, recipes))
    assert model_digest(built) == model_digest(engine(both).build(candidate(prepared, {})))


def test_values_of_alpha_share_one_measurement_of_channels():
    prepared = prepare(attention())
    tried = engine(prepared)
    first = candidate(prepared, {"smooth_quant": True, "smooth_quant_alpha": 0.3})
    assert [work.kind for work in tried.missing(first)] == ["channels"]
    complete(tried, first)
    other = candidate(prepared, {"smooth_quant": True, "smooth_quant_alpha": 0.7})
    assert {work.kind for work in tried.missing(other)} == {"statistics"}


@pytest.mark.parametrize("method", ["minmax", "flip"])
def test_recipes_that_give_one_graph_share_what_is_known_of_it(method):
    prepared = prepare(mlp())
    config = replace(static(), weight=Scheme("int8", True, "per_channel", method=method))
    ops = {node.name: config if node.op_type == "Gemm" else FLOAT32 for node in prepared.graph.node}
    recipes = {"smooth_quant": True, "fast_bias_correction": True}
    first = Candidate.of(ops, recipes)
    second = Candidate.of(ops, {**recipes, "smooth_quant_scales_per_op": True})  # each tensor has one reader
    tried = engine(prepared)
    complete(tried, first)
    assert tried.missing(second) == ()
    assert model_digest(tried.build(second)) == model_digest(engine(prepared).build(first))


def test_absorbing_measures_what_equalizing_alone_does_not():
    prepared = prepare(tiny_cnn())
    tried = engine(prepared)
    plain = {"cross_layer_equalization": True}
    assert {work.kind for work in tried.missing(candidate(prepared, plain))} == {"statistics"}
    absorbing = candidate(prepared, {**plain, "cross_layer_equalization_absorb_bias": True})
    assert [work.kind for work in tried.missing(absorbing)] == ["channels"]


def test_without_samples_a_recipe_that_needs_them_is_told():
    prepared = prepare(attention())
    tried = FastEngine(prepared, None, [], EngineSettings())
    with pytest.raises(TrialError, match="needs calibration feeds, and there are none"):
        tried.missing(candidate(prepared, {"smooth_quant": True}))


def test_what_recipes_did_and_did_not_is_told_once():
    prepared = prepare(tiny_cnn())
    lines: list[str] = []
    tried = FastEngine(prepared, None, feeds(prepared, 8), EngineSettings(tell=lines.append))
    for config in (static(), static(per_channel=False)):
        wanted = candidate(prepared, {"cross_layer_equalization": True}).with_configs({"fc": config})
        tried.build(wanted)
    assert [line.split(":")[1] for line in lines] == [" conv1 and conv2", " conv2 and fc", " fc"]
    assert lines[-1].endswith(
        'left as it is: "y" is an output of the graph, or read by a graph inside a node'
    )


def test_a_pass_that_changes_the_outputs_is_taken_back(monkeypatch):
    prepared = prepare(tiny_cnn())
    monkeypatch.setattr("disttune.quantize.variants.MOST_DIFFERENCE", -1.0)
    lines: list[str] = []
    tried = FastEngine(prepared, None, feeds(prepared, 8), EngineSettings(tell=lines.append))
    built = tried.build(candidate(prepared, {"cross_layer_equalization": True}))
    assert model_digest(built) == model_digest(engine(prepared).build(candidate(prepared, {})))
    assert any("taken back: the outputs of the float model would differ" in line for line in lines)


def test_auto_alpha_knows_whether_weights_have_one_scale():
    prepared = prepare(attention())
    recipes = {"smooth_quant": True, "smooth_quant_alpha": "auto"}
    samples = feeds(prepared, 8)
    for per_channel in (False, True):
        config = static(per_channel=per_channel)
        ops = {n.name: config if n.op_type == "MatMul" else FLOAT32 for n in prepared.graph.node}
        built = engine(prepared).build(Candidate.of(ops, recipes))
        told = {} if per_channel else {"smooth_quant_per_tensor": True}
        changed = applied("smooth_quant", prepared, samples, **recipes, **told).model
        assert model_digest(built) == model_digest(engine(changed).build(Candidate.of(ops)))


@pytest.mark.parametrize("make", [tiny_cnn, attention])
def test_recipes_take_weights_that_stand_in_memory(make):
    prepared, memory = prepare(make()), TensorMemory()
    recipes = dict.fromkeys(
        (
            "cross_layer_equalization",
            "smooth_quant",
            "weight_correction",
            "fast_bias_correction",
            "bias_correction",
        ),
        True,
    )
    expected = engine(prepared).build(candidate(prepared, recipes))
    changed = beside(prepared, memory)
    assert model_digest(engine(changed).build(candidate(prepared, recipes))) == model_digest(expected)


def test_a_recipe_that_changes_nothing_needs_no_statistics():
    prepared = prepare(shared_weight())
    wanted = candidate(prepared, {"cross_layer_equalization": True})
    tried = engine(prepared)
    expected = tried.build(candidate(prepared, {}))
    assert tried.missing(wanted) == ()
    assert model_digest(tried.build(wanted)) == model_digest(expected)
