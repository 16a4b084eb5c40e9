"""ExecuTorch: .pte programs for Android and Linux boards."""
