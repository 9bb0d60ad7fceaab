"""Cross-layer equalization: channels of neighbouring layers get weights of equal size, so one scale fits all.

For a link from W1 to W2 (see `layer_links`) with r1, r2 the largest weights of a channel on both sides:
1. S = sqrt(r1 / r2), W1 and its bias / S, W2 * S: both are then sqrt(r1 r2). S = 1 where one of them is 0.
2. Two links through a depth-wise op are solved together: all three largest weights become (r1 r2 r3)^(1/3).
3. The links are gone through until no S differs from 1 by more than 0.1 %, 40 times at most; in all, no
   channel is changed by more than 64 (weights that small come with biases and activations that are not).
4. A Clip on the way: a Relu where its lower bound is 0 and no calibration sample reached its upper one;
   otherwise its bounds become one for each channel, as Max and Min.
5. With `cross_layer_equalization_absorb_bias`, what all calibration samples have in common goes from the
   bias of W1 to that of W2, where W2 has no padding and nothing but Relu and poolings that keep a shift are
   between: c = max(0, least value before Relu) for each channel; without Relu the middle of least and
   largest value.
6. With `cross_layer_equalization_gate`, links are left out for which `link_noise` predicts more noise by it:
   equal weights may come with unequal activations. What is left is equalized anew, until none is left out.

Source: Nagel et al. 2019 (arXiv:1906.04721), sections 4.1 and 4.2, appendix A. There one goes through all
layers once, only Conv takes part, c comes from BatchNorm's parameters and is 3 deviations below the mean
(here it is exact on the samples), and every ReLU6 becomes a ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from disttune.config.recipes import RecipeValue
from disttune.quantize.editing import GraphEditor
from disttune.quantize.linear import Floats
from disttune.quantize.passes.graph_pass import PassResult, register_pass
from disttune.quantize.passes.layer_links import Link, bounds, find_links
from disttune.quantize.passes.link_noise import link_noise, noise_tensors
from disttune.quantize.statistics.channels import ChannelStatistics

ABSORB_BIAS = "cross_layer_equalization_absorb_bias"
GATE = "cross_layer_equalization_gate"
FOR_ONE_SCALE = "cross_layer_equalization_per_tensor"  # not a user's: weights have one scale each
_MAX_SWEEPS = 40
_CONVERGED = 1e-3  # of |log S|
_LARGEST = 64.0
# What gives f(x - c) = f(x) - c for each channel.
_SHIFTED = ("Flatten", "Identity", "MaxPool", "GlobalMaxPool", "GlobalAveragePool")


@register_pass("cross_layer_equalization")
class CrossLayerEqualization:
    """See the module."""

    def channel_tensors(self, model: ModelProto, recipes: Mapping[str, RecipeValue]) -> Mapping[str, int]:
        """What Clips read, what Relus read where a bias may be absorbed, and what rule 6 looks at."""
        links, _ = find_links(GraphEditor(model))
        absorbs = recipes.get(ABSORB_BIAS) is True
        tensors: dict[str, int] = {}
        for link in links:
            for clip in link.clips:
                tensors[clip.input[0]] = 1 if link.is_image_at(clip) else -1
            if absorbs and _may_absorb(link):
                tensors[link.first.output] = 1 if link.first.is_image else -1
            if recipes.get(GATE) is True:
                tensors |= noise_tensors(link)
        return tensors

    def apply(
        self,
        model: ModelProto,
        recipes: Mapping[str, RecipeValue],
        channels: Mapping[str, ChannelStatistics],
    ) -> PassResult:
        """See `GraphPass.apply`."""
        editor = GraphEditor(model)
        links, skipped = find_links(editor)
        if recipes.get(GATE) is True:
            worse = _worse(model, channels, per_tensor=recipes.get(FOR_ONE_SCALE) is True)
            links = [link for link in links if link.name not in worse]
            skipped |= worse
        if not links:
            return PassResult(model, (), skipped)
        factors = equalize(links)
        changed = []
        for link, factor in zip(links, factors, strict=True):
            text = f"{link.name}: equalized, scales {factor.min():.3g} to {factor.max():.3g}"
            for clip in link.clips:
                text += f"; {clip.name} {_replace_clip(editor, link, clip, factor, channels[clip.input[0]])}"
            if recipes.get(ABSORB_BIAS) is True and _may_absorb(link):
                n_absorbed = _absorb(link, channels[link.first.output], factor)
                text += f"; bias of {n_absorbed} of {factor.size} channels absorbed"
            changed.append(text)
        for linear in {id(x): x for link in links for x in (link.first, *link.seconds)}.values():
            linear.store()
        return PassResult(editor.finish(), tuple(changed), skipped)


def _worse(
    model: ModelProto, channels: Mapping[str, ChannelStatistics], *, per_tensor: bool
) -> dict[str, str]:
    """Rule 6: links that are left out, with the reason."""
    left_out: dict[str, str] = {}
    while True:
        links, tried = (
            [link for link in find_links(GraphEditor(model))[0] if link.name not in left_out] for _ in "ab"
        )
        if not links:
            return left_out
        new = {}
        for link, factor in zip(links, equalize(tried), strict=True):
            before, after = (
                link_noise(link, each, channels, per_tensor=per_tensor)
                for each in (np.ones_like(factor), factor)
            )
            if after > before:
                loss = 10 * np.log10(after / before) if before > 0 else np.inf
                new[link.name] = f"its outputs would lose {loss:.1f} dB"
        if not new:
            return left_out
        left_out |= new


def equalize(links: Sequence[Link]) -> list[Floats]:
    """Scale all links until their weights are equal; gives the factor of each channel of each link."""
    steps = [_Step(group) for group in _groups(links)]
    for _ in range(_MAX_SWEEPS):
        if max(step.take() for step in steps) < _CONVERGED:
            break
    found = {
        id(link): factor for step in steps for link, factor in zip(step.links, step.factors, strict=True)
    }
    return [found[id(link)] for link in links]


def _groups(links: Sequence[Link]) -> list[tuple[Link, ...]]:
    """Pairs, and triples around a depth-wise op, in graph order."""
    starting = {id(link.first): link for link in links}
    groups: list[tuple[Link, ...]] = []
    taken: set[int] = set()
    for link in links:
        if id(link) in taken:
            continue
        second = link.seconds[0]
        behind = starting.get(id(second))
        if len(link.seconds) == 1 and second.is_depthwise and behind is not None and id(behind) not in taken:
            groups.append((link, behind))
            taken.add(id(behind))
        else:
            groups.append((link,))
        taken.add(id(link))
    return groups


@dataclass(eq=False)
class _Step:
    """Rule 1 for one link, rule 2 for two."""

    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        self.factors = [np.ones(link.first.n_outputs) for link in self.links]

    def take(self) -> float:
        """Equalize once; gives the largest |log S|."""
        sizes = [self.links[0].first.output_max(), *(link.second_max() for link in self.links)]
        wanted = np.ones_like(sizes[0])
        alive = np.all([size > 0 for size in sizes], axis=0)
        logs = [np.log(np.where(alive, size, 1.0)) for size in sizes]
        mean = sum(logs, start=np.zeros_like(wanted)) / len(logs)
        largest = 0.0
        rest = np.zeros_like(mean)
        for i, link in enumerate(self.links):
            rest = rest + logs[i] - mean  # what all ops up to here have too much goes over to the next
            before = self.factors[i]
            self.factors[i] = np.clip(before * np.exp(rest), 1 / _LARGEST, _LARGEST)
            step = self.factors[i] / before
            link.scale(step)
            largest = max(largest, float(np.abs(np.log(step)).max(initial=0)))
        return largest


def _replace_clip(
    editor: GraphEditor, link: Link, clip: NodeProto, factor: Floats, statistics: ChannelStatistics
) -> str:
    """Rule 4; says what became of it."""
    found = bounds(editor, clip)
    assert found is not None
    low, high = found
    tensor = clip.input[0]
    if low == 0 and (statistics.maximum <= high).all():
        editor.retype(clip, "Relu", [tensor])
        return f"became Relu (at most {statistics.maximum.max():.3g} on the samples)"
    shape = (factor.size, *[1] * (len(editor.shape(link.first.node.input[1])) - 2))
    divisor = factor.reshape(shape) if link.is_image_at(clip) else np.repeat(factor, link.repeat)
    steps = [(kind, limit) for kind, limit in (("Max", low), ("Min", high)) if np.isfinite(limit)]
    for i, (kind, limit) in enumerate(steps):
        name = f"{clip.name}_{kind.lower()}"
        bound = editor.add_constant(f"{name}_bound", (limit / divisor).astype(np.float32))
        if i == len(steps) - 1:  # the last one is the Clip: ops keep their names
            editor.retype(clip, kind, [tensor, bound])
        else:
            tensor = editor.add(kind, [tensor, bound], editor.new_name(f"{name}_out"), name).output[0]
    return "got bounds of its own for each channel"


def _may_absorb(link: Link) -> bool:
    """Rule 5."""
    types = [node.op_type for node in link.between if node.op_type not in _SHIFTED]
    return types in ([], ["Relu"]) and not any(second.pads for second in link.seconds)


def _absorb(link: Link, statistics: ChannelStatistics, factor: Floats) -> int:
    """Rule 5; gives the number of channels that had something to absorb."""
    if any(node.op_type == "Relu" for node in link.between):
        common = np.maximum(statistics.minimum, 0) / factor
    else:
        common = (statistics.minimum + statistics.maximum) / 2 / factor
    common = np.where(np.isfinite(common), common, 0.0)
    if not common.any():
        return 0
    link.first.shift_outputs(-common)
    for second in link.seconds:
        second.shift_outputs(second.of_constant(np.repeat(common, link.repeat)))
    return int(np.count_nonzero(common))
