"""onnxruntime's preparation for quantization: shapes, constant folding, fusion of affine layers.

What `quant_pre_process` of onnxruntime does, without its copies of the weights: they stand beside the model,
are shown to the optimizer, and come back from it only where it made new ones. Symbolic shape inference, which
takes a second and often fails, comes in only where onnxruntime and onnx leave shapes open.
"""

import contextlib
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto, external_data_helper, helper

from disttune.config.errors import ModelError
from disttune.quantize.activation_fusions import take_apart
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.quantize.session_values import give_to_session, session_model
from disttune.quantize.tensor_memory import (
    SMALLEST_BYTES,
    in_memory,
    n_value_bytes,
    without_initializers,
    without_values,
)
from disttune.quantize.topology import all_tensors, read_names

_LEVELS = {
    "ENABLE_BASIC": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "ENABLE_EXTENDED": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
_INT_MAX = 2**31 - 1  # default of quant_pre_process: from here on a slice's end means "to the end"
_SAVED, _SAVED_VALUES = "optimized.onnx", "optimized.onnx.data"

Warn = Callable[[str], None]


def preprocess(
    model: ModelProto, warn: Warn, directory: Path | None, large_bytes: int, level: str = "ENABLE_BASIC"
) -> ModelProto:
    """Infer shapes and optimize, leaving out what fails.

    Args:
        model: its large tensors in memory.
        warn: called with one line for each step left out.
        directory: for temporary files.
        large_bytes: with weights from this size on, the optimizer does not see their values.
        level: of onnxruntime's graph optimization: "DISABLE_ALL", "ENABLE_BASIC" or "ENABLE_EXTENDED".
    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    n_bytes = sum(n_value_bytes(tensor) for tensor in model.graph.initializer if in_memory(tensor))
    is_large = n_bytes >= large_bytes
    if is_large:
        warn(
            f"the model is large: {n_bytes / 1e9:.1f} GB of weights were left as they are while the graph "
            "was optimized (what is computed from them alone stays in the graph)"
        )
    left_out: list[str] = []
    prepared = _prepared(model, left_out.append, directory, level, is_large)
    if not _has_all_shapes(prepared):
        inferred = _with_symbolic_shapes(model, warn)
        if inferred is not None:
            left_out.clear()
            prepared = _prepared(inferred, left_out.append, directory, level, is_large)
    for line in left_out:
        warn(line)
    return prepared


def _prepared(
    model: ModelProto, warn: Warn, directory: Path | None, level: str, is_large: bool
) -> ModelProto:
    optimized = model
    if level == "DISABLE_ALL":
        _check_opens(model, is_large)
    else:
        try:
            with _temporary_folder(directory) as folder, quiet_onnxruntime(folder):
                optimize = _optimized_around if is_large else _optimized
                optimized = optimize(model, level, folder)
        except Exception as error:
            _check_opens(model, is_large)
            warn(f"onnxruntime's graph optimization was left out: {first_line(error)}")
    try:
        return without_values(take_apart(optimized), onnx.shape_inference.infer_shapes)
    except Exception as error:
        text = first_line(error)
        raise ModelError(f"onnx cannot infer the model's shapes: {text}. Export it again.") from None


# The optimizer


def _optimized(model: ModelProto, level: str, folder: Path) -> ModelProto:
    """As onnxruntime optimizes it; a tensor that it saves under the name that it had has not changed."""
    light = _saved_by_onnxruntime(model, level, folder, keeps_values=False)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    if any(_is_elsewhere(tensor) and not _is_same(tensor, known) for tensor in all_tensors(light.graph)):
        light = _saved_by_onnxruntime(model, level, folder, keeps_values=True)
    for tensor in light.graph.initializer:
        if _is_same(tensor, known):
            tensor.CopyFrom(known[tensor.name])
    for tensor in all_tensors(light.graph):
        if _is_elsewhere(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    return light


def _saved_by_onnxruntime(model: ModelProto, level: str, folder: Path, keeps_values: bool) -> ModelProto:
    """The optimized model; large tensors are in a file beside it, or nowhere."""
    values_file = folder / _SAVED_VALUES
    if keeps_values:
        values_file.unlink(missing_ok=True)
    else:
        values_file.symlink_to(os.devnull)
    named, values = session_model(model)
    options = _session_options(level)
    options.optimized_model_filepath = str(folder / _SAVED)
    entries = {
        "optimized_model_external_initializers_file_name": _SAVED_VALUES,
        "optimized_model_external_initializers_min_size_in_bytes": str(SMALLEST_BYTES),
        "disable_prepacking": "1",
    }
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    give_to_session(values, options, cpu=False)
    onnxruntime.InferenceSession(named.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / _SAVED, load_external_data=False)


def _is_same(tensor: TensorProto, known: dict[str, TensorProto]) -> bool:
    """Whether a saved tensor without values is one that the model had."""
    before = known.get(tensor.name)
    if before is None or not _is_elsewhere(tensor):
        return False
    return before.data_type == tensor.data_type and tuple(before.dims) == tuple(tensor.dims)


def _is_elsewhere(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL and not in_memory(tensor)


def _optimized_around(model: ModelProto, level: str, folder: Path) -> ModelProto:
    """The model as onnxruntime optimizes it when weights are inputs: it does not copy them."""
    beside = {tensor.name: tensor for tensor in model.graph.initializer if in_memory(tensor)}
    options = _session_options(level)
    options.optimized_model_filepath = str(folder / _SAVED)
    data = _with_weights_as_inputs(model).SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(folder / _SAVED)
    inputs = [value for value in optimized.graph.input if value.name not in beside]
    del optimized.graph.input[:]
    optimized.graph.input.extend(inputs)
    used = {name for node in optimized.graph.node for name in read_names(node)}
    used.update(value.name for value in optimized.graph.output)
    optimized.graph.initializer.extend(tensor for name, tensor in beside.items() if name in used)
    return optimized


def _with_weights_as_inputs(model: ModelProto) -> ModelProto:
    changed = without_initializers(model)
    for tensor in model.graph.initializer:
        if in_memory(tensor):
            changed.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            changed.graph.initializer.append(tensor)
    return changed


def _check_opens(model: ModelProto, is_large: bool) -> None:
    """Tell a model that onnxruntime cannot run at all from one that it cannot optimize."""
    options = _session_options("DISABLE_ALL")
    if is_large:
        data = _with_weights_as_inputs(model).SerializeToString()
    else:
        named, values = session_model(model)
        give_to_session(values, options, cpu=False)
        data = named.SerializeToString()
    try:
        with quiet_onnxruntime():
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"onnxruntime cannot load the model: {first_line(error)}. Check it with onnxruntime alone."
        ) from None


def _session_options(level: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = _LEVELS.get(level, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return options


@contextlib.contextmanager
def _temporary_folder(directory: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="disttune-prepare-", dir=directory) as name:
        yield Path(name)


# Shapes


def _has_all_shapes(model: ModelProto) -> bool:
    """Whether every tensor that a node makes has a shape, each dimension a number or a name."""
    graph = model.graph
    shaped = {value.name for value in (*graph.value_info, *graph.output) if _has_shape(value)}
    return all(name in shaped for node in graph.node for name in node.output if name)


def _has_shape(value: ValueInfoProto) -> bool:
    if not value.type.HasField("tensor_type"):
        return True
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(d.WhichOneof("value") for d in tensor.shape.dim)


def _with_symbolic_shapes(model: ModelProto, warn: Warn) -> ModelProto | None:
    """The model with what symbolic shape inference finds; None where that fails."""
    # imported only here: sympy takes longer than most preparations
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    def infer(light: ModelProto) -> ModelProto:
        # `SymbolicShapeInference.infer_shapes` without its last step, which on failure writes the whole
        # model into the working directory
        inference = SymbolicShapeInference(_INT_MAX, auto_merge=False, guess_output_rank=False, verbose=0)
        inference._preprocess(light)
        complete = False
        while inference.run_:
            complete = inference._infer_impl()
        inference._update_output_from_vi()
        if not complete:
            raise _UnfinishedError
        inferred: ModelProto = inference.out_mp_
        return inferred

    try:
        with quiet_onnxruntime():
            return without_values(model, infer)
    except _UnfinishedError:
        warn("symbolic shape inference was left out: it could not infer every shape")
    except Exception as error:  # sympy, KeyError, AssertionError ...: it is not robust
        warn(f"symbolic shape inference was left out ({type(error).__name__}: {first_line(error)})")
    return None


class _UnfinishedError(Exception):
    pass


def first_line(error: BaseException, max_length: int = 300) -> str:
    """What an exception says, in one line without its final full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0], max_length).rstrip(".") if lines else type(error).__name__
