"""Models built for each target, held against its format; the oracle is what the protobuf says, read here."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import disttune
from disttune.config.errors import InputError, ModelError
from disttune.config.quantization_section import QuantizationSection
from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.target_check import TargetReport, check_target
from disttune.space.build import build_space
from disttune.space.capability import load_capability, target_names
from disttune.space.space import Space
from tests.models import Graph, attention, depthwise_cnn, feeds, mlp, tiny_cnn, value
from tests.quantize.engines import Tried, dynamic, outputs, static
from tests.quantize.pairs import Pair

MODELS = {"tiny_cnn": tiny_cnn, "depthwise_cnn": depthwise_cnn, "mlp": mlp, "attention": attention}
OTHERS = [name for name in target_names() if name != "ort-cpu"]


class Aimed(Tried):
    """A model with its space and the fast engine for a target."""

    def __init__(self, model: ModelProto, target: str, **quantization: object):
        super().__init__(model, feeds(model, 3, N=2, T=4))
        self.capability = load_capability(target)
        section = QuantizationSection.model_validate(quantization)
        self.space: Space = build_space(
            self.summary, self.capability, section, approaches=("static", "weight_only")
        )
        settings = EngineSettings(placement=self.capability.placement, target=target)
        self.fast = FastEngine(self.prepared, self.summary, self.feeds, settings)

    def default(self) -> ModelProto:
        return self.fast.build(self.space.default_candidate())


def pairs(model: ModelProto) -> list[tuple[TensorProto, TensorProto]]:
    """Scale and zero point of every Q and DQ node."""
    tensors = {t.name: t for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return [(tensors[n.input[1]], tensors[n.input[2]]) for n in nodes]


def dtypes(model: ModelProto) -> set[str]:
    return {TensorProto.DataType.Name(zero_point.data_type).lower() for _, zero_point in pairs(model)}


def values(tensor: TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float64)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("target", target_names())
def test_the_default_model_of_a_target_fits_it_and_runs(target, make):
    aimed = Aimed(make(), target)
    model = aimed.default()
    onnx.checker.check_model(model)
    report = check_target(model, target)
    assert report.fits, report
    assert report.n_nodes >= len(aimed.ops_of("Conv", "Gemm")) > 0 or report.n_nodes >= 8
    exact = outputs(aimed.prepared, aimed.feeds)
    for found, expected in zip(outputs(model, aimed.feeds), exact, strict=True):
        assert np.abs(found - expected).max() < 0.3 * np.abs(expected).max()


@pytest.mark.parametrize("make", [depthwise_cnn, attention])
@pytest.mark.parametrize("target", ["tensorrt", "vitis-ai", "openvino"])
def test_candidates_and_presets_of_a_target_fit_it(target, make):
    aimed = Aimed(make(), target)
    random = np.random.default_rng(0)
    drawn = [aimed.space[int(random.integers(0, min(aimed.space.size, 2**62)))] for _ in range(4)]
    for candidate in (*drawn, *aimed.space.presets.values()):
        report = check_target(aimed.fast.build(candidate), target)
        assert report.fits, f"{candidate}: {report}"


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_tensorrt_models_have_int8_codes_zero_points_0_and_float_biases(make):
    model = Aimed(make(), "tensorrt").default()
    assert dtypes(model) == {"int8"}
    assert not any(values(zero_point).any() for _, zero_point in pairs(model))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_vitis_ai_models_have_power_of_two_scales_and_zero_points_0(make):
    model = Aimed(make(), "vitis-ai").default()
    assert dtypes(model) <= {"int8", "int32"}
    for scale, zero_point in pairs(model):
        assert (np.frexp(values(scale))[0] == 0.5).all()
        assert not values(zero_point).any()


def test_a_weight_that_grows_for_its_bias_keeps_a_power_of_two():
    model = mlp()
    for tensor in model.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(numpy_helper.from_array(np.full(8, 1e9, np.float32), "b1"))
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(np.full((6, 8), 1e-6, np.float32), "w1"))
    built = Aimed(model, "vitis-ai").default()
    assert "int32" in dtypes(built)
    assert check_target(built, "vitis-ai").fits


def test_qnn_takes_8_and_16_bits_and_4_bit_weights_of_a_convolution():
    settled = {
        "Conv": {"weight": {"dtype": "int4"}, "activation": {"dtype": "uint16"}},
        "Relu": {"activation": {"dtype": "uint16"}},
        "MaxPool": {"activation": {"dtype": "uint16"}},
        "GlobalAveragePool": {"activation": {"dtype": "uint16"}},
        "Flatten": {"activation": {"dtype": "uint16"}},
        "Gemm": {"activation": {"dtype": "uint16"}},
    }
    aimed = Aimed(tiny_cnn(), "qnn", op_types=settled)
    model = aimed.default()
    assert dtypes(model) >= {"int4", "uint16", "int8"}
    assert check_target(model, "qnn").fits


def test_weights_per_channel_of_a_matmul_are_outside_qnn():
    model = Pair(attention(), T=4).build_fast({"up": static(per_channel=True)})
    (outside,) = check_target(model, "qnn").outside
    assert (outside.op, outside.op_type) == ("up", "MatMul")
    assert outside.found.startswith('weight "wu_quantized" is int8 symmetric per channel')
    assert "weight int8 symmetric per tensor, activation uint8 asymmetric per tensor" in outside.allowed


def outside_of(model: ModelProto, target: str) -> Mapping[str, str]:
    return {node.op: node.found for node in check_target(model, target).outside}


def test_each_node_outside_is_listed_once_with_what_was_found():
    t = Pair(tiny_cnn())
    model = t.build_fast({"conv1": static(), "conv2": static("int8", "int8", symmetric=True)})
    found = outside_of(model, "tensorrt")
    assert "conv1" in found
    assert "int32" in found["conv1"]  # its bias
    assert outside_of(model, "ort-cpu") == {}


def test_zero_points_and_scales_outside_the_format_are_seen():
    t = Pair(mlp())
    skewed = t.build_fast({"fc1": static("int8", "int8")}, quantize_bias=False)
    assert "int8 asymmetric per tensor" in outside_of(skewed, "tensorrt")["fc1"]
    straight = t.build_fast({"fc1": static("int8", "int8", symmetric=True)}, quantize_bias=False)
    assert outside_of(straight, "tensorrt") == {}
    assert outside_of(straight, "vitis-ai")["fc1"].startswith('weight "w1_quantized" is int8 symmetric')


@pytest.mark.parametrize("target", OTHERS)
def test_operators_on_codes_are_for_targets_with_dynamic_rows(target):
    model = Pair(mlp()).build_fast({"fc1": dynamic()})
    assert (
        "DynamicQuantizeLinear" in "".join(check_target(model, "ort-cpu").outside) + "DynamicQuantizeLinear"
    )
    assert check_target(model, "ort-cpu").fits
    assert not check_target(model, target).fits


def test_weights_alone_fit_where_the_target_takes_them():
    model = Pair(mlp()).build_fast({"fc1": OpConfig("weight_only", Scheme("int8", True, "per_channel"))})
    fitting = [target for target in target_names() if check_target(model, target).fits]
    assert fitting == ["openvino", "ort-cpu"]
    assert outside_of(model, "tensorrt")["fc1"].endswith("beside float data")


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_weight_only_jobs_of_a_target_fit_it(target):
    g = Graph()
    g.node("MatMul", "x", g.weight("w", 128, 8), name="fc", output="y")
    aimed = Aimed(g.model([value("x", ["N", 128])], [value("y", ["N", 8])]), target, approach="weight_only")
    model = aimed.default()
    assert dtypes(model) == {"int4"}
    assert check_target(model, target).fits


def test_mixed_activation_types_of_one_op_are_outside_qnn():
    t = Pair(depthwise_cnn())
    wide = OpConfig("static", None, Scheme("uint16", False))
    model = t.build_fast({**t.everywhere(static(), "Conv"), "residual": wide})
    found = outside_of(model, "qnn")
    assert found["residual"] == "activations of uint16 and uint8"


def test_an_op_that_writes_another_type_than_it_reads_is_outside_qnn():
    t = Pair(mlp())
    model = t.build_fast(
        {"fc1": static(per_channel=False), "fc2": static("int8", "uint16", per_channel=False)}
    )
    found = outside_of(model, "qnn")
    assert "activations of uint16 and uint8" in found.values()
    assert outside_of(model, "ort-cpu") == {}


def test_a_float_model_fits_every_target():
    for target in target_names():
        report = check_target(mlp(), target)
        assert report == TargetReport(target, 0, ())


def test_the_report_in_words_names_three_and_counts_the_others():
    t = Pair(attention(), T=4)
    report = check_target(t.build_fast(t.everywhere(static(), "MatMul")), "vitis-ai")
    text = str(report)
    assert text.startswith(f"target vitis-ai: {len(report.outside)} of {report.n_nodes} nodes are outside: ")
    assert text.endswith(f"; and {len(report.outside) - 3} more")


def test_a_file_is_checked_by_its_path(tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(Aimed(mlp(), "tensorrt").default(), path)
    assert disttune.check_target(path, "tensorrt").fits


def test_mistakes_are_told_in_one_sentence(tmp_path: Path):
    (tmp_path / "no.onnx").write_text("nothing of the kind")
    with pytest.raises(InputError, match=r'no target "tensort"\. Nearest: "tensorrt"'):
        check_target(mlp(), "tensort")
    with pytest.raises(ModelError, match="is not an ONNX"):
        check_target(tmp_path / "no.onnx", "qnn")
    with pytest.raises(ModelError, match="no such file"):
        check_target(tmp_path / "missing.onnx", "qnn")
