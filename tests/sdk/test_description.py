"""What `inspect` says of a bundle's programs, from the manifest."""

from __future__ import annotations

from pathlib import Path

from s2p_mobile.api.description import describe

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_programs_are_told_with_the_unit_that_they_are_for() -> None:
    facts = describe(FIXTURES / "chunked.s2pmobile").facts
    assert facts["unet_1"].startswith("unet_1.pte, float32, xnnpack for neural-engine, ")
    assert facts["unet_3"].startswith("unet_3.pte, float32, xnnpack, ")
