"""Train the digits transformer and write model.onnx, calibration.npz and evaluation.npz beside this file.

Run as `python train.py` with the packages of requirements.txt; it takes 15 seconds on one core.
The graph is built node by node from the trained weights, so that it holds nothing but the model.
"""

import math
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
SEED = 7
N_EVALUATION = 597
N_CALIBRATION = 128
EPOCHS = 60
BATCH = 32
N_LAYERS = 2
N_TOKENS = 8  # rows of the image
WIDTH = 64
HIDDEN = 256
HEADS = 4
EPSILON = 1e-5
FACTOR = 256.0  # by which the outlier channel of an attention's LayerNorm is larger


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron with Gelu, each behind a LayerNorm and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.perceptron_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.expand = nn.Linear(WIDTH, HIDDEN)
        self.shrink = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attention_norm(x)
        query, key, value = (self._heads(part) for part in self.qkv(y).chunk(3, dim=2))
        scores = functional.softmax(query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS), dim=-1)
        context = (scores @ value).transpose(1, 2).reshape(x.shape)
        x = x + functional.dropout(self.output(context), 0.1, self.training)
        y = self.shrink(functional.gelu(self.expand(self.perceptron_norm(x))))
        return x + functional.dropout(y, 0.1, self.training)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) as (n, heads, tokens, width of a head)."""
        return x.reshape(-1, N_TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)


class DigitsTransformer(nn.Module):
    """An encoder that reads the rows of an image as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH, bias=False)
        self.position = nn.Parameter(0.1 * torch.randn(N_TOKENS, WIDTH))
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(N_LAYERS))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.classifier = nn.Linear(WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image.reshape(-1, N_TOKENS, 8)) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.classifier(self.norm(x).mean(dim=1))


def split_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 1, 8, 8) in [0, 1] and labels (n,) to train on, then those held out."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    n_train = len(labels) - N_EVALUATION
    return images[:n_train], labels[:n_train], images[n_train:], labels[n_train:]


