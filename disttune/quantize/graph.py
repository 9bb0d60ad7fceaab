"""The user's model: read, checked, and prepared for quantization.

Every mistake is one `ModelError` that names the file (or "the model"), the cause and the mend.
"""

import mmap
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, external_data_helper

from disttune.config.errors import ModelError
from disttune.config.recipes import PREPARING, RECIPES, RecipeValue
from disttune.quantize.batch_norm import fold_batch_norms
from disttune.quantize.digest import describe_values
from disttune.quantize.freed_memory import give_back_pages
from disttune.quantize.fused_matmul import with_plain_matmuls
from disttune.quantize.gemm_to_matmul import split_gemms
from disttune.quantize.onnx_file import parse_onnx
from disttune.quantize.opset_conversion import in_opset
from disttune.quantize.preprocess import first_line, preprocess
from disttune.quantize.size import LARGE_BYTES
from disttune.quantize.sources import name_nodes
from disttune.quantize.tensor_memory import (
    SMALLEST_BYTES,
    TensorMemory,
    in_memory,
    n_value_bytes,
    place_in_memory,
    put_beside,
    whole_tensor,
    without_values,
)
from disttune.quantize.tied_weights import split_tied_weights
from disttune.quantize.topology import all_nodes, all_tensors, default_opset, drop_unused_opsets

# QuantizeLinear has a channel axis since opset 13.
MIN_OPSET = 13
# IR version 4 made it possible for an initializer not to be an input as well.
MIN_IR_VERSION = 4
QUANTIZED_TYPES = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DequantizeWithOrder",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
        "QuantizeLinear",
        "QuantizeWithOrder",
    }
)
QUANTIZED_PREFIXES = ("QLinear", "QOrdered")
NOT_FLOAT32: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


def is_quantized_type(op_type: str) -> bool:
    """Whether an operator computes on, makes or reads integer codes."""
    return op_type in QUANTIZED_TYPES or op_type.startswith(QUANTIZED_PREFIXES)


def read_model(path: Path, memory: TensorMemory | None = None) -> ModelProto:
    """Read an ONNX file with its external data, and check it.

    Args:
        path: of the .onnx file.
        memory: holds the values of large initializers; external data of a large model stays in its files,
            which this maps. None: all values are in the model.
    Raises:
        ModelError: missing, a directory, empty, not ONNX, external data missing, or as `check_model`.
    """
    if path.is_dir():
        raise ModelError(f"model {path} is a directory. Give the .onnx file itself.")
    try:
        if path.stat().st_size == 0:
            raise ModelError(f"model {path} is empty (0 bytes). Export or copy it again.")
        model = _parsed(path, memory)
    except FileNotFoundError:
        raise ModelError(
            f"model {path} does not exist. Check model.path (relative to the job file)."
        ) from None
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror}.") from None
    _load_external_data(model, path, memory)
    check_model(model, f"model {path}")
    return model


def check_model(model: ModelProto, where: str = "the model") -> None:
    """Check that a model with its data in memory is one that can be quantized from float32.

    Args:
        model: any ONNX model.
        where: what the messages call it.
    Raises:
        ModelError: no graph, already quantized, or weights that are not float32.
    """
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{where} is not an ONNX model: it has no graph. Export the network as ONNX.")
    if not model.opset_import:
        raise ModelError(
            f"{where} says nothing of its opset. Export it again with opset {MIN_OPSET} or later."
        )
    quantized = {node.op_type for node in all_nodes(model.graph) if is_quantized_type(node.op_type)}
    quantized.update(n.op_type for f in model.functions for n in f.node if is_quantized_type(n.op_type))
    if quantized:
        types = ", ".join(sorted(quantized)[:3])
        raise ModelError(
            f"{where} is already quantized (it has {types}). Give the float32 model it was made from."
        )
    for tensor in all_tensors(model.graph):
        if tensor.data_type in NOT_FLOAT32 and len(tensor.dims) >= 2:
            dtype = NOT_FLOAT32[tensor.data_type]
            raise ModelError(f'{where} has {dtype} weights ("{tensor.name}"). Export it as float32 (fp32).')


