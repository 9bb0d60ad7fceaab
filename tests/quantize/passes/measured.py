"""What passes are handed, measured in the plain way: every tensor of every feed at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper

from disttune.quantize.digest import serialize
from disttune.quantize.passes.graph_pass import PassResult, find_pass
from disttune.quantize.statistics.channels import ChannelStatistics

Feeds = Sequence[Mapping[str, np.ndarray]]


def tensors(model: ModelProto, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Values of tensors of a float model."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in feed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(serialize(exposed), options, providers=["CPUExecutionProvider"])
    made = [value.name for value in exposed.graph.output]
    return dict(feed) | (dict(zip(made, session.run(made, dict(feed)), strict=True)) if made else {})


def channels(model: ModelProto, axes: Mapping[str, int], feeds: Feeds) -> dict[str, ChannelStatistics]:
    if not axes:
        return {}
    values = [tensors(model, list(axes), feed) for feed in feeds]
    return {
        name: ChannelStatistics.merged([ChannelStatistics.of(v[name], axis) for v in values])
        for name, axis in axes.items()
    }


def applied(recipe: str, model: ModelProto, feeds: Feeds = (), **recipes: Any) -> PassResult:
    """The pass, with the statistics it asks for."""
    graph_pass = find_pass(recipe)
    recipes[recipe] = True
    return graph_pass.apply(
        model, recipes, channels(model, graph_pass.channel_tensors(model, recipes), feeds)
    )


def node(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def types(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def constant(model: ModelProto, name: str, position: int = 1) -> np.ndarray:
    """An input of a node that is an initializer."""
    wanted = node(model, name).input[position]
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == wanted)
