"""What public figures of chips say about a model's speed on them."""

from s2p_mobile.judge.roofline.bounds import ChipBounds, Published, Roofline, make_roofline

__all__ = ["ChipBounds", "Published", "Roofline", "make_roofline"]
