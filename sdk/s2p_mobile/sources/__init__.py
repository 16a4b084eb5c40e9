"""What users bring: model folders, single files, checkpoints, bundles, LoRA."""
