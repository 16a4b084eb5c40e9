"""Snapdragon's NPU (Hexagon): quantized ONNX graphs, compiled by Qualcomm's compiler, wrapped as ExecuTorch's QNN delegate."""