def prepare(
    model: ModelProto,
    warn: Callable[[str], None] = lambda _: None,
    directory: Path | None = None,
    large_bytes: int = LARGE_BYTES,
    recipes: Mapping[str, RecipeValue] | None = None,
) -> ModelProto:
    """The model that all candidates are made from: optimized, with shapes, every node named.

    The same bytes for the same model. Node names are those of `sources.trace_sources`.

    Args:
        model: a checked model; it is not changed.
        warn: called with one line for every step that was changed or left out.
        directory: for temporary files; by default the system's. Nothing stays in it.
        large_bytes: with weights from this size on, the graph is optimized without their values.
        recipes: `graph_optimization_level` and `gemm_to_matmul` count; left out, they are as usual.
    Raises:
        ModelError: the opset is too old and cannot be raised, or onnxruntime cannot load the model.
    """
    memory = TensorMemory()
    given = {place_in_memory(tensor) for tensor in model.graph.initializer if in_memory(tensor)}
    started = put_beside(model, memory)
    _make_initializers_constant(started)
    started = _raise_opset(started, warn)
    settings = {name: (recipes or {}).get(name, RECIPES[name].default) for name in PREPARING}
    level = str(settings["graph_optimization_level"])
    prepared = preprocess(started, warn, directory, large_bytes, level)
    prepared = split_tied_weights(prepared, started, warn, split=level != "DISABLE_ALL")
    prepared = fold_batch_norms(with_plain_matmuls(prepared))
    if settings["gemm_to_matmul"]:
        prepared = split_gemms(prepared)
    drop_unused_opsets(prepared)
    name_nodes(prepared, model)
    for tensor in prepared.graph.initializer:
        if in_memory(tensor) and place_in_memory(tensor) not in given:  # changed ones keep their names
            tensor.CopyFrom(whole_tensor(tensor))
    return prepared


def _parsed(path: Path, memory: TensorMemory | None) -> ModelProto:
    try:
        model = ModelProto.FromString(path.read_bytes()) if memory is None else parse_onnx(path, memory)
    except OSError:
        raise
    except Exception:  # protobuf's DecodeError; not imported, because protobuf is onnx's dependency, not ours
        raise ModelError(f"model {path} is not an ONNX file. Export the network as ONNX.") from None
    if not model.HasField("graph"):
        raise ModelError(f"model {path} is not an ONNX file: it has no graph. Export the network as ONNX.")
    return model


def _load_external_data(model: ModelProto, path: Path, memory: TensorMemory | None) -> None:
    n_bytes = 0
    for tensor in all_tensors(model.graph):
        if not external_data_helper.uses_external_data(tensor) or in_memory(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        data_path = path.parent / location
        if not data_path.is_file():
            raise ModelError(
                f'model {path}: its external data file {data_path} is missing (needed by "{tensor.name}"). '
                "Copy it beside the model, under that name."
            )
        if data_path.stat().st_size < int(entries.get("offset", 0)) + int(entries.get("length", 0)):
            raise ModelError(
                f'model {path}: its external data file {data_path} is too short for "{tensor.name}". '
                "Copy it again."
            )
        n_bytes += n_value_bytes(tensor)
    if memory is not None and n_bytes >= LARGE_BYTES:
        _map_external_data(model, path, memory)
    try:
        for tensor in all_tensors(model.graph):
            if external_data_helper.uses_external_data(tensor) and not in_memory(tensor):
                external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
                tensor.ClearField("data_location")
                tensor.ClearField("external_data")
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"model {path}: its external data cannot be read: {first_line(error)}.") from None


def _map_external_data(model: ModelProto, path: Path, memory: TensorMemory) -> None:
    """Let the large initializers stand in mapped files."""
    files: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        n_bytes = n_value_bytes(tensor) if tensor.data_type != TensorProto.STRING else 0
        is_in_file = external_data_helper.uses_external_data(tensor) and not in_memory(tensor)
        if not is_in_file or n_bytes < SMALLEST_BYTES:
            continue
        location, offset = entries["location"], int(entries.get("offset", 0))
        if location not in files:
            files[location] = np.frombuffer(_mapped(path.parent / location), np.uint8)
        values = files[location][offset : offset + n_bytes]
        if values.size < n_bytes or int(entries.get("length", n_bytes)) != n_bytes:
            raise ModelError(
                f'model {path}: the external data of "{tensor.name}" has another length than its shape says. '
                "Export it again."
            )
        description = describe_values(values, tensor.data_type, tensor.dims)
        give_back_pages(values)
        tensor.CopyFrom(memory.tensor(values, tensor.data_type, tuple(tensor.dims), description, tensor.name))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def _make_initializers_constant(model: ModelProto) -> None:
    """Take initializers out of the inputs: one that can be overridden is not folded, fused or quantized."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initializers]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, MIN_IR_VERSION)


def _raise_opset(model: ModelProto, warn: Callable[[str], None]) -> ModelProto:
    opset = default_opset(model)
    if opset >= MIN_OPSET:
        return model
    try:
        raised = without_values(model, lambda light: in_opset(light, MIN_OPSET))
    except Exception as error:  # the converter raises bare RuntimeErrors of many kinds
        raise ModelError(
            f"the model has opset {opset}; quantizing needs {MIN_OPSET} or later, and onnx's converter "
            f"failed: {first_line(error)}. Export it with opset {MIN_OPSET} or later."
        ) from None
    warn(f"the model has opset {opset}: raised to {MIN_OPSET}, which quantizing needs")
    return raised
