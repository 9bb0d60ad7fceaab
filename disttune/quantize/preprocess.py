"""onnxruntime's preparation for quantization: shapes, constant folding, fusion of affine layers.

`quant_pre_process` with what it lacks: it leaves files in the working directory when its symbolic shape
inference fails, and goes on without a word (except to the log) when the optimizer does.
"""

import math
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import quant_pre_process
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from disttune.config.errors import ModelError
from disttune.quantize.activation_fusions import take_apart
from disttune.quantize.quiet import quiet_onnxruntime
from disttune.quantize.size import model_bytes
from disttune.quantize.tensor_memory import in_memory, n_value_bytes, without_initializers, without_values
from disttune.quantize.topology import read_names

_VALUE_FIELDS = frozenset(f.name for f in TensorProto.DESCRIPTOR.fields if f.name.endswith("_data"))
_INT_MAX = 2**31 - 1  # default of quant_pre_process: from here on a slice's end means "to the end"


def preprocess(
    model: ModelProto,
    warn: Callable[[str], None],
    directory: Path | None,
    large_bytes: int,
    level: str = "ENABLE_BASIC",
) -> ModelProto:
    """Infer shapes and optimize, leaving out what fails.

    Args:
        model: may be changed.
        warn: called with one line for each step left out.
        directory: for temporary files.
        large_bytes: from this size on, files have external data.
        level: of onnxruntime's graph optimization: "DISABLE_ALL", "ENABLE_BASIC" or "ENABLE_EXTENDED".
    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    if any(map(in_memory, model.graph.initializer)):
        return without_values(model, lambda light: _without_weights(light, warn, level))
    inferred = _with_symbolic_shapes(model, warn)
    with tempfile.TemporaryDirectory(prefix="disttune-prepare-", dir=directory) as name:
        folder = Path(name)
        large = model_bytes(inferred) >= large_bytes
        source = folder / "model.onnx"
        onnx.save_model(inferred, source, save_as_external_data=large, location="model.onnx.data")
        try:
            if level == "ENABLE_EXTENDED":
                return _optimized(_extended(source, large), folder / "optimized.onnx", large, skip=True)
            if level == "ENABLE_BASIC":
                return _optimized(source, folder / "optimized.onnx", large, skip=False)
            _check_loads(source)
        except _StepError as failure:
            _check_loads(source)
            warn(f"onnxruntime's graph optimization was left out: {failure}")
        try:
            return _optimized(source, folder / "inferred.onnx", large, skip=True)
        except _StepError as failure:
            raise ModelError(f"onnx cannot infer the model's shapes: {failure}. Export it again.") from None


class _StepError(Exception):
    pass


def _without_weights(model: ModelProto, warn: Callable[[str], None], level: str) -> ModelProto:
    """Prepare a model some of whose initializers have no values: the optimizer sees them as inputs."""
    n_bytes = sum(n_value_bytes(t) for t in model.graph.initializer if _is_empty(t))
    warn(
        f"the model is large: {n_bytes / 1e9:.1f} GB of weights were left as they are while the graph was "
        "optimized (what is computed from them alone stays in the graph)"
    )
    inferred = _with_symbolic_shapes(model, warn)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    optimized = inferred
    try:
        if level != "DISABLE_ALL":
            optimized = _optimized_around(inferred, options)
    except Exception as error:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        _check_opens(_with_weights_as_inputs(inferred).SerializeToString(), options)
        warn(f"onnxruntime's graph optimization was left out: {first_line(error)}")
    try:
        shaped: ModelProto = onnx.shape_inference.infer_shapes(optimized)
    except Exception as error:
        raise ModelError(
            f"onnx cannot infer the model's shapes: {first_line(error)}. Export it again."
        ) from None
    return shaped


def _optimized_around(model: ModelProto, options: onnxruntime.SessionOptions) -> ModelProto:
    """The model as onnxruntime optimizes it, with the initializers that have no values."""
    empty = {tensor.name: tensor for tensor in model.graph.initializer if _is_empty(tensor)}
    with tempfile.TemporaryDirectory(prefix="disttune-prepare-") as folder:
        target = Path(folder) / "optimized.onnx"
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        data = _with_weights_as_inputs(model).SerializeToString()
        try:
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            optimized = onnx.load(target)
        finally:
            options.optimized_model_filepath = ""
    inputs = [value for value in optimized.graph.input if value.name not in empty]
    del optimized.graph.input[:]
    optimized.graph.input.extend(inputs)
    used = {name for node in optimized.graph.node for name in read_names(node)}
    used.update(value.name for value in optimized.graph.output)
    optimized.graph.initializer.extend(tensor for name, tensor in empty.items() if name in used)
    return optimized


def _with_weights_as_inputs(model: ModelProto) -> ModelProto:
    changed = without_initializers(model)
    for tensor in model.graph.initializer:
        if _is_empty(tensor):
            changed.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        else:
            changed.graph.initializer.append(tensor)
    return changed


def _is_empty(tensor: TensorProto) -> bool:
    """Whether a tensor has a type and a shape, but no values."""
    fields = {field.name for field, _ in tensor.ListFields()}
    return math.prod(tensor.dims) > 0 and not fields.intersection(_VALUE_FIELDS)


def _with_symbolic_shapes(model: ModelProto, warn: Callable[[str], None]) -> ModelProto:
    # `SymbolicShapeInference.infer_shapes` without its last step, which on failure writes the whole model
    # into the working directory.
    try:
        with quiet_onnxruntime():
            inference = SymbolicShapeInference(_INT_MAX, auto_merge=False, guess_output_rank=False, verbose=0)
            inference._preprocess(model)
            complete = False
            while inference.run_:
                complete = inference._infer_impl()
            inference._update_output_from_vi()
    except Exception as error:  # sympy, KeyError, AssertionError ...: it is not robust
        warn(f"symbolic shape inference was left out ({type(error).__name__}: {first_line(error)})")
        return model
    if not complete:
        warn("symbolic shape inference was left out: it could not infer every shape")
        return model
    inferred: ModelProto = inference.out_mp_
    return inferred


def _optimized(source: Path, target: Path, large: bool, skip: bool) -> ModelProto:
    try:
        with quiet_onnxruntime(source.parent) as errors:
            quant_pre_process(
                str(source),
                str(target),
                skip_optimization=skip,
                skip_symbolic_shape=True,
                save_as_external_data=large,
                all_tensors_to_one_file=True,
                external_data_location=target.name + ".data",
            )
    except Exception as error:
        raise _StepError(first_line(error)) from None
    if errors:
        raise _StepError(errors[-1].strip().splitlines()[-1])
    return onnx.load(target)


def _extended(source: Path, large: bool) -> Path:
    """The model with the fusions of onnxruntime that have operators of its own."""
    target = source.with_name("extended.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    if large:
        key = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(key, target.name + ".data")
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _StepError(first_line(error)) from None
    apart = source.with_name("apart.onnx")
    location = apart.name + ".data"
    onnx.save_model(take_apart(onnx.load(target)), apart, save_as_external_data=large, location=location)
    return apart


def _check_loads(source: Path) -> None:
    """Tell a model that onnxruntime cannot run at all from one that it cannot optimize."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    _check_opens(str(source), options)


def _check_opens(source: str | bytes, options: onnxruntime.SessionOptions) -> None:
    try:
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        cause = first_line(error).rpartition(f"{source!s} failed:")[2]
        raise ModelError(
            f"onnxruntime cannot load the model: {cause}. Check it with onnxruntime alone."
        ) from None


def first_line(error: BaseException, max_length: int = 300) -> str:
    """What an exception says, in one line without its final full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0], max_length).rstrip(".") if lines else type(error).__name__
