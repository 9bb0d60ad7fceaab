"""`QuantizedModel`: a model in memory that can be run, and opened as a file."""

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnx
import onnxruntime

from disttune.config.errors import ModelError, TrialError
from disttune.config.nearest import unknown_name
from disttune.quantize.builder.writer import Blueprint
from disttune.quantize.devices import with_devices
from disttune.quantize.export import save_model
from disttune.quantize.freed_memory import give_back_freed
from disttune.quantize.session_values import give_to_session, give_without_copies
from disttune.quantize.shared_tensors import SharedTensors
from disttune.quantize.size import LARGE_BYTES, model_bytes
from disttune.quantize.tensor_memory import in_memory, whole_model

_FATAL = 4  # of onnxruntime's log; errors are raised all the same
_CPU = ("CPUExecutionProvider",)
_SESSION_NAMES = frozenset(n for n in dir(onnxruntime.InferenceSession) if not n.startswith("_")) | {"_sess"}
_PROTO_NAMES = frozenset(onnx.ModelProto.DESCRIPTOR.fields_by_name) | {"SerializeToString"}


class QuantizedModel(os.PathLike[str]):
    """What an `eval_fn` gets: use it as an `onnxruntime.InferenceSession`, or as a path of an ONNX file.

    `model.run(None, feeds)`, `model.get_inputs()` and every other method of a session work, and so do
    `onnxruntime.InferenceSession(model)`, `onnx.load(model)` and `open(model, "rb")`. Session and file
    are made when they are first needed. For functions that were written for a ModelProto there are
    `model.SerializeToString()` and its fields (`model.graph`). The session has onnxruntime's default
    options (the exported model will run with them) but for its number of threads, which sleep when there
    is nothing to do.

    Args:
        source: the model, or a blueprint whose large tensors the session then shares with others; it must
            not be changed. Or what gives the model when it is first needed.
        n_threads: threads for one run, > 0.
        providers: execution providers of onnxruntime, in their order. None of them is silently
            replaced by another.
        directory: the file is made in a folder of its own in here; None: in the system's place for
            temporary files.
        shared: what is known of a blueprint's tensors.
        packed: whether onnxruntime keeps a copy of its own of the weights, packed for its kernels. If not, it
            does with as little memory as it can.
    """

    def __init__(
        self,
        source: onnx.ModelProto | Blueprint | Callable[[], onnx.ModelProto],
        n_threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        directory: Path | None = None,
        shared: SharedTensors | None = None,
        packed: bool = True,
    ):
        if isinstance(source, onnx.ModelProto) and any(map(in_memory, source.graph.initializer)):
            source = Blueprint(source, {})
        self._blueprint = source if isinstance(source, Blueprint) else None
        self._proto = source if isinstance(source, onnx.ModelProto) else None
        self._load = None if isinstance(source, onnx.ModelProto | Blueprint) else source
        self._shared = shared or SharedTensors()
        self._n_threads = n_threads
        self._packed = packed
        self._providers = tuple(providers)
        self._directory = directory
        self._session: onnxruntime.InferenceSession | None = None
        self._values: dict[str, Any] = {}  # the session reads them
        self._path: Path | None = None
        self._size_bytes: int | None = None
        self._remove_file: weakref.finalize[..., QuantizedModel] | None = None

    @property
    def proto(self) -> onnx.ModelProto:
        if self._load is not None:
            self._proto, self._load = self._load(), None
        if self._proto is None:
            assert self._blueprint is not None
            self._proto = whole_model(self._blueprint.model())
        return self._proto

    @property
    def size_bytes(self) -> int:
        """Size as a file; of a model larger than 2 GB its tensors alone."""
        if self._size_bytes is None:
            blueprint = self._blueprint
            self._size_bytes = self._shared.size_bytes(blueprint) if blueprint else model_bytes(self.proto)
        return self._size_bytes

    @property
    def path(self) -> Path:
        """The model as a file, written when first asked for; `close` removes it."""
        if self._path is None:
            if self._directory is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
            folder = tempfile.mkdtemp(prefix="model-", dir=self._directory)
            self._remove_file = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.save(Path(folder, "model.onnx"))
            self._path = Path(folder, "model.onnx")
        return self._path

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session behind this model.

        Raises:
            TrialError: onnxruntime refuses the model.
        """
        if self._session is None:
            source = self._session_source()
            try:
                self._session = self._opened(source)
            except Exception as error:
                text = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise TrialError(f"onnxruntime cannot load the model: {text}") from error
            give_back_freed()
        return self._session

    def _opened(self, source: str | bytes) -> onnxruntime.InferenceSession:
        """A session, without copies of what it is given where that is possible."""
        open_session = partial(
            onnxruntime.InferenceSession, source, providers=with_devices(self._providers), enable_fallback=0
        )
        if self._values and self._providers == _CPU:
            options = self._options()
            options.log_severity_level = _FATAL  # where this cannot be done it is done otherwise
            give_without_copies(self._values, options)
            with contextlib.suppress(Exception):
                return open_session(options)
        options = self._options()
        give_to_session(self._values, options)
        return open_session(options)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._n_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self._packed:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they keep more than is used
        return options

    def _session_source(self) -> str | bytes:
        """What a session is made from; tensors in memory are handed over in its options."""
        if self._blueprint is None and self.size_bytes >= LARGE_BYTES:
            return str(self.path)
        if self._blueprint is None:
            return bytes(self.proto.SerializeToString())
        data, self._values = self._shared.session_parts(self._blueprint)
        return data

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Compute outputs (all for None) from {input name: array}."""
        outputs: list[Any] = self.session.run(output_names, input_feed, run_options)
        return outputs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as plain ONNX, with external data beside it when it is larger than 2 GB."""
        blueprint = self._blueprint
        save_model(self.proto if blueprint is None else blueprint.model(), Path(path))

    def close(self) -> None:
        """Remove the file and end the session. Both come back when they are asked for again."""
        self._session, self._values = None, {}
        if self._remove_file is not None:
            self._remove_file()
        self._path = self._remove_file = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __getattr__(self, name: str) -> Any:
        if name in _SESSION_NAMES:
            return getattr(self.session, name)
        if name in _PROTO_NAMES:
            return getattr(self.proto, name)
        raise AttributeError(
            f"'QuantizedModel' (as onnxruntime.InferenceSession or onnx.ModelProto) has no attribute '{name}'"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        graph = self._blueprint.skeleton.graph if self._blueprint else self.proto.graph
        return f"QuantizedModel({len(graph.node)} nodes, {self.size_bytes} bytes)"


def check_providers(providers: Sequence[str], where: str = "model.providers") -> None:
    """See to it that onnxruntime has these execution providers.

    Raises:
        ModelError: one is missing (with the nearest of those there are).
    """
    available = onnxruntime.get_available_providers()
    for name in providers:
        if name not in available:
            text = unknown_name("execution provider", name, available)
            raise ModelError(f"{where}: this onnxruntime has {text}")
