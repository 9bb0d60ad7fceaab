"""From an ONNX model and a candidate to a quantized model; knows nothing of ranks."""
