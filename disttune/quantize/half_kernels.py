"""What onnxruntime's providers compute in float16 and bfloat16, by the kernels that they have registered.

An op without a float16 kernel is computed in float32 all the same: onnxruntime puts casts around it. For
bfloat16 it does no such thing, and no session can be made.
"""

from collections.abc import Collection, Iterable
from functools import cache

from onnxruntime.capi import onnxruntime_pybind11_state


def lacking_kernels(op_types: Iterable[str], kind: str, providers: Collection[str]) -> list[str]:
    """Those op types that no session over these providers can compute in a half type, sorted.

    Args:
        op_types: of the default domain.
        kind: "float16" or "bfloat16".
        providers: of the session. One that registers no kernels (it compiles graphs) counts as able.
    """
    kernels = half_kernels(kind)
    known = {provider for provider, _ in kernels}
    if kind == "float16" or not known.issuperset(providers):
        return []
    return sorted(t for t in op_types if not any((provider, t) in kernels for provider in providers))


@cache
def half_kernels(kind: str) -> frozenset[tuple[str, str]]:
    """Provider and op type of every kernel of the default domain that takes tensors of a half type."""
    return frozenset(
        (kernel.provider, kernel.op_name)
        for kernel in onnxruntime_pybind11_state.get_all_opkernel_def()
        if kernel.domain in ("", "ai.onnx")
        and any(f"tensor({kind})" in types for types in kernel.type_constraints.values())
    )
