"""What job files say of quantizing, from the command line: formats, ranges, tensors in float, targets."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from disttune.runtime.hosts import this_host
from tests.cli.jobs import result

# Formats


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_dynamic_job_in_the_format_of_operators_is_one(call, job, engine):
    settings = ("tuning.strategy=default", "quantization.approach=dynamic", "quantization.format=qoperator")
    arguments = [part for s in (*settings, f"quantization.engine={engine}") for part in ("--set", s)]
    code, _, err = call("tune", job, "-o", "run", *arguments)

    assert (code, err) == (0, "")
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= {
        n.op_type for n in onnx.load("run/best.onnx").graph.node
    }


# Reduced ranges


@pytest.fixture
def weak_cpu(monkeypatch):
    """As if this machine had no VNNI."""
    here = replace(this_host(), saturates=True, cpu="Old CPU")
    monkeypatch.setattr("disttune.runtime.ranks.this_host", lambda: here)


def largest_code(path: Path) -> int:
    arrays = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    return max(int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.ndim > 1)


def test_weights_take_7_bits_where_a_processor_saturates_and_that_is_said_once(call, job, weak_cpu):
    code, out, _ = call("tune", job, "-o", "run", "--set", "tuning.strategy=default")

    assert code == 0
    assert out.count("Old CPU has no VNNI") == 1
    assert result(Path("run"))["best"]["candidate"]["recipes"] == {"reduce_range": True}
    assert largest_code(Path("run/best.onnx")) == 64


def test_the_job_has_the_last_word_on_reduced_ranges(call, job, weak_cpu):
    setting = ("--set", "tuning.strategy=default", "--set")
    call("tune", job, "-o", "run", *setting, "quantization.reduce_range=false")
    assert largest_code(Path("run/best.onnx")) == 127
    for target, most in (("ort-cpu", 64), ("openvino", 64)):
        arguments = (*setting, f"model.target={target}", "--set", "quantization.reduce_range=true")
        call("tune", job, "-o", target, *arguments)
        assert largest_code(Path(target) / "best.onnx") == most
    call("tune", job, "-o", "default", *setting, "model.target=openvino")
    assert largest_code(Path("default/best.onnx")) == 127  # it does not run on this machine's CPU


def test_a_resume_on_another_processor_keeps_what_was_decided(call, job, weak_cpu, monkeypatch):
    setting = ("--set", "tuning.strategy=random", "--set", "tuning.stop_at=budget", "--set")
    call("tune", job, "-o", "run", *setting, "tuning.max_trials=1")
    strong = replace(this_host(), saturates=False)
    monkeypatch.setattr("disttune.runtime.ranks.this_host", lambda: strong)

    code, out, _ = call("tune", job, "-o", "run", *setting, "tuning.max_trials=3")

    assert code == 0
    assert out.count("weights keep the 7 bits decided then") == 1
    assert result(Path("run"))["trials"] == 3
    assert largest_code(Path("run/best.onnx")) == 64


# Tensors left in float, and what onnxruntime makes of a model


def test_excluded_tensors_stay_in_float(call, job):
    weight = "quantization.exclude_tensors=['w1']"
    code, _, err = call("tune", job, "-o", "run", "--set", "tuning.strategy=default", "--set", weight)

    assert (code, err) == (0, "")
    names = {tensor.name for tensor in onnx.load("run/best.onnx").graph.initializer}
    assert {"w1", "w2_quantized"} <= names
    assert "w1_quantized" not in names


def test_an_unknown_excluded_tensor_is_a_mistake_with_the_nearest(call, job):
    code, _, err = call("tune", job, "-o", "run", "--set", "quantization.exclude_tensors=['w11']")
    assert code == 2
    assert '[quantization] exclude_tensors: no tensor "w11", and as a regex it matches none' in err
    assert 'Nearest: "w1"' in err


def test_an_engine_refuses_recipes_that_it_does_not_have(call, job):
    engine = ("--set", "quantization.engine=reference")
    code, _, err = call("tune", job, "-o", "run", *engine, "--set", "quantization.recipes.smooth_quant=true")
    assert code == 2
    assert '[quantization] recipes.smooth_quant: engine "reference" does not have it. It has add_qdq' in err
    code, _, _ = call("tune", job, "-o", "run", *engine, "--set", "quantization.recipes.smooth_quant=false")
    assert code == 0


def test_the_reference_engine_refuses_excluded_tensors(call, job):
    arguments = ("--set", "quantization.exclude_tensors=['w1']", "--set", "quantization.engine=reference")
    code, _, err = call("tune", job, "-o", "run", *arguments)
    assert (code, 'engine "reference" has no quantization.exclude_tensors' in err) == (2, True)


def test_fusions_shows_what_each_node_becomes(call, job):
    call("tune", job, "-o", "run", "--set", "tuning.strategy=default")

    code, out, err = call("fusions", "run/best.onnx")

    assert (code, err) == (0, "")
    assert re.search(r"fc1 +│ Gemm +│ QGemm +│ on codes", out)
    assert out.splitlines()[-1].startswith("2 on codes (2 QGemm)")
    code, _, err = call("fusions", "nowhere.onnx")
    assert (code, "model nowhere.onnx: no such file" in err) == (2, True)
    code, _, err = call("fusions", "run/best.onnx", "--provider", "CPU")
    assert (code, "CPUExecutionProvider" in err) == (2, True)


# Targets


@pytest.mark.parametrize("target", ["tensorrt", "qnn", "vitis-ai", "openvino"])
def test_a_job_for_another_target_gives_a_model_that_fits_it(call, job, target):
    code, out, err = call(
        "tune", job, "-o", "run", "--set", f"model.target={target}", "--set", "tuning.strategy=default"
    )

    assert (code, err) == (0, "")
    assert re.search(rf"best\.onnx: target {target}: all [34] nodes with codes fit its format", out)
    assert call("check", "run/best.onnx", "--target", target)[0] == 0


def test_check_lists_the_nodes_outside_a_target_and_ends_with_3(call, job):
    call("tune", job, "-o", "run", "--set", "tuning.strategy=default")

    code, out, err = call("check", "run/best.onnx", "--target", "tensorrt")

    assert (code, err) == (3, "")
    assert out.splitlines()[-1] == "target tensorrt: 4 of 4 nodes are outside"
    assert 'fc1 (Gemm): bias "b1_quantized" is int32 symmetric per channel; allowed: a float bias' in out


def test_check_tells_an_unknown_target_and_a_missing_model(call, job):
    code, _, err = call("check", "model.onnx", "--target", "tensor-rt")
    assert (code, 'no target "tensor-rt". Nearest: "tensorrt".' in err) == (2, True)
    code, _, err = call("check", "modle.onnx", "--target", "qnn")
    assert (code, "model modle.onnx: no such file" in err) == (2, True)
