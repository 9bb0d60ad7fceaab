"""Transformer blocks found by topology alone."""

from disttune.space.blocks import transformer_blocks
from tests.builders import chain, model, op


def names(summary, ops=None):
    ops = ops or [o.name for o in summary.ops]
    return [block.ops for block in transformer_blocks(summary, ops)]


def layer(i, stream, norm="before"):
    """Attention with q, k, v and a mask, then a feed-forward, as exporters write them."""
    q, k, v = (op("MatMul", f"{n}{i}", (stream,)) for n in "qkv")
    scores = op("MatMul", f"scores{i}", (q.outputs[0], k.outputs[0]), channels=0)
    masked = op("Add", f"masked{i}", (scores.outputs[0], "mask.out"))
    softmax = op("Softmax", f"softmax{i}", masked.outputs)
    mixed = op("MatMul", f"mixed{i}", (softmax.outputs[0], v.outputs[0]), channels=0)
    out = op("MatMul", f"out{i}", mixed.outputs)
    added = op("Add", f"added{i}", (out.outputs[0], stream))
    norm1 = op("LayerNormalization", f"norm{i}", added.outputs)
    up = op("MatMul", f"up{i}", norm1.outputs)
    bias = op("Add", f"bias{i}", ("a_constant", up.outputs[0]))
    gelu = op("Gelu", f"gelu{i}", bias.outputs)
    down = op("MatMul", f"down{i}", gelu.outputs)
    skip = added if norm == "before" else norm1
    done = op("Add", f"done{i}", (skip.outputs[0], down.outputs[0]))
    return [q, k, v, scores, masked, softmax, mixed, out, added, norm1, up, bias, gelu, down, done]


def transformer(n_layers, norm="before"):
    ops = [op("Sub", "mask", ("x",)), op("Gather", "embedding", ("x",), channels=8)]
    for i in range(n_layers):
        ops += layer(i, ops[-1].outputs[0], norm)
    return model(*ops, op("Gemm", "head", ops[-1].outputs))


def matmuls(summary):
    return [o.name for o in summary.ops if o.op_type in ("MatMul", "Gemm")]


def test_each_layer_has_an_attention_and_a_feed_forward_block():
    summary = transformer(2)
    assert names(summary, matmuls(summary)) == [
        ("q0", "k0", "v0", "scores0", "mixed0", "out0"),
        ("up0", "down0"),
        ("q1", "k1", "v1", "scores1", "mixed1", "out1"),
        ("up1", "down1"),
    ]


def test_the_place_of_the_normalisation_does_not_matter():
    before, behind = transformer(2), transformer(2, norm="behind")
    assert names(before, matmuls(before)) == names(behind, matmuls(behind))


def test_ops_between_the_matrix_products_belong_to_the_block():
    (_, feed_forward) = names(transformer(1))
    assert feed_forward == ("norm0", "up0", "bias0", "gelu0", "down0")


def test_a_skip_around_whole_layers_is_no_block():
    inner = transformer(1)
    last = inner.ops[-2].outputs[0]
    around = op("Add", "around", ("embedding.out", last))
    summary = model(*inner.ops[:-1], around)
    assert names(summary, matmuls(summary)) == names(inner, matmuls(inner))


def test_a_fused_addition_and_attention_are_found_as_well():
    attention = op("Attention", "attention", ("x",))
    out = op("MatMul", "out", attention.outputs)
    skip = op("SkipLayerNormalization", "skip", ("x", out.outputs[0], "gamma", "beta"))
    assert names(model(attention, out, skip)) == [("attention", "out")]


def test_residual_convolutions_and_chains_have_none():
    first, second = op("Conv", "a", ("x",)), op("Conv", "b", ("a.out",))
    assert names(model(first, second, op("Add", "add", ("x", "b.out")))) == []
    assert names(chain("MatMul", "Relu", "MatMul")) == []


def test_a_block_of_which_one_op_can_be_quantized_is_none():
    assert names(transformer(1), ["q0", "up0", "head"]) == []
