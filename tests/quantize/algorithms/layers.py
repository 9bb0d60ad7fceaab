"""Layers to quantize, drawn from a seed, with the inputs that their Gram matrices were made of."""

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import Floats, LayerInputs, LayerProblem


def correlated(n_rows: int, n_inputs: int, seed: int = 0) -> Floats:
    """Inputs that a few directions explain, shape (n_rows, n_inputs), as those of real layers."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_inputs, n_inputs)) * np.geomspace(3, 0.05, n_inputs)[:, None]
    return np.asarray(rng.normal(size=(n_rows, n_inputs)) @ mixing)


def inputs_of(x: Floats, xq: Floats | None = None) -> LayerInputs:
    """What calibration finds of inputs (T, K) or (n_parts, T, K); `xq`: those of the quantized model."""
    x = x if x.ndim == 3 else x[None]
    own = x if xq is None else (xq if xq.ndim == 3 else xq[None])
    return LayerInputs(
        n_rows=x.shape[1],
        gram=own.swapaxes(1, 2) @ own,
        total=own.sum(axis=1),
        absolute=np.abs(own).sum(axis=1),
        cross=None if xq is None else own.swapaxes(1, 2) @ x,
    )


def layer(
    n_inputs: int, n_outputs: int, scheme: Scheme, *, n_parts: int = 1, n_rows: int = 256, seed: int = 0
) -> LayerProblem:
    """A layer with a normal weight (float32 numbers) and correlated inputs."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_parts, n_inputs, n_outputs)).astype(np.float32).astype(np.float64)
    x = np.stack([correlated(n_rows, n_inputs, seed + i) for i in range(n_parts)])
    return LayerProblem("fc", weight, scheme, inputs_of(x))


def int4(method: str, *, symmetric: bool = False, group_size: int | None = None, **options: object) -> Scheme:
    """A 4-bit scheme per channel, or in groups."""
    granularity = "per_group" if group_size else "per_channel"
    pairs = tuple(sorted(options.items()))
    dtype = "int4" if symmetric else "uint4"
    return Scheme(dtype, symmetric, granularity, group_size, method, options=pairs)  # type: ignore[arg-type]
