"""The fast engine's builder: a candidate becomes a quantized model straight in protobuf."""
