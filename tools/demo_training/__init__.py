"""Training of the demo model: ``python -m demo_training --out DIR``.

Stages, each resumable on its own: data (sprites from the font), tokenizer, vae (with its decoder's fine-tuning), unet
(text encoder and U-Net together), clip (the judge). The finished pipeline is written to ``DIR/model``.
"""
