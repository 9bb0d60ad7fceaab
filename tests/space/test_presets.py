"""Whole-model presets, and how the computing is counted."""

from dataclasses import replace

from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import FLOAT32
from disttune.space.build import build_space
from disttune.space.capability import APPROACHES, load_capability
from disttune.space.compute import quantized_share, types_by_compute
from tests.builders import chain, model

METHODS = frozenset({"minmax", "percentile"})


def presets(*op_types, approaches=(*APPROACHES, "weight_only"), methods=METHODS, **quantization):
    section = QuantizationSection(**quantization)
    return build_space(
        chain(*op_types), load_capability("ort-cpu"), section, methods, approaches=approaches
    ).presets


def test_all_four_where_they_differ():
    made = presets("Conv", "Relu", "Gemm", placement="all")
    assert list(made) == ["Conv, MatMul and Gemm only", "percentile 99.99", "dynamic", "weights only"]
    assert made["Conv, MatMul and Gemm only"].config_of("Relu_1") == FLOAT32
    activations = {c.activation.parameter for c in made["percentile 99.99"].configs().values()}
    assert activations == {99.99}
    assert {c.approach for c in made["dynamic"].configs().values()} == {"dynamic", "float"}
    weights_only = made["weights only"].config_of("Conv_0")
    assert (weights_only.approach, weights_only.weight.granularity) == ("weight_only", "per_channel")
    assert weights_only.activation is None


def test_those_that_equal_the_default_or_quantize_nothing_are_left_out():
    assert list(presets("Conv", "Gemm")) == ["percentile 99.99", "dynamic", "weights only"]
    assert list(presets("MatMul", approach="dynamic")) == ["weights only"]
    assert list(presets("Relu", placement="all")) == ["percentile 99.99"]


def test_what_the_engine_cannot_do_is_left_out():
    assert list(presets("Gemm", approaches=APPROACHES, methods={"minmax"})) == ["dynamic"]


def test_what_the_user_settled_holds():
    settled = {"Gemm": {"activation": {"method": "minmax"}, "weight": {"granularity": "per_tensor"}}}
    made = presets("Gemm", op_types=settled)
    assert list(made) == ["dynamic", "weights only"]
    assert {p.config_of("Gemm_0").weight.granularity for p in made.values()} == {"per_tensor"}
    settled = {"Gemm": {"approach": "static", "weight": {"dtype": "int8"}}}
    assert list(presets("Gemm", op_types=settled)) == ["percentile 99.99"]


def test_the_warnings_of_the_space_are_not_about_presets():
    section = QuantizationSection(op_types={"Gemm": {"activation": {"dtype": ["uint8"]}}})
    assert build_space(chain("Gemm"), load_capability("ort-cpu"), section, METHODS).warnings == ()


def with_macs(summary, **macs):
    return model(*(replace(op, n_macs=macs.get(op.name, 0)) for op in summary.ops))


def test_the_share_is_of_the_ops_of_the_space():
    summary = with_macs(chain("Conv", "MatMul", "Softmax"), Conv_0=300, MatMul_1=100)
    space = build_space(summary, load_capability("ort-cpu"), QuantizationSection(), METHODS)
    start = space.default_candidate()
    assert quantized_share(start, summary) == 1.0
    assert quantized_share(start.in_float("Conv_0"), summary) == 0.25


def test_without_counts_the_share_is_of_ops():
    summary = chain("Conv", "MatMul", "Gemm", "Gemm")
    space = build_space(summary, load_capability("ort-cpu"), QuantizationSection(), METHODS)
    assert quantized_share(space.default_candidate().in_float("Conv_0"), summary) == 0.75


def test_types_come_by_their_share_and_ties_by_appearance():
    summary = with_macs(chain("Relu", "Conv", "Gemm", "Add", "Gemm"), Conv_1=5, Gemm_2=3, Gemm_4=3)
    types = {op.name: op.op_type for op in summary.ops}
    assert types_by_compute(types, summary) == ["Gemm", "Conv", "Relu", "Add"]
