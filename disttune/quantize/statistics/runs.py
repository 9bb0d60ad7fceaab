"""Running a float model for the values of its tensors, segment by segment, through onnxruntime.

Graph optimization is off: the values are those of the nodes as they stand, as in onnxruntime's own
calibration, and the same however the model is cut. Weights are packed, as in any session. All sessions read
the large ones from the same memory, and a model of more than 2 GB needs no file.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from disttune.config.errors import ModelError
from disttune.quantize.devices import with_devices
from disttune.quantize.freed_memory import give_back_freed
from disttune.quantize.preprocess import first_line
from disttune.quantize.session_values import give_to_session
from disttune.quantize.statistics.segments import Segment, cut
from disttune.quantize.statistics.shapes import element_types, tensor_bytes
from disttune.quantize.tensor_memory import n_value_bytes, tensor_values, whole_tensor

_SHARED_BYTES = 1024  # initializers from this size on are given to sessions as memory
_CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3

Array = NDArray[Any]
Feed = Mapping[str, Array]


class Runs:
    """A model that is run for some of its tensors.

    Args:
        model: with its data in memory; it is kept and must not change any more.
        wanted: names of tensors that nodes of the graph make.
        n_threads: of a run; 0 leaves it to onnxruntime.
        providers: of onnxruntime.
        memory_bytes: for the outputs of one run of a session, and what is kept for later ones.
    """

    def __init__(
        self,
        model: ModelProto,
        wanted: Collection[str],
        *,
        n_threads: int,
        providers: Sequence[str],
        memory_bytes: int,
    ):
        self._model = model
        self._wanted = frozenset(wanted)
        self._memory_bytes = memory_bytes
        self._types = element_types(model)
        self._sessions = _Sessions(model, self._types, n_threads, providers)
        self._cuts: list[int] | None = None
        self._resident_bytes = 0
        self._steps: list[tuple[Segment, onnxruntime.InferenceSession]] = []
        self._fits_bytes = -1  # of a feed

    def make_fit(self, feed: Feed) -> None:
        """Cut the model so that this feed, and every smaller one, keeps to the memory.

        Raises:
            ModelError: onnxruntime cannot load a segment.
        """
        if feed_bytes(feed) <= self._fits_bytes:
            return
        sizes = tensor_bytes(self._model, feed)
        segments = cut(self._model.graph, self._wanted, self._types, sizes, self._memory_bytes)
        cuts = [len(segment.nodes) for segment in segments]
        if cuts != self._cuts:
            self._cuts, self._fits_bytes = None, -1
            self._steps = []  # frees the memory of the sessions
            self._steps = [(segment, self._sessions.open(segment, len(cuts) == 1)) for segment in segments]
            self._resident_bytes = _resident_bytes()
        self._cuts, self._fits_bytes = cuts, feed_bytes(feed)

    def give_back_memory(self) -> None:
        """Give memory of arrays that are gone back to the system, where the process has grown too much.

        Several sessions have no arena (each would keep its own for ever), and glibc keeps what lies between
        the arrays that they make: 1.4 GB for 350 MB in use (MiniLM, feeds of 32 sentences). Done each time,
        it would cost more than it takes to run the model.
        """
        grown = _resident_bytes() - self._resident_bytes
        if len(self._steps) > 1 and grown > self._memory_bytes // 2:
            give_back_freed()

    def run(self, feed: Feed) -> Iterator[list[tuple[str, Array]]]:
        """Run a feed that fits; yields the wanted tensors of each segment, in topological order."""
        kept: dict[str, Array] = {}
        for segment, session in self._steps:
            inputs = {name: kept[name] if name in kept else feed[name] for name in segment.inputs}
            made = dict(zip(segment.outputs, session.run(list(segment.outputs), inputs), strict=True))
            del inputs
            kept = {name: array for name, array in (kept | made).items() if name in segment.kept}
            yield [(name, made.pop(name)) for name in segment.outputs if name in self._wanted]


def feed_bytes(feed: Feed) -> int:
    return sum(array.nbytes for array in feed.values())


def n_rows(feed: Feed) -> int | None:
    """Size of the first dimension when all inputs of a feed agree in it, else None."""
    sizes = {array.shape[0] if array.ndim else None for array in feed.values()}
    return sizes.pop() if len(sizes) == 1 else None


def _resident_bytes() -> int:
    import psutil  # a search that calibrates nothing does without

    rss: int = psutil.Process().memory_info().rss
    return rss


class _Sessions:
    """Opens sessions over segments of one model."""

    def __init__(self, model: ModelProto, types: Mapping[str, int], n_threads: int, providers: Sequence[str]):
        self._model = model
        self._types = types
        self._n_threads = n_threads
        self._providers = list(providers)
        self._inputs: dict[str, ValueInfoProto] = {value.name: value for value in model.graph.input}
        self._weights: dict[str, onnxruntime.OrtValue] = {}

    def open(self, segment: Segment, in_arena: bool) -> onnxruntime.InferenceSession:
        """A session that takes a segment's inputs and gives its outputs."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = in_arena
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = self._n_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        shared: list[str] = []
        model = self._segment_model(segment, shared)
        values = {name: self._weights[name] for name in shared}
        give_to_session(values, options, self._providers == [_CPU])
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=with_devices(self._providers), enable_fallback=0
            )
        except Exception as error:
            raise ModelError(
                f"onnxruntime cannot load the model for calibration: {first_line(error)}"
            ) from error

    def _segment_model(self, segment: Segment, shared: list[str]) -> ModelProto:
        """A segment as a model; appends to `shared` the initializers that it has no data of."""
        source = self._model
        model = ModelProto(ir_version=source.ir_version)
        model.opset_import.extend(source.opset_import)
        model.functions.extend(source.functions)
        model.graph.name = source.graph.name
        model.graph.node.extend(segment.nodes)
        model.graph.input.extend(self._input(name) for name in segment.inputs)
        model.graph.output.extend(ValueInfoProto(name=name) for name in segment.outputs)
        for tensor in source.graph.sparse_initializer:
            if tensor.values.name in segment.constants:
                model.graph.sparse_initializer.append(tensor)
        for tensor in source.graph.initializer:
            if tensor.name not in segment.constants:
                continue
            if tensor.data_type != TensorProto.FLOAT or n_value_bytes(tensor) < _SHARED_BYTES:
                model.graph.initializer.append(whole_tensor(tensor))
            else:
                model.graph.initializer.append(self._shared(tensor))
                shared.append(tensor.name)
        return model

    def _input(self, name: str) -> ValueInfoProto:
        if name in self._inputs:
            return self._inputs[name]
        value = ValueInfoProto(name=name)
        value.type.tensor_type.elem_type = self._types[name]
        return value

    def _shared(self, tensor: TensorProto) -> TensorProto:
        """A tensor without data, which a session is to be given."""
        if tensor.name not in self._weights:
            array = tensor_values(tensor)
            self._weights[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        reference = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        reference.data_location = TensorProto.EXTERNAL
        reference.external_data.add(key="location", value="given")  # onnxruntime wants a name
        return reference