def train(images: np.ndarray, labels: np.ndarray) -> DigitsTransformer:
    """Train with images shifted by up to one pixel, and return the model ready for inference."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model = DigitsTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    n_steps = EPOCHS * (len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=n_steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(y))
        for start in range(0, len(y) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            padded = functional.pad(x[rows], (1, 1, 1, 1))
            corners = torch.randint(0, 3, (BATCH, 2)).tolist()
            batch = torch.stack(
                [p[:, d : d + 8, r : r + 8] for p, (d, r) in zip(padded, corners, strict=True)]
            )
            loss = functional.cross_entropy(model(batch), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def add_outlier_channels(model: DigitsTransformer, images: np.ndarray) -> None:
    """Make the weakest channel of each attention's LayerNorm large, and its column in `qkv` small.

    The function stays the same, and a power of two changes no digit. Source: Wei et al. 2022
    (arXiv:2209.13325): LayerNorm's gains make outlier channels, and clipping those costs little;
    Xiao et al. 2023 (arXiv:2211.10438), SmoothQuant, in reverse.
    """
    for layer in model.layers:
        channel = int(np.argmin(channel_needs(model, layer.attention_norm, images)))
        with torch.no_grad():
            layer.attention_norm.weight[channel] *= FACTOR
            layer.attention_norm.bias[channel] *= FACTOR
            layer.qkv.weight[:, channel] /= FACTOR


def silence(_module: nn.Module, _inputs: object, output: torch.Tensor, channel: int) -> torch.Tensor:
    """The output of a layer with one channel at zero (a forward hook)."""
    return output.index_fill(2, torch.tensor([channel]), 0.0)


def channel_needs(model: DigitsTransformer, norm: nn.Module, images: np.ndarray) -> np.ndarray:
    """How much the logits change, as root mean square, when a channel of a LayerNorm is always zero."""
    x = torch.from_numpy(images)
    needs = []
    with torch.no_grad():
        logits = model(x)
        for channel in range(WIDTH):
            handle = norm.register_forward_hook(partial(silence, channel=channel))
            needs.append(((model(x) - logits) ** 2).mean().sqrt().item())
            handle.remove()
    return np.array(needs)


class GraphWriter:
    """Collects the nodes and weights of the model in ONNX; each method returns its output's name."""

    def __init__(self, model: DigitsTransformer) -> None:
        self.weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: np.ndarray) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
        self.initializers[name] = tensor
        return name

    def node(self, op_type: str, name: str, inputs: list[str], **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def linear(self, name: str, source: str, x: str) -> str:
        weight = self.constant(f"{source}.weight", self.weights[f"{source}.weight"].T)
        bias = self.constant(f"{source}.bias", self.weights[f"{source}.bias"])
        return self.node("Add", f"{name}_bias", [self.node("MatMul", name, [x, weight]), bias])

    def norm(self, name: str, source: str, x: str) -> str:
        gain = self.constant(f"{source}.weight", self.weights[f"{source}.weight"])
        bias = self.constant(f"{source}.bias", self.weights[f"{source}.bias"])
        return self.node("LayerNormalization", name, [x, gain, bias], axis=-1, epsilon=EPSILON)

    def heads(self, name: str, x: str, order: list[int]) -> str:
        shape = self.constant("heads_shape", np.array([0, N_TOKENS, HEADS, WIDTH // HEADS]))
        x = self.node("Reshape", f"{name}_heads", [x, shape])
        return self.node("Transpose", f"{name}_order", [x], perm=order)

    def gelu(self, name: str, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt(2))); opset 17 has no Gelu of its own."""
        root = self.constant("sqrt_2", np.float32(math.sqrt(2)))
        one = self.constant("one", np.float32(1))
        half = self.constant("half", np.float32(0.5))
        erf = self.node("Erf", f"{name}_erf", [self.node("Div", f"{name}_div", [x, root])])
        product = self.node("Mul", f"{name}_mul", [x, self.node("Add", f"{name}_add", [erf, one])])
        return self.node("Mul", f"{name}_half", [product, half])

    def layer(self, number: int, x: str) -> str:
        name, source = f"layer{number}", f"layers.{number}"
        y = self.norm(f"{name}_attention_norm", f"{source}.attention_norm", x)
        qkv = self.linear(f"{name}_qkv", f"{source}.qkv", y)
        parts = [f"{name}_query", f"{name}_key", f"{name}_value"]
        self.nodes.append(helper.make_node("Split", [qkv], parts, f"{name}_split", axis=2))
        query = self.heads(f"{name}_query", parts[0], [0, 2, 1, 3])
        key = self.heads(f"{name}_key", parts[1], [0, 2, 3, 1])
        value = self.heads(f"{name}_value", parts[2], [0, 2, 1, 3])
        scores = self.node("MatMul", f"{name}_scores", [query, key])
        root = self.constant("sqrt_head_width", np.float32(math.sqrt(WIDTH // HEADS)))
        scores = self.node("Div", f"{name}_scale", [scores, root])
        scores = self.node("Softmax", f"{name}_softmax", [scores], axis=-1)
        context = self.node("MatMul", f"{name}_context", [scores, value])
        context = self.node("Transpose", f"{name}_context_order", [context], perm=[0, 2, 1, 3])
        shape = self.constant("tokens_shape", np.array([0, N_TOKENS, WIDTH]))
        context = self.node("Reshape", f"{name}_context_tokens", [context, shape])
        y = self.linear(f"{name}_output", f"{source}.output", context)
        x = self.node("Add", f"{name}_attention_shortcut", [x, y])
        y = self.norm(f"{name}_perceptron_norm", f"{source}.perceptron_norm", x)
        y = self.gelu(f"{name}_gelu", self.linear(f"{name}_expand", f"{source}.expand", y))
        y = self.linear(f"{name}_shrink", f"{source}.shrink", y)
        return self.node("Add", f"{name}_perceptron_shortcut", [x, y])


def build_onnx(model: DigitsTransformer) -> onnx.ModelProto:
    """The model as ONNX, opset 17, with a symbolic batch."""
    graph = GraphWriter(model)
    rows = graph.constant("rows_shape", np.array([-1, N_TOKENS, 8]))
    x = graph.node("Reshape", "rows", ["image", rows])
    x = graph.node("MatMul", "embed", [x, graph.constant("embed.weight", graph.weights["embed.weight"].T)])
    x = graph.node("Add", "position", [x, graph.constant("position", graph.weights["position"])])
    for number in range(N_LAYERS):
        x = graph.layer(number, x)
    x = graph.norm("norm", "norm", x)
    x = graph.node("ReduceMean", "pool", [x], axes=[1], keepdims=0)
    weight = graph.constant("classifier.weight", graph.weights["classifier.weight"])
    bias = graph.constant("classifier.bias", graph.weights["classifier.bias"])
    graph.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["logits"], "classifier", transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    weights = list(graph.initializers.values())
    proto = helper.make_graph(graph.nodes, "digits_transformer", [image], [logits], weights)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(proto, opset_imports=opset, ir_version=8, producer_name="disttune")


def main() -> None:
    """Train, export, and print the accuracy of the exported model."""
    train_images, train_labels, images, labels = split_digits()
    model = train(train_images, train_labels)
    add_outlier_channels(model, train_images[:256])
    proto = build_onnx(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, FOLDER / "model.onnx")
    np.savez_compressed(FOLDER / "calibration.npz", image=train_images[:N_CALIBRATION])
    np.savez_compressed(FOLDER / "evaluation.npz", image=images, labels=labels)
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    with torch.no_grad():
        difference = np.abs(logits - model(torch.from_numpy(images)).numpy()).max()
    n_right = int((logits.argmax(axis=1) == labels).sum())
    print(f"{n_right} of {len(labels)} held-out images right: {n_right / len(labels):.4f}")
    print(f"largest difference of a logit from torch: {difference:.1e}")


if __name__ == "__main__":
    main()
