"""The engines "reference" and "fast" over one prepared model."""

from collections.abc import Mapping

from onnx import ModelProto

from disttune.config.recipes import RecipeValue
from disttune.config.schemes import OpConfig
from disttune.quantize.engine import EngineSettings
from disttune.quantize.fast import FastEngine
from tests.models import feeds
from tests.quantize.engines import Feeds, Tried
from tests.quantize.random_models import fitted

_PAIR_TYPES = ("QuantizeLinear", "DequantizeLinear")


class Pair(Tried):
    """Builds each candidate with both engines.

    Args:
        inputs: of the calibration; None: a few random ones.
        recipes: of the float graph.
    """

    def __init__(
        self,
        model: ModelProto,
        inputs: Feeds | None = None,
        recipes: Mapping[str, RecipeValue] | None = None,
        **dimensions: int,
    ):
        inputs = feeds(model, 3, **dimensions) if inputs is None else inputs
        super().__init__(model, inputs, recipes=recipes)
        self.fast = FastEngine(self.prepared, self.summary, self.feeds, EngineSettings())

    def both(self, configs: Mapping[str, OpConfig], **recipes: RecipeValue) -> tuple[ModelProto, ModelProto]:
        """The models of the reference engine and of the fast one."""
        return self.build(configs, **recipes), self.build_fast(configs, **recipes)

    def everywhere(self, config: OpConfig, *types: str) -> dict[str, OpConfig]:
        """The same config for every op that computes on floats (and is of these types)."""
        return {
            op.name: fitted(op, config)
            for op in self.summary.ops
            if op.has_float_data and op.op_type != "Greater" and (not types or op.op_type in types)
        }

    def build_fast(self, configs: Mapping[str, OpConfig], **recipes: RecipeValue) -> ModelProto:
        return self.fast.build(self.candidate(configs, **recipes))


def without_unread_pairs(model: ModelProto) -> ModelProto:
    """A copy without Q and DQ nodes that nothing reads, and without constants that nothing reads."""
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes, n_nodes = list(copy.graph.node), -1
    while len(nodes) != n_nodes:
        n_nodes = len(nodes)
        read = {name for node in nodes for name in node.input} | {o.name for o in copy.graph.output}
        nodes = [n for n in nodes if n.op_type not in _PAIR_TYPES or not read.isdisjoint(n.output)]
    tensors = [t for t in copy.graph.initializer if t.name in read]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(tensors)
    return copy
