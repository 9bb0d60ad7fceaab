"""The bundled examples: committed models, data and job files; training is not run here."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

import disttune
from disttune.config.job_file import load_job

EXAMPLES = Path(disttune.__file__).parent / "examples"
N_EVALUATION = 597
# name -> images right in fp32, smallest and largest size of the model in bytes
MODELS = {"digits_cnn": (594, 20_000, 300_000), "digits_transformer": (588, 200_000, 600_000)}
GOAL = 0.99  # of the fp32 accuracy: tolerable_loss = 0.01, relative


class Reader(CalibrationDataReader):
    """The calibration images of an example, sixteen at a time."""

    def __init__(self, name: str) -> None:
        images = arrays(name, "calibration")["image"]
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(
            [{"image": images[i : i + 16]} for i in range(0, len(images), 16)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def arrays(name: str, file: str) -> dict[str, np.ndarray]:
    with np.load(EXAMPLES / name / f"{file}.npz", allow_pickle=False) as data:
        return dict(data)


def n_right(name: str, model: Path) -> int:
    data = arrays(name, "evaluation")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": data["image"]})
    return int((logits.argmax(axis=1) == data["labels"]).sum())


def quantized(name: str, folder: Path, **options: Any) -> Path:
    """The example's model as stock onnxruntime quantizes it: QDQ, uint8 activations, int8 weights."""
    quantize_static(
        EXAMPLES / name / "model.onnx",
        folder / "quantized.onnx",
        Reader(name),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        **options,
    )
    return folder / "quantized.onnx"


@pytest.mark.parametrize("name", MODELS)
def test_model_is_valid_and_says_what_the_job_file_needs(name: str) -> None:
    model = onnx.load(EXAMPLES / name / "model.onnx")

    onnx.checker.check_model(model, full_check=True)

    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (image,), (logits,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, logits)]
    assert (image.name, logits.name, shapes) == ("image", "logits", [["N", 1, 8, 8], ["N", 10]])
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_in_fp32_is_the_one_in_the_readme(name: str) -> None:
    right = n_right(name, EXAMPLES / name / "model.onnx")

    assert right == MODELS[name][0]
    assert f"| fp32 | {right} of {N_EVALUATION} | {right / N_EVALUATION:.4f} |" in (
        EXAMPLES / name / "README.md"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODELS)
def test_answer_does_not_depend_on_the_batch(name: str) -> None:
    images = arrays(name, "evaluation")["image"][:5]
    session = onnxruntime.InferenceSession(EXAMPLES / name / "model.onnx", providers=["CPUExecutionProvider"])

    singly = np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(5)])

    np.testing.assert_allclose(session.run(None, {"image": images})[0], singly, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_data_are_typed_and_no_image_is_in_both_files(name: str) -> None:
    calibration, evaluation = arrays(name, "calibration"), arrays(name, "evaluation")

    assert set(calibration) == {"image"}
    assert set(evaluation) == {"image", "labels"}
    assert calibration["image"].shape == (128, 1, 8, 8)
    assert evaluation["image"].shape == (N_EVALUATION, 1, 8, 8)
    assert {a["image"].dtype for a in (calibration, evaluation)} == {np.dtype(np.float32)}
    assert (evaluation["labels"].dtype, evaluation["labels"].shape) == (np.int64, (N_EVALUATION,))
    assert np.bincount(evaluation["labels"], minlength=10).min() >= 40
    assert not {row.tobytes() for row in calibration["image"]} & {
        row.tobytes() for row in evaluation["image"]
    }


@pytest.mark.parametrize("name", MODELS)
def test_files_are_small_and_requirements_are_pinned(name: str) -> None:
    _, smallest, largest = MODELS[name]

    assert smallest <= (EXAMPLES / name / "model.onnx").stat().st_size <= largest
    assert sum(path.stat().st_size for path in (EXAMPLES / name).glob("*.npz")) < 50_000
    assert all("==" in line for line in (EXAMPLES / name / "requirements.txt").read_text().splitlines())


@pytest.mark.parametrize("name", MODELS)
def test_job_file_is_accepted_and_names_files_beside_it(name: str) -> None:
    job = load_job(EXAMPLES / name / "job.toml")

    (evaluator,) = job.evaluation.entries
    paths = [job.model.path, job.calibration.data, evaluator.data]
    assert paths == [EXAMPLES / name / f for f in ("model.onnx", "calibration.npz", "evaluation.npz")]
    assert (job.accuracy.criterion, job.accuracy.tolerable_loss) == ("relative", 0.01)


def test_cnn_job_tries_one_scale_per_tensor_first() -> None:
    job = tomllib.loads((EXAMPLES / "digits_cnn" / "job.toml").read_text(encoding="utf-8"))

    conv = job["quantization"]["op_types"]["Conv"]

    assert job["tuning"] == {"strategy": "exhaustive", "max_trials": 12}
    assert conv["weight"]["granularity"] == ["per_tensor", "per_channel"]


def test_cnn_misses_the_goal_by_far_with_one_scale_per_weight_tensor(tmp_path: Path) -> None:
    model = quantized("digits_cnn", tmp_path, per_channel=False, calibrate_method=CalibrationMethod.MinMax)

    assert n_right("digits_cnn", model) < 0.8 * MODELS["digits_cnn"][0]


def test_cnn_meets_the_goal_with_margin_with_a_scale_per_channel(tmp_path: Path) -> None:
    model = quantized("digits_cnn", tmp_path, per_channel=True, calibrate_method=CalibrationMethod.MinMax)

    assert n_right("digits_cnn", model) >= 0.997 * MODELS["digits_cnn"][0]


def test_transformer_misses_the_goal_by_far_with_minmax(tmp_path: Path) -> None:
    model = quantized(
        "digits_transformer", tmp_path, per_channel=True, calibrate_method=CalibrationMethod.MinMax
    )

    assert n_right("digits_transformer", model) < 0.9 * MODELS["digits_transformer"][0]


def test_transformer_meets_the_goal_when_outliers_are_clipped(tmp_path: Path) -> None:
    clipping = {"CalibTensorRangeSymmetric": False, "CalibPercentile": 98.0}

    model = quantized(
        "digits_transformer",
        tmp_path,
        per_channel=True,
        calibrate_method=CalibrationMethod.Percentile,
        extra_options=clipping,
    )

    assert n_right("digits_transformer", model) >= GOAL * MODELS["digits_transformer"][0]
