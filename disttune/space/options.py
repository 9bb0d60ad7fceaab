"""An op's options: the product of a row's attributes, without parts that change nothing.

Pure. Order of the product: activation dtype, symmetric, method, granularity, then the same of the
weight; the last varies fastest. Parts that change nothing get one canonical value:
1. the weight's scheme of an op without a constant weight: None;
2. "per_channel" of a weight with one channel: "per_tensor";
3. the method of activations quantized at run time (approach "dynamic"): "minmax";
4. the group size of anything but "per_group": None.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import cast

from disttune.config.schemes import Approach, OpConfig, Scheme, parse_scheme_method
from disttune.space.capability import CapabilityRow, TensorOptions
from disttune.space.summary import WeightSummary


def op_options(rows: Iterable[CapabilityRow], weight: WeightSummary | None) -> tuple[OpConfig, ...]:
    """Distinct ways to quantize one op, the default first.

    Args:
        rows: those of its op type, in order of preference.
        weight: its constant weight, or None.
    """
    configs = (config for row in rows if weight or not row.needs_weight for config in _configs(row, weight))
    return tuple(dict.fromkeys(configs))


def without_inert_parts(config: OpConfig, weight: WeightSummary | None) -> OpConfig:
    """The canonical form of a config that comes from elsewhere than the target's options."""
    activation, scheme = config.activation, config.weight
    if activation is not None and config.approach == "dynamic":
        activation = replace(activation, method="minmax", parameter=None)  # case 3
    if scheme is not None:
        scheme = None if weight is None else _per_tensor_if_one(scheme, weight.n_channels)  # cases 1 and 2
    return replace(config, weight=scheme, activation=activation)


def _configs(row: CapabilityRow, weight: WeightSummary | None) -> Iterator[OpConfig]:
    activations: list[Scheme | None] = [
        replace(s, method="minmax", parameter=None) if row.approach == "dynamic" else s  # case 3
        for s in _schemes(row.activation)
    ] or [None]
    weights: list[Scheme | None] = [None]  # case 1
    if weight is not None and row.weight is not None:
        weights = [_per_tensor_if_one(s, weight.n_channels) for s in _schemes(row.weight)]
    for activation, weight_scheme in product(activations, weights):
        yield OpConfig(cast(Approach, row.approach), weight_scheme, activation)


def _schemes(options: TensorOptions) -> Iterator[Scheme]:
    attributes = (options.dtype, options.symmetric, options.method, options.granularity, options.group_size)
    for dtype, symmetric, method, granularity, group_size in product(*attributes):
        name, parameter, chosen = parse_scheme_method(method)
        size = group_size if granularity == "per_group" else None  # case 4
        yield Scheme(dtype, symmetric, granularity, size, name, parameter, chosen)


def _per_tensor_if_one(scheme: Scheme, n_channels: int) -> Scheme:
    """Case 2."""
    one = n_channels <= 1 and scheme.granularity == "per_channel"
    return replace(scheme, granularity="per_tensor") if one else scheme
