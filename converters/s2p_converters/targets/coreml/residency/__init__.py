"""Whether programs stay on Apple's Neural Engine: every operator against a table of published rules."""

from s2p_converters.targets.coreml.residency.check import check_bundle, expected_placement

__all__ = ["check_bundle", "expected_placement"]
