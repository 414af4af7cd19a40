"""The ONNX engine, which needs no torch."""
