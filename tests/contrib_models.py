"""Small language models of onnxruntime's own ops (com.microsoft), as exporters and optimizers write them."""

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.models import Graph, value

WORDS, WIDTH, HEADS, INNER = 24, 64, 4, 48
HEAD = WIDTH // HEADS
_MS = "com.microsoft"


def decoder() -> ModelProto:
    """Two blocks with GroupQueryAttention, a cache and rotary positions; the first MLP has a FusedMatMul.

    ids (N, T), seqlens_k (N,) = positions before the last, total = all of them, past_*.key and .value
    (N, 2, P, 16) to logits (N, T, 24) and present_*.
    """
    g = Graph(2)
    h = g.node("Gather", g.weight("words", WORDS, WIDTH), "ids", name="embed")
    caches, presents = [], []
    cosine, sine = (g.constant(n, f(_angles())) for n, f in (("cos", np.cos), ("sin", np.sin)))
    for i in range(2):
        gain = g.constant(f"gain{i}", np.ones(WIDTH, np.float32))
        x = g.node("SimplifiedLayerNormalization", h, gain, name=f"norm{i}", axis=-1, epsilon=1e-5)
        q = g.node("MatMul", x, g.weight(f"wq{i}", WIDTH, WIDTH), name=f"q{i}")
        k, v = (g.node("MatMul", x, g.weight(f"w{p}{i}", WIDTH, 2 * HEAD), name=f"{p}{i}") for p in "kv")
        past = [f"past_{i}.{p}" for p in ("key", "value")]
        present = [f"present_{i}.{p}" for p in ("key", "value")]
        inputs = [q, k, v, *past, "seqlens_k", "total", cosine, sine]
        options = {"num_heads": HEADS, "kv_num_heads": 2, "do_rotary": 1}
        g.nodes.append(
            helper.make_node(
                "GroupQueryAttention", inputs, [f"mixed{i}", *present], f"gqa{i}", domain=_MS, **options
            )
        )
        o = g.node("MatMul", f"mixed{i}", g.weight(f"wo{i}", WIDTH, WIDTH), name=f"o{i}")
        outputs = [f"normed{i}", "", "", f"sum{i}"]
        gain = g.constant(f"post{i}", np.ones(WIDTH, np.float32))
        norm = "SkipSimplifiedLayerNormalization"
        g.nodes.append(helper.make_node(norm, [o, h, gain], outputs, f"skip{i}", domain=_MS, epsilon=1e-5))
        up = g.weight(f"up{i}", INNER, WIDTH) if i == 0 else g.weight(f"up{i}", WIDTH, INNER)
        if i == 0:
            u = g.node("FusedMatMul", f"normed{i}", up, name=f"up{i}", domain=_MS, transB=1)
        else:
            u = g.node("MatMul", f"normed{i}", up, name=f"up{i}")
        u = g.node("QuickGelu", u, name=f"act{i}", domain=_MS)
        d = g.node("MatMul", u, g.weight(f"down{i}", INNER, WIDTH), name=f"down{i}")
        h = g.node("Add", f"sum{i}", d, name=f"add{i}")
        caches += [value(name, ["N", 2, "P", HEAD]) for name in past]
        presents += [value(name, ["N", 2, "S", HEAD]) for name in present]
    g.node("MatMul", h, g.weight("head", WIDTH, WORDS), name="head", output="logits")
    inputs = [
        value("ids", ["N", "T"], TensorProto.INT64),
        value("seqlens_k", ["N"], TensorProto.INT32),
        value("total", [], TensorProto.INT32),
        *caches,
    ]
    return _model(g, inputs, [value("logits", ["N", "T", WORDS]), *presents])


def decoder_feeds(n: int = 4, length: int = 6, past: int = 3) -> list[dict[str, np.ndarray]]:
    """Feeds for `decoder` of different lengths, the first with an empty cache."""
    random = np.random.default_rng(0)
    feeds = []
    for i in range(n):
        t, p = (length - i % 2, 0) if i % 2 == 0 else (1, past + i)
        feed = {
            "ids": random.integers(0, WORDS, (1, t)),
            "seqlens_k": np.array([t + p - 1], np.int32),
            "total": np.array(t + p, np.int32),
        }
        for layer in range(2):
            for part in ("key", "value"):
                cache = random.standard_normal((1, 2, p, HEAD)).astype(np.float32)
                feed[f"past_{layer}.{part}"] = cache
        feeds.append(feed)
    return feeds


def encoder() -> ModelProto:
    """Embedding, Attention and normalizations in one op each; ids and mask (N, 7) to y (N, 7, 64)."""
    g = Graph(3)
    ones, zeros = (
        g.constant(name, fill(WIDTH, np.float32)) for name, fill in (("one", np.ones), ("zero", np.zeros))
    )
    tables = [g.weight("words", WORDS, WIDTH), g.weight("places", 16, WIDTH)]
    embed = ["ids", "", *tables, "", ones, zeros, "mask"]
    outputs = ["embedded", "lengths"]
    g.nodes.append(
        helper.make_node("EmbedLayerNormalization", embed, outputs, "embed", domain=_MS, epsilon=1e-6)
    )
    weights = g.weight("qkv", WIDTH, 3 * WIDTH), g.weight("qkv_bias", 3 * WIDTH)
    a = g.node("Attention", "embedded", *weights, "lengths", name="attention", domain=_MS, num_heads=HEADS)
    o = g.node("MatMul", a, g.weight("wo", WIDTH, WIDTH), name="o")
    bias = g.weight("wo_bias", WIDTH)
    h = g.node("SkipLayerNormalization", o, "embedded", ones, zeros, bias, name="skip", domain=_MS)
    u = g.node("MatMul", h, g.weight("up", WIDTH, INNER), name="up")
    u = g.node("BiasGelu", u, g.weight("up_bias", INNER), name="act", domain=_MS)
    g.node("MatMul", u, g.weight("down", INNER, WIDTH), name="down", output="y")
    inputs = [value(name, ["N", 7], TensorProto.INT32) for name in ("ids", "mask")]
    return _model(g, inputs, [value("y", ["N", 7, WIDTH])])


def encoder_feeds(n: int = 4) -> list[dict[str, np.ndarray]]:
    """Feeds for `encoder`."""
    random = np.random.default_rng(0)
    mask = np.ones((2, 7), np.int32)
    mask[1, 5:] = 0
    return [{"ids": random.integers(0, WORDS, (2, 7)).astype(np.int32), "mask": mask} for _ in range(n)]


def _angles() -> np.ndarray:
    steps = 10.0 ** -np.arange(HEAD // 2)
    return (np.arange(64)[:, None] * steps[None]).astype(np.float32)


def _model(g: Graph, inputs: list, outputs: list) -> ModelProto:
    model = g.model(inputs, outputs)
    model.opset_import.append(helper.make_opsetid(_MS, 1))
    return model
