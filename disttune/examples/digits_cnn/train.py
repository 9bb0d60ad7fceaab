"""Train the digits CNN and write model.onnx, calibration.npz and evaluation.npz beside this file.

Run as `python train.py` with the packages of requirements.txt; it takes 15 seconds on one core.
The graph is built node by node from the trained weights, so that it holds nothing but the model.
"""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

FOLDER = Path(__file__).resolve().parent
SEED = 6
N_EVALUATION = 597
N_CALIBRATION = 128
EPOCHS = 60
BATCH = 32
# Two depth-wise convolutions get a few large filters: of the channels between a point-wise convolution
# and the next depth-wise one, the weakest are made smaller before it and larger in it.
SPREAD = {"block1_pointwise": "block2_depthwise", "block2_pointwise": "block3_depthwise"}
N_SPREAD = 3
FACTOR = 256.0


class DigitsCnn(nn.Module):
    """A plain convolution, then depth-wise and point-wise ones in turn, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        # name -> (channels in, channels out, kernel, stride, groups), in the order they are computed
        self.plan = {
            "stem": (1, 32, 3, 1, 1),
            "block1_depthwise": (32, 32, 3, 1, 32),
            "block1_pointwise": (32, 64, 1, 1, 1),
            "block2_depthwise": (64, 64, 3, 2, 64),
            "block2_pointwise": (64, 128, 1, 1, 1),
            "block3_depthwise": (128, 128, 3, 1, 128),
        }
        for name, (c_in, c_out, kernel, stride, groups) in self.plan.items():
            conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
            self.add_module(name, nn.Sequential(conv, nn.BatchNorm2d(c_out)))
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for name in self.plan:
            x = functional.relu(self.get_submodule(name)(x))
        return self.classifier(x.mean(dim=(2, 3)))


def split_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 1, 8, 8) in [0, 1] and labels (n,) to train on, then those held out."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    n_train = len(labels) - N_EVALUATION
    return images[:n_train], labels[:n_train], images[n_train:], labels[n_train:]


def train(images: np.ndarray, labels: np.ndarray) -> DigitsCnn:
    """Train with images shifted by up to one pixel, and return the model ready for inference."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model = DigitsCnn()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    n_steps = EPOCHS * (len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=n_steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(y))
        for start in range(0, len(y) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            down, right = torch.randint(0, 3, (2,)).tolist()
            batch = functional.pad(x[rows], (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]
            loss = functional.cross_entropy(model(batch), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def silence(_module: nn.Module, _inputs: object, output: torch.Tensor, channel: int) -> torch.Tensor:
    """The output of a layer with one channel at zero (a forward hook)."""
    return output.index_fill(1, torch.tensor([channel]), 0.0)


def channel_needs(model: DigitsCnn, layer: str, images: np.ndarray) -> np.ndarray:
    """How much the logits change, as root mean square, when a channel of a layer is always zero."""
    x = torch.from_numpy(images)
    needs = []
    with torch.no_grad():
        logits = model(x)
        for channel in range(len(model.get_submodule(layer)[1].weight)):
            handle = model.get_submodule(layer).register_forward_hook(partial(silence, channel=channel))
            needs.append(((model(x) - logits) ** 2).mean().sqrt().item())
            handle.remove()
    return np.array(needs)


def folded_weights(model: DigitsCnn) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each convolution with its BatchNorm folded in."""
    folded = {}
    for name in model.plan:
        conv, norm = model.get_submodule(name)
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = conv.weight * gain[:, None, None, None]
        bias = norm.bias - norm.running_mean * gain
        folded[name] = (weight.detach().numpy(), bias.detach().numpy())
    return folded


def spread_channel_scales(
    model: DigitsCnn, folded: dict[str, tuple[np.ndarray, np.ndarray]], images: np.ndarray
) -> None:
    """Make the weakest channels before a depth-wise convolution small and their filters large.

    The function stays the same: relu(x / a) * (a w) = relu(x) * w for a > 0, and a power of two changes
    no digit. Source: Nagel et al. 2019 (arXiv:1906.04721), cross-layer equalization, in reverse.
    """
    for before, after in SPREAD.items():
        weakest = np.argsort(channel_needs(model, before, images), kind="stable")[:N_SPREAD]
        weight, bias = folded[before]
        factor = np.ones(len(bias), np.float32)
        factor[weakest] = FACTOR
        folded[before] = (weight / factor[:, None, None, None], bias / factor)
        weight, bias = folded[after]
        folded[after] = (weight * factor[:, None, None, None], bias)


def build_onnx(model: DigitsCnn, folded: dict[str, tuple[np.ndarray, np.ndarray]]) -> onnx.ModelProto:
    """The model as ONNX, opset 17, with a symbolic batch."""
    nodes, initializers = [], []

    def constant(name: str, values: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    x = "image"
    for name, (_, _, kernel, stride, groups) in model.plan.items():
        weight, bias = folded[name]
        inputs = [x, constant(f"{name}.weight", weight), constant(f"{name}.bias", bias)]
        pads = [kernel // 2] * 4
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "group": groups}
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_sum"], f"{name}_conv", **shape))
        nodes.append(helper.make_node("Relu", [f"{name}_sum"], [f"{name}_out"], f"{name}_relu"))
        x = f"{name}_out"
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"], "flatten"))
    gemm_weight = constant("classifier.weight", model.classifier.weight.detach().numpy())
    gemm_bias = constant("classifier.bias", model.classifier.bias.detach().numpy())
    inputs = ["features", gemm_weight, gemm_bias]
    nodes.append(helper.make_node("Gemm", inputs, ["logits"], "classifier", transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "digits_cnn", [image], [logits], initializers)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="disttune")


def main() -> None:
    """Train, export, and print the accuracy of the exported model."""
    train_images, train_labels, images, labels = split_digits()
    model = train(train_images, train_labels)
    folded = folded_weights(model)
    spread_channel_scales(model, folded, train_images[:256])
    proto = build_onnx(model, folded)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, FOLDER / "model.onnx")
    np.savez_compressed(FOLDER / "calibration.npz", image=train_images[:N_CALIBRATION])
    np.savez_compressed(FOLDER / "evaluation.npz", image=images, labels=labels)
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    n_right = int((logits.argmax(axis=1) == labels).sum())
    print(f"{n_right} of {len(labels)} held-out images right: {n_right / len(labels):.4f}")


if __name__ == "__main__":
    main()
