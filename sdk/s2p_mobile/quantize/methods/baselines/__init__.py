"""Published methods to compare S2P with (docs/method-baselines.md)."""
