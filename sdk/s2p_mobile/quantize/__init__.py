"""From a model to an S2P checkpoint."""
