"""Sums of 8-bit products as x86 CPUs without VNNI add them: pairs in 16 bits, with saturation."""

import numpy as np


def exact_product(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """data (N, K) uint8 times weight (K, M) int8, in 32 bits."""
    return data.astype(np.int32) @ weight.astype(np.int32)


def saturating_product(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same as VPMADDUBSW and VPMADDWD compute it: two neighbours along K go into one int16."""
    if data.shape[1] % 2:
        data, weight = np.pad(data, ((0, 0), (0, 1))), np.pad(weight, ((0, 1), (0, 0)))
    products = data.astype(np.int32)[:, :, None] * weight.astype(np.int32)[None]
    pairs = np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1)
    total: np.ndarray = pairs.sum(axis=1)
    return total
