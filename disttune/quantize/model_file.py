"""Read an ONNX file that may be quantized already."""

from pathlib import Path

from onnx import ModelProto, load

from disttune.config.errors import ModelError
from disttune.quantize.preprocess import first_line


def read_onnx(path: Path) -> ModelProto:
    """The model of a file, with its external data.

    Raises:
        ModelError: it or its data are missing, or it is no ONNX model.
    """
    try:
        model: ModelProto = load(path)
    except FileNotFoundError as error:
        raise ModelError(f"model {path}: no such file, or its external data: {first_line(error)}") from None
    except Exception as error:  # whatever protobuf raises for a file of another kind
        raise ModelError(f"model {path} is not an ONNX file: {first_line(error)}") from None
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"model {path} is not an ONNX model: it has no graph.")
    return model
