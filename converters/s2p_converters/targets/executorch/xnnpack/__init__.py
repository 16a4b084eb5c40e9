"""Integer programs for XNNPACK, ExecuTorch's CPU backend."""
