"""From an S2P checkpoint to bundles: what a target is, the pipeline that all share, and the built-in ones."""
