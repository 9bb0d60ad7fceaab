"""Learned rounding in whole models: the digits CNN, whose depth-wise filters one scale per tensor ruins."""

from importlib.resources import files

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

from disttune.config.schemes import FLOAT32, OpConfig, Scheme
from disttune.quantize.digest import serialize
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from disttune.quantize.graph import prepare
from disttune.quantize.work import complete
from disttune.space.candidate import Candidate

FOLDER = files("disttune.examples") / "digits_cnn"
FLOAT_ACCURACY = 0.995


def accuracy(model: ModelProto) -> float:
    samples = np.load(str(FOLDER / "evaluation.npz"), allow_pickle=False)
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": samples["image"]})[0]
    return float((np.asarray(found).argmax(axis=1) == samples["labels"]).mean())


def quantized(weight: Scheme) -> ModelProto:
    """Every Conv and Gemm with such a weight and uint8 activations."""
    model = prepare(onnx.load(str(FOLDER / "model.onnx")))
    images = np.load(str(FOLDER / "calibration.npz"), allow_pickle=False)["image"]
    engine = FastEngine(
        model, None, [{"image": images[i : i + 16]} for i in range(0, 128, 16)], EngineSettings()
    )
    config = OpConfig("static", weight, Scheme("uint8", False))
    linear = {"Conv", "Gemm"}
    candidate = Candidate.of({n.name: config if n.op_type in linear else FLOAT32 for n in model.graph.node})
    complete(engine, candidate)
    return engine.build(candidate)


@pytest.mark.parametrize("method", ["adaround", "adaquant"])
def test_one_scale_per_tensor_loses_a_tenth_of_what_it_loses_by_rounding(method: str) -> None:
    lost = [FLOAT_ACCURACY - accuracy(quantized(Scheme("int8", True, method=m))) for m in ("minmax", method)]
    assert lost[0] > 0.4
    assert lost[1] < 0.1 * lost[0]


@pytest.mark.parametrize("method", ["adaround", "adaquant", "seqmse"])
def test_four_bit_weights_and_eight_bit_activations_stay_within_two_points_of_float(method: str) -> None:
    assert accuracy(quantized(Scheme("int4", True, "per_channel", method=method))) > FLOAT_ACCURACY - 0.02
