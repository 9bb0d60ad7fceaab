"""Works of the fast engine. Oracle: the algorithm alone, on the inputs measured in plain NumPy."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from disttune.config.errors import TrialError
from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.algorithms.layer import LayerInputs, LayerProblem
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.digest import model_digest
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.work import NeedsWork, complete
from disttune.space.candidate import Candidate
from tests.models import feeds, mlp, shared_weight
from tests.quantize.engines import array, static

WEIGHT = Scheme("int8", True, "per_channel", method="flip")
ALONE = OpConfig("weight_only", WEIGHT)
BOTH = replace(static(), weight=WEIGHT)


def engine(model, n=8):
    return FastEngine(model, None, feeds(model, n), EngineSettings())


def candidate(model, config, *ops):
    return Candidate.of({node.name: config if node.name in ops else FLOAT32 for node in model.graph.node})


def solved(weight, rows):
    """A matrix (K, N) by the algorithm, with inputs of shape (T, K)."""
    x = np.asarray(rows, np.float64)
    inputs = LayerInputs(len(x), (x.T @ x)[None], x.sum(0)[None], np.abs(x).sum(0)[None])
    return find_layer_algorithm("flip").solve(LayerProblem("layer", weight[None], WEIGHT, inputs))


def test_an_engine_that_needs_works_says_so():
    assert isinstance(engine(mlp()), NeedsWork)


def test_thresholds_need_no_works():
    model = mlp()
    assert engine(model).missing(candidate(model, static(), "fc1", "fc2")) == ()


def test_each_layer_is_a_work_of_its_own():
    model = mlp()
    works = engine(model).missing(candidate(model, ALONE, "fc1", "fc2"))
    assert [(work.kind, work.what) for work in works] == [("solve", "flip of fc1"), ("solve", "flip of fc2")]


def test_works_travel_to_other_ranks():
    model = mlp()
    works = engine(model).missing(candidate(model, ALONE, "fc1", "fc2"))
    assert pickle.loads(pickle.dumps(works)) == works
    assert len(pickle.dumps(works)) < 5_000


def test_a_layer_that_two_candidates_agree_in_is_one_work():
    model = mlp()
    asked = engine(model)
    one, both = (asked.missing(candidate(model, ALONE, *ops)) for ops in (["fc1"], ["fc1", "fc2"]))
    assert one == both[:1]
    static_too = asked.missing(candidate(model, BOTH, "fc1"))
    assert static_too[0].key == one[0].key


def test_other_data_are_another_work():
    model = mlp()
    keys = {engine(model, n).missing(candidate(model, ALONE, "fc1"))[0].key for n in (4, 5)}
    assert len(keys) == 2


def test_codes_are_those_of_the_algorithm_on_the_layers_inputs():
    model = mlp()
    fed = feeds(model, 8)
    built = engine(model).build(candidate(model, ALONE, "fc1"))
    weight = next(n.input[1] for n in model.graph.node if n.name == "fc1")
    w = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == weight)).astype(np.float64)
    expected = solved(w, np.concatenate([feed["x"] for feed in fed]))
    np.testing.assert_array_equal(array(built, f"{weight}_quantized"), expected.codes[0])
    np.testing.assert_array_equal(array(built, f"{weight}_scale"), expected.scale.reshape(-1))


def test_results_of_other_ranks_give_the_same_model():
    model = mlp()
    wanted = candidate(model, BOTH, "fc1", "fc2")
    here, there = engine(model), engine(model)
    for work in here.missing(wanted):
        arrays = there.run(work)
        assert all(array.dtype != object for array in arrays.values())
        here.learn(work, arrays)
    assert here.missing(wanted) == ()
    assert model_digest(here.build(wanted)) == model_digest(there.build(wanted))


def test_a_work_that_failed_fails_the_candidates_that_need_it():
    model = mlp()
    asked = engine(model)
    (work,) = asked.missing(candidate(model, ALONE, "fc1"))
    asked.learn(work, "layer fc1: no luck")
    for ops in (["fc1"], ["fc1", "fc2"]):
        with pytest.raises(TrialError, match="layer fc1: no luck"):
            asked.missing(candidate(model, ALONE, *ops))
    complete(asked, candidate(model, ALONE, "fc2"))


def test_without_calibration_samples_an_algorithm_that_needs_them_fails_the_candidate():
    model = mlp()
    with pytest.raises(TrialError, match="op fc1: its method needs calibration feeds, and there are none"):
        FastEngine(model, None, [], EngineSettings()).build(candidate(model, ALONE, "fc1"))


def test_a_dynamic_op_takes_thresholds_only():
    model = mlp()
    config = replace(BOTH, approach="dynamic")
    with pytest.raises(TrialError, match=r"op fc1: method flip is for the weights of Conv, .* dynamic Gemm"):
        engine(model).build(candidate(model, config, "fc1"))


def test_a_weight_that_two_ops_read_is_fitted_to_the_inputs_of_both():
    model = shared_weight()
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    first = np.concatenate([feed["x"] for feed in feeds(model, 8)]).astype(np.float64)
    rows = np.concatenate([first, np.tanh(first @ w)])
    expected = solved(w, rows)

    works = engine(model).missing(candidate(model, ALONE, "first", "second"))
    built = engine(model).build(candidate(model, ALONE, "first", "second"))

    assert len(works) == 1
    np.testing.assert_array_equal(array(built, "w_quantized"), expected.codes[0])


def test_layers_read_in_two_ways_are_two_works():
    model = shared_weight()
    configs = {
        "first": ALONE,
        "tanh": FLOAT32,
        "second": replace(ALONE, weight=replace(WEIGHT, dtype="int4")),
    }
    assert len(engine(model).missing(Candidate.of(configs))) == 2


def fc2_inputs(model, weight):
    """What fc2 reads when fc1 has this weight."""
    x = np.concatenate([feed["x"] for feed in feeds(model, 8)])
    bias = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "b1"))
    return np.maximum(x @ weight + bias, 0).astype(np.float64)


def test_a_sequential_layer_is_fitted_to_what_the_quantized_ops_before_it_give():
    model = mlp()
    gptq = OpConfig("weight_only", Scheme("int4", True, "per_channel", method="gptq"))
    wanted = candidate(model, gptq, "fc1", "fc2")
    asked = engine(model)
    (first,) = asked.missing(wanted)
    complete(asked, candidate(model, gptq, "fc1"))
    (second,) = asked.missing(wanted)
    asked.learn(second, asked.run(second))

    built = asked.build(wanted)

    w1, w2 = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name in ("w1", "w2"))
    q1 = (array(built, "w1_quantized") * array(built, "w1_scale")).astype(np.float32)
    x, xq = fc2_inputs(model, w1), fc2_inputs(model, q1)
    inputs = LayerInputs(len(x), (xq.T @ xq)[None], x.sum(0)[None], np.abs(x).sum(0)[None], (xq.T @ x)[None])
    problem = LayerProblem("fc2", w2.T.astype(np.float64)[None], gptq.weight, inputs)
    assert second.needs == (first.key,)
    np.testing.assert_array_equal(
        array(built, "w2_quantized"), find_layer_algorithm("gptq").solve(problem).codes[0].T
    )


def test_a_sequential_layer_has_another_solution_behind_other_codes():
    model = mlp()
    gptq, rtn = (
        OpConfig("weight_only", Scheme("int4", True, "per_channel", method=m)) for m in ("gptq", "minmax")
    )
    ops = {"relu": FLOAT32, "softmax": FLOAT32}
    asked = engine(model)
    keys = set()
    for before in (FLOAT32, rtn, gptq):
        wanted = Candidate.of({"fc1": before, **ops, "fc2": gptq})
        while works := asked.missing(wanted):
            for work in works:
                asked.learn(work, asked.run(work))
            keys.add(works[-1].key)
    assert len(keys) == 4  # fc1 behind nothing; fc2 behind nothing, rtn and gptq


def test_a_sequential_layer_stands_behind_codes_of_a_reduced_range_too():
    model = mlp()
    ops = {node.name: FLOAT32 for node in model.graph.node} | {"fc1": BOTH}
    ops["fc2"] = OpConfig("weight_only", replace(WEIGHT, method="gptq"))
    reduced = replace(BOTH, weight=replace(WEIGHT, reduce_range=True))
    built = engine(model).build(Candidate.of(ops, {"reduce_range": True}))
    assert model_digest(built) == model_digest(engine(model).build(Candidate.of({**ops, "fc1": reduced})))


def one_by_one(method, ops):
    """A model and its candidate whose layers are solved one after another."""
    scheme = Scheme("int4", True, "per_channel", method=method)
    model = mlp()
    return model, candidate(model, OpConfig("weight_only", scheme), *ops)


def codes_of_each_work(asked, wanted):
    """Works of a candidate in the order of doing, each with its result; the engine learns them."""
    found = []
    while works := asked.missing(wanted):
        for work in works:
            found.append((work, asked.run(work)))
            asked.learn(*found[-1])
    return found


@pytest.mark.parametrize("was_busy", [False, True], ids=["idle so far", "busy with another candidate"])
def test_any_rank_that_has_learnt_the_needs_of_a_work_gets_the_same_bits(was_busy):
    model, wanted = one_by_one("gptq", ["fc1", "fc2"])
    other = one_by_one("awq", ["fc1", "fc2"])[1]
    asked, helper = engine(model), engine(model)
    results = {}
    for work, result in codes_of_each_work(asked, wanted):
        if was_busy:
            codes_of_each_work(helper, other)
        for need in work.needs:
            helper.learn(*results[need])
        np.testing.assert_equal(helper.run(work), result)
        results[work.key] = (work, result)
    assert [len(work.needs) for work, _ in results.values()] == [0, 1]
