"""Lists of options in words, for `disttune space`."""

from collections.abc import Mapping, Sequence

from disttune.config.schemes import OpConfig, Scheme


def in_words(options: Sequence[OpConfig]) -> str:
    """Options grouped by approach, dtypes and symmetry, with the values that vary in brackets."""
    groups: dict[tuple[object, ...], list[OpConfig]] = {}
    for config in options:
        kinds = [(s.dtype, s.symmetric) if s else None for s in (config.activation, config.weight)]
        groups.setdefault((config.approach, *kinds), []).append(config)
    texts = []
    for configs in groups.values():
        activation = _schemes_in_words("activation", [c.activation for c in configs if c.activation])
        weight = _schemes_in_words("weight", [c.weight for c in configs if c.weight])
        texts.append(f"{configs[0].approach}: {', '.join(filter(None, (activation, weight)))}")
    return "; ".join(texts)


def _schemes_in_words(tensor: str, schemes: Sequence[Scheme]) -> str:
    if not schemes:
        return ""
    first = schemes[0]
    granularities = dict.fromkeys(_granularity(s) for s in schemes)
    methods = dict.fromkeys(
        s.method if s.parameter is None else f"{s.method} {s.parameter:g}" for s in schemes
    )
    symmetry = "symmetric" if first.symmetric else "asymmetric"
    return f"{tensor} {first.dtype} {symmetry} {_alternatives(granularities)} {_alternatives(methods)}"


def _granularity(scheme: Scheme) -> str:
    return f"group of {scheme.group_size}" if scheme.group_size else scheme.granularity.replace("_", " ")


def _alternatives(values: Mapping[str, None]) -> str:
    return "".join(values) if len(values) == 1 else f"[{', '.join(values)}]"
