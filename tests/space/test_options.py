import pytest

from disttune.config.schemes import OpConfig, Scheme
from disttune.space.capability import CapabilityRow, TensorOptions, load_capability
from disttune.space.options import op_options
from disttune.space.summary import WeightSummary

METHODS = frozenset({"minmax", "percentile", "entropy", "mse"})
WEIGHT = WeightSummary("w", 1, (8, 4), n_channels=8, size_bytes=128)
ONE_CHANNEL = WeightSummary("w", 1, (1, 4), n_channels=1, size_bytes=16)


def ort_cpu(op_type: str, approach: str = "static", placement: str = "speed") -> list[CapabilityRow]:
    rows = load_capability("ort-cpu").select((approach,), placement, METHODS)
    return [row for row in rows if op_type in row.op_types]


def static(weight: str | None, activation: tuple[str, float | None], dtype: str = "uint8") -> OpConfig:
    weight_scheme = Scheme("int8", True, weight) if weight else None
    method, parameter = activation
    return OpConfig("static", weight_scheme, Scheme(dtype, False, method=method, parameter=parameter))


MINMAX, PERCENTILE, ENTROPY, MSE = ("minmax", None), ("percentile", 99.999), ("entropy", None), ("mse", None)


@pytest.mark.parametrize("op_type", ["Conv", "MatMul", "Gemm"])
def test_options_of_an_op_with_a_weight_come_in_the_documented_order(op_type: str):
    assert op_options(ort_cpu(op_type), WEIGHT) == (
        static("per_channel", MINMAX), static("per_tensor", MINMAX),
        static("per_channel", PERCENTILE), static("per_tensor", PERCENTILE),
        static("per_channel", ENTROPY), static("per_tensor", ENTROPY),
        static("per_channel", MSE), static("per_tensor", MSE),
    )  # fmt: skip


def test_sixteen_bit_activations_come_last_and_only_where_every_op_is_quantized():
    all_options = op_options(ort_cpu("Conv", placement="all"), WEIGHT)
    assert all_options[:8] == op_options(ort_cpu("Conv"), WEIGHT)
    assert all_options[8:] == (
        static("per_channel", MINMAX, "uint16"),
        static("per_tensor", MINMAX, "uint16"),
    )


def test_an_op_without_a_constant_weight_has_no_weight_scheme():
    methods = (MINMAX, PERCENTILE, ENTROPY, MSE)
    assert op_options(ort_cpu("MatMul"), None) == tuple(static(None, m) for m in methods)


def test_one_channel_makes_per_channel_and_per_tensor_one_option():
    methods = (MINMAX, PERCENTILE, ENTROPY, MSE)
    assert op_options(ort_cpu("Conv"), ONE_CHANNEL) == tuple(static("per_tensor", m) for m in methods)


def test_dynamic_options_are_the_same_whatever_the_method_of_the_activations():
    weight, methods = TensorOptions(("int8",), (True,)), ("entropy", "percentile:99.9", "minmax")
    row = CapabilityRow(("Gemm",), "dynamic", "speed", TensorOptions(("uint8",), (False,), methods), weight)
    assert op_options([row], WEIGHT) == (OpConfig("dynamic", Scheme("int8", True), Scheme("uint8", False)),)


@pytest.mark.parametrize("op_type", ["Conv", "MatMul", "Gemm", "LSTM", "Attention"])
def test_dynamic_needs_a_constant_weight(op_type: str):
    assert op_options(ort_cpu(op_type, "dynamic"), WEIGHT)
    assert op_options(ort_cpu(op_type, "dynamic"), None) == ()


def test_attributes_vary_in_the_documented_priority_the_last_fastest():
    activation = TensorOptions(("uint8", "int8"), (False, True), ("minmax", "entropy"), ("per_tensor",))
    weight = TensorOptions(("int8", "uint8"), (True,), ("minmax", "mse"), ("per_channel", "per_tensor"))
    row = CapabilityRow(("Conv",), "static", "speed", activation, weight)
    options = op_options([row], WEIGHT)
    places = [
        (
            activation.dtype.index(o.activation.dtype), activation.symmetric.index(o.activation.symmetric),
            activation.method.index(o.activation.method), weight.dtype.index(o.weight.dtype),
            weight.method.index(o.weight.method), weight.granularity.index(o.weight.granularity),
        )
        for o in options
        if o.activation and o.weight
    ]  # fmt: skip
    assert places == sorted(places)
    assert len(set(places)) == len(options) == 2**6


def test_the_group_size_counts_for_per_group_only():
    weight = TensorOptions(("int4",), (True,), granularity=("per_group", "per_tensor"), group_size=(32, 16))
    row = CapabilityRow(("MatMul",), "static", "all", TensorOptions(("uint8",), (False,)), weight)
    schemes = [option.weight for option in op_options([row], WEIGHT)]
    assert schemes == [
        Scheme("int4", True, "per_group", 32), Scheme("int4", True, "per_group", 16), Scheme("int4", True),
    ]  # fmt: skip
