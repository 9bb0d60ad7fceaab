"""The engine "reference": onnxruntime's own quantizers, op by op; the oracle of the fast engine."""
