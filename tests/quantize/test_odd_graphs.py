"""Graphs of all sorts in every form. Oracles: onnxruntime, which runs them, and its own quantizer."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

from disttune.config.errors import TrialError
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.digest import model_digest, serialize
from tests.quantize.engines import Feeds, dynamic, static
from tests.quantize.odd_graphs import GRAPHS, feeds_of
from tests.quantize.pairs import Pair

FORMS = {
    "static": (static(), ("Conv", "MatMul", "Gemm", "Relu", "MaxPool", "Resize", "Concat", "Add", "Gather")),
    "dynamic": (dynamic(), ("MatMul", "Gemm")),
    "weights alone": (OpConfig("weight_only", Scheme("int8", True, "per_channel")), ("MatMul", "Gemm")),
    "float16": (OpConfig("float", float_type="float16"), ()),
}
WITHOUT_MATRICES = {"shared bias", "resized", "normalized in groups", "names like new ones"}
OF_MATRICES = {"dynamic", "weights alone"}
CASES = [
    (name, form)
    for name in GRAPHS
    for form in FORMS
    if name not in WITHOUT_MATRICES or form not in OF_MATRICES
]
# What onnxruntime's quantizer does otherwise, each with its reason in the builder.
OTHERWISE = {"names like new ones", "every tensor is an output"}


def pair(name: str) -> Pair:
    model = GRAPHS[name]()
    return Pair(model, feeds_of(model))


def results(model: ModelProto, inputs: Feeds) -> list[np.ndarray]:
    """All float outputs for the first feed."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    return [array for array in session.run(None, inputs[0]) if array.dtype.kind == "f"]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_form_of_a_graph_runs_and_stays_near_the_float_model(name, form):
    t = pair(name)
    config, types = FORMS[form]
    configs = t.everywhere(config, *types)
    assert configs
    model = t.build_fast(configs)
    assert [v.name for v in model.graph.output] == [v.name for v in t.prepared.graph.output]
    for expected, found in zip(results(t.prepared, t.feeds), results(model, t.feeds), strict=True):
        assert expected.shape == found.shape
        assert np.abs(expected - found).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("name", sorted(GRAPHS.keys() - OTHERWISE))
def test_the_static_form_is_what_the_reference_makes_of_it(name):
    t = pair(name)
    config, types = FORMS["static"]
    reference, fast = t.both(t.everywhere(config, *types))
    assert model_digest(reference) == model_digest(fast)


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_what_the_reference_cannot_build_is_told_by_its_engine(name):
    t = pair(name)
    config, types = FORMS["static"]
    with pytest.raises(TrialError, match="onnxruntime"):
        t.build(t.everywhere(config, *types))
