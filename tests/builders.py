"""Small models in one line, for tests of the space, strategies and scheduler."""

from disttune.space.summary import ModelSummary, OpSummary, WeightSummary

WITH_WEIGHT = ("Conv", "MatMul", "Gemm", "ConvTranspose", "LSTM", "GRU", "Attention")


def op(
    op_type: str,
    name: str | None = None,
    inputs: tuple[str, ...] = (),
    channels: int | None = None,
    sources: tuple[str, ...] = (),
    has_float_data: bool = True,
) -> OpSummary:
    """One op; `channels` of its weight: default 8 where the type usually has a weight, 0: no weight."""
    name = name or op_type
    if channels is None:
        channels = 8 if op_type in WITH_WEIGHT else 0
    weight = WeightSummary(f"{name}.weight", 1, (channels, 4), channels, 16 * channels) if channels else None
    return OpSummary(
        name, op_type, inputs, (f"{name}.out",), weight, sources=sources, has_float_data=has_float_data
    )


def model(*ops: OpSummary) -> ModelSummary:
    """A model with these ops; its input is "x", its output the last op's."""
    outputs = ops[-1].outputs if ops else ()
    n_weights = sum(o.weight.size_bytes for o in ops if o.weight)
    return ModelSummary(ops, ("x",), outputs, opset=21, size_bytes=n_weights, n_parameters=n_weights // 4)


def chain(*op_types: str) -> ModelSummary:
    """Ops one after another, named by type and position: `chain("Conv", "Relu")` has Conv_0, Relu_1."""
    ops: list[OpSummary] = []
    for position, op_type in enumerate(op_types):
        inputs = ops[-1].outputs if ops else ("x",)
        ops.append(op(op_type, f"{op_type}_{position}", inputs))
    return model(*ops)
