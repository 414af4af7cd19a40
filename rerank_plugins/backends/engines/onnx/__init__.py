"""Our own ONNX graphs of encoders, built from safetensors weights without torch."""
