"""Statistics of whole models; the oracle runs every tensor as an output and looks at each array plainly."""

import itertools
from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, ValueInfoProto

from disttune.config.errors import DataError, InternalError
from disttune.quantize.digest import serialize
from disttune.quantize.graph import prepare
from disttune.quantize.statistics.collect import Collector, blocks, collect, tensors_of_interest
from disttune.quantize.statistics.statistics import Statistics
from tests.models import (
    attention,
    depthwise_cnn,
    feeds,
    mlp,
    recurrent,
    shared_weight,
    tiny_cnn,
    unnamed,
    with_branches,
)
from tests.quantize.statistics.observed import bins, packed
from tests.quantize.statistics.odd_models import (
    constants_and_masks,
    half_precision,
    large_branches,
    looped,
    optional_outputs,
    scalars,
    selected_rows,
    sequences,
    square_roots,
)

MODELS = [tiny_cnn, depthwise_cnn, mlp, attention, shared_weight, unnamed, with_branches, recurrent]
ODD_MODELS = [
    constants_and_masks,
    selected_rows,
    scalars,
    optional_outputs,
    half_precision,
    looped,
    sequences,
]
Feeds = Sequence[dict[str, np.ndarray]]


def plain_values(model: ModelProto, inputs: Feeds, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Each tensor over all feeds, from one session with graph optimization off."""
    copy = ModelProto()
    copy.CopyFrom(model)
    made = [name for node in model.graph.node for name in node.output if name in names]
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in made)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(serialize(copy), options, providers=["CPUExecutionProvider"])
    outputs = [dict(zip(made, session.run(made, feed), strict=True)) | feed for feed in inputs]
    return {name: [output[name] for output in outputs] for name in names}


def interesting(make) -> tuple[ModelProto, tuple[str, ...]]:
    model = prepare(make())
    return model, tensors_of_interest(model)


def of_rows(rows: Sequence[int], **dimensions: int) -> Feeds:
    """One feed for each number of rows, of inputs x of 4 columns."""
    random = np.random.default_rng(5)
    return [{"x": random.standard_normal((n, 4)).astype(np.float32)} for n in rows]


@pytest.mark.parametrize("make", MODELS + ODD_MODELS)
def test_statistics_are_those_of_every_value_that_the_model_computes(make):
    model, names = interesting(make)
    inputs = feeds(model, 5, N=3)
    statistics = collect(model, inputs, names)
    assert tuple(statistics) == names != ()
    for name, arrays in plain_values(model, inputs, names).items():
        values = np.concatenate([array.ravel() for array in arrays]).astype(np.float32)
        values = values[np.abs(values) < 1e30]
        found = statistics[name]
        assert found.n == values.size
        assert found.minimum == (values.min() if values.size else 0)
        assert found.maximum == (values.max() if values.size else 0)
        assert np.array_equal(found.counts, bins(values, found.exponent))


@pytest.mark.parametrize("make", MODELS + ODD_MODELS)
def test_cutting_the_model_into_single_nodes_changes_nothing(make):
    model, names = interesting(make)
    inputs = feeds(model, 4, N=3)
    assert packed(collect(model, inputs, names, memory_bytes=0)) == packed(collect(model, inputs, names))


@pytest.mark.parametrize("n_shards", [1, 2, 4, 7])
def test_shards_of_blocks_merge_to_the_same_bytes(n_shards):
    model, names = interesting(attention)
    inputs = [feed for n in (1, 3, 2, 2, 5, 1, 4, 3, 2) for feed in feeds(model, 1, seed=n, N=n, T=n + 1)]
    parts = blocks(inputs, 4)
    collector = Collector(model, names)
    bounds = [round(i * len(parts) / n_shards) for i in range(n_shards + 1)]
    shards = []
    for first, last in itertools.pairwise(bounds):
        chosen = [inputs[i] for part in parts[first:last] for i in part]
        shards.append(collector.collect(chosen))
    assert packed(Statistics.merged(shards)) == packed(collect(model, inputs, names))


@pytest.mark.parametrize("n_threads", [0, 2, 3])
def test_threads_change_nothing(n_threads):
    model, names = interesting(tiny_cnn)
    inputs = feeds(model, 6, N=5)
    expected = packed(collect(model, inputs, names))
    assert packed(collect(model, inputs, names, n_threads=n_threads)) == expected
    assert packed(collect(model, inputs, names, n_threads=n_threads, memory_bytes=0)) == expected


def test_a_collector_takes_feeds_of_any_size_in_any_order():
    model, names = interesting(attention)
    small, large = feeds(model, 1, N=1, T=2), feeds(model, 1, N=8, T=9)
    collector = Collector(model, names, memory_bytes=20_000)
    found = [packed(collector.collect(part)) for part in (small, large, small)]
    assert found == [packed(collect(model, part, names)) for part in (small, large, small)]


def test_no_feeds_leave_empty_statistics_that_merge():
    model, names = interesting(mlp)
    some = collect(model, feeds(model, 2), names)
    none = collect(model, [], names)
    assert [t.n_samples for t in none.values()] == [0] * len(names)
    assert packed(Statistics.merged([none, some])) == packed(some)


def test_the_model_is_not_changed():
    model, names = interesting(mlp)
    before = serialize(model)
    collect(model, feeds(model, 2), names, memory_bytes=0)
    assert serialize(model) == before


@pytest.mark.parametrize("memory_bytes", [0, 2**27])
def test_large_weights_of_nodes_and_of_graphs_inside_them_are_found(memory_bytes):
    model = large_branches()
    names = ["y"]  # what the branches read is wanted by nobody
    inputs = of_rows([1, 1])
    plain = plain_values(model, inputs, names)
    statistics = collect(model, inputs, names, memory_bytes=memory_bytes)
    assert [(t.minimum, t.maximum) for t in statistics.values()] == [
        (np.min(arrays), np.max(arrays)) for arrays in plain.values()
    ]


def test_rows_are_samples_where_the_tensor_has_them_else_the_feed_is():
    model, names = interesting(scalars)
    statistics = collect(model, of_rows([3, 1, 2]), names)
    assert {name: t.n_samples for name, t in statistics.items()} == {
        "x": 6,
        "total": 3,
        "shifted": 6,
        "turned": 3,
    }


def test_constant_and_zero_tensors_have_a_range_of_one_point():
    model = constants_and_masks()
    statistics = collect(model, of_rows([2]), ["zeros", "sevens"])
    assert (statistics["zeros"].absmax, statistics["zeros"].n_zero) == (0, 8)
    assert (statistics["sevens"].minimum, statistics["sevens"].maximum) == (7, 7)


def test_denormal_values_are_counted_on_their_side_of_zero():
    x = np.array([[1, -1, 2, -2]], np.float32)
    tiny = collect(constants_and_masks(), [{"x": x}], ["tiny"])["tiny"]
    assert 0 < tiny.maximum < np.finfo(np.float32).tiny
    assert (tiny.counts[:2048].sum(), tiny.counts[2048:].sum()) == (2, 2)


def test_infinities_and_masks_are_excluded_and_counted():
    x = np.array([[1, -1, 0, 2], [-1, -1, -1, -1]], np.float32)
    statistics = collect(constants_and_masks(), [{"x": x}], ["logs", "masked", "gone"])
    assert [t.n_excluded for t in statistics.values()] == [6, 5, 8]
    assert (statistics["logs"].minimum, statistics["logs"].maximum) == (0, pytest.approx(np.log(2)))
    assert statistics["masked"].sample_maxima.tolist() == [2, 0]
    assert (statistics["gone"].n, statistics["gone"].absmax, statistics["gone"].counts.any()) == (0, 0, False)


def test_empty_tensors_leave_samples_without_values():
    model, names = interesting(selected_rows)
    x = np.ones((2, 4), np.float32)
    statistics = collect(model, [{"x": -x}, {"x": x}], names)
    assert (statistics["picked"].n, statistics["picked"].n_samples) == (8, 3)
    assert statistics["picked"].sample_maxima[0] == 0


@pytest.mark.parametrize("memory_bytes", [0, 2**27])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_nan_names_the_first_tensor_of_the_earliest_sample(memory_bytes, n_threads):
    inputs = of_rows([2, 3, 2])
    inputs[1]["x"][:] = inputs[2]["x"][:] = 1
    inputs[0]["x"][:] = 0
    inputs[1]["x"][2, 1] = inputs[2]["x"][0, 0] = -2
    names = ["x", "before", "root", "after"]
    with pytest.raises(DataError, match=r'tensor "root" holds NaN for sample 104 \(counted from 0\)'):
        collect(
            square_roots(), inputs, names, first_sample=100, memory_bytes=memory_bytes, n_threads=n_threads
        )


def test_nan_of_an_earlier_sample_comes_before_that_of_an_earlier_tensor():
    inputs = of_rows([1, 1])
    inputs[0]["x"][:] = -2
    inputs[1]["x"][:] = np.nan
    with pytest.raises(DataError, match=r'tensor "root" holds NaN for sample 0 '):
        collect(square_roots(), inputs, ["x", "before", "root"])


def test_nan_in_a_tensor_without_rows_names_the_samples_of_its_feed():
    x = np.array([[1, np.nan, 1, 1], [1, 1, 1, 1]], np.float32)
    with pytest.raises(DataError, match=r'tensor "turned" holds NaN for one of the samples 0 to 1 '):
        collect(scalars(), [{"x": x}], ["turned"])


def test_nan_in_a_tensor_of_no_interest_is_no_concern():
    x = np.full((1, 4), -2, np.float32)
    assert collect(square_roots(), [{"x": x}], ["before"])["before"].maximum == -1


def test_a_feed_that_onnxruntime_cannot_run_is_an_error_that_names_the_samples():
    model, names = interesting(mlp)
    wrong = [*feeds(model, 1), {"x": np.zeros((2, 5), np.float32)}]
    with pytest.raises(DataError, match=r"cannot run the model on one of the samples 2 to 3 "):
        collect(model, wrong, names)


def test_a_tensor_that_the_model_does_not_have_is_an_error():
    with pytest.raises(InternalError, match=r'statistics of "nowhere": the model has no such tensor'):
        collect(mlp(), [], ["x", "nowhere"])


def test_inputs_alone_need_no_run():
    inputs = of_rows([2, 3])
    statistics = collect(square_roots(), inputs, ["x"])
    assert statistics["x"].n_samples == 5


def test_tensors_of_interest_are_the_floats_around_ops_that_can_be_quantized():
    assert interesting(half_precision)[1] == ("x", "half", "folded", "whole", "y")
    assert interesting(recurrent)[1][-1] == "y"
    assert "tokens" not in interesting(recurrent)[1]


def test_insides_of_subgraphs_are_of_no_interest_and_what_they_give_is():
    assert tensors_of_interest(with_branches()) == ("x", "before_out", "choose_3_out", "y")
    assert tensors_of_interest(looped()) == ("x", "before_out", "looped", "after_out")


def test_for_speed_only_fused_ops_and_what_lies_between_them_count():
    model = prepare(mlp())  # the Softmax behind the last Gemm is not between two
    assert set(tensors_of_interest(model)) - set(tensors_of_interest(model, "speed")) == {"y"}
    model = prepare(attention())
    assert tensors_of_interest(model, "speed") == tensors_of_interest(model)


def test_blocks_are_the_least_runs_of_whole_feeds_with_so_many_samples():
    assert blocks(of_rows([2, 2, 3, 1, 6, 1]), 4) == [range(0, 2), range(2, 4), range(4, 5), range(5, 6)]
    assert blocks(of_rows([1, 1]), 8) == [range(0, 2)]
    assert blocks([], 8) == []


def test_a_feed_is_one_sample_in_blocks_where_inputs_differ_in_rows():
    uneven = {"x": np.zeros((4, 2)), "y": np.zeros((3, 2))}
    even = {"x": np.zeros((4, 2)), "y": np.zeros((4, 2))}
    assert blocks([even, uneven, even], 2) == [range(0, 2), range(2, 3)]
