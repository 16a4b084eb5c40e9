"""Reading source models: weights of a component, single-file checkpoints, LoRA files."""
