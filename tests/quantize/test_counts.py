import pytest

from disttune.config.schemes import OpConfig, Scheme
from disttune.quantize.counts import count_quantized
from tests.models import attention, depthwise_cnn, feeds, mlp, recurrent, tiny_cnn
from tests.quantize.engines import Tried, dynamic, static

UINT8 = Scheme("uint8", symmetric=False)


def count(make, configs, **recipes: bool) -> int:
    return count_quantized(Tried(make(), feeds(make(), N=1)).build(configs, **recipes))


def test_a_float_model_has_none():
    assert [count(make, {}) for make in (tiny_cnn, attention, recurrent)] == [0, 0, 0]


@pytest.mark.parametrize("recipes", [{}, {"add_qdq_pair_to_weight": True}, {"dedicated_qdq_pair": True}])
def test_static_ops_count_by_their_weight(recipes):
    assert count(tiny_cnn, {"conv2": static(), "fc": static()}, **recipes) == 2


def test_dynamic_ops_count_as_integer_operators():
    assert count(mlp, {"fc1": dynamic(), "fc2": dynamic()}) == 2
    assert count(recurrent, {"lstm": dynamic()}) == 1


def test_a_product_of_two_activations_counts():
    assert count(attention, {"scores": OpConfig("static", None, UINT8)}) == 1


def test_ops_without_a_weight_count_when_they_read_and_write_codes():
    bare = OpConfig("static", None, UINT8)
    assert (
        count(tiny_cnn, {"conv1": static(), "relu1": bare, "pool": bare, "conv2": static()}) == 3
    )  # no Relu left


def test_a_float_op_between_quantized_ones_is_computed_on_codes_and_counts():
    assert count(depthwise_cnn, {"stem": static(), "pointwise": static()}) == 2
    assert (
        count(attention, {"scores": OpConfig("static", None, UINT8), "mix": OpConfig("static", None, UINT8)})
        == 3
    )


def test_a_gather_of_codes_counts():
    assert count(recurrent, {"table": dynamic("uint8")}) == 1
    assert count(recurrent, {"table": static("uint8", per_channel=False)}) == 1
