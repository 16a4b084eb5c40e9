"""What public figures of phones' chips say about a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_mobile.judge.roofline import Roofline
    from s2p_runtime.bundle import Bundle


def roofline(source: Checkpoint | Bundle | str | Path, *, devices: Sequence[str] | str = ()) -> Roofline:
    """How long a U-Net call and a picture take at least on a chip: its peak and its memory's bandwidth, as they are published.

    Nothing is run and nothing is measured. Beside it stand the seconds that Apple published for its own programs.

    Args:
        source: a bundle, whose programs are counted operator by operator, or a checkpoint, whose layers are; opened or its folder.
        devices: chips or devices by name, such as ``iphone15pro`` or ``a16``; all that are known when empty.

    Returns:
        Operations and bytes of each program's call; for each chip the bounds in seconds, which of them holds, and its sources.

    Raises:
        S2PError: something else or damaged, an unknown device, or a bundle whose target does not count its programs.

    Example:
        >>> s2p_mobile.roofline("app.s2pmobile", devices=["iphone15pro"]).chips[0].call_seconds
    """
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.targets.registry import TARGETS
    from s2p_mobile.judge.roofline import make_roofline
    from s2p_mobile.quantize.workload import checkpoint_workload
    from s2p_mobile.sources.open_source import open_source, source_kind
    from s2p_runtime.bundle import Bundle
    from s2p_runtime.errors import S2PError

    names = (devices,) if isinstance(devices, str) else tuple(devices)
    make_roofline("", (), names)  # an unknown device is named before anything is read
    if source_kind(source) not in ("checkpoint", "bundle"):
        raise S2PError(f"{source} is neither a checkpoint nor a bundle", "give a folder made by s2p-mobile quantize or convert")
    opened = open_source(source)
    if isinstance(opened, Checkpoint):
        return make_roofline(opened.manifest.title, (checkpoint_workload(opened),), names)
    assert isinstance(opened, Bundle)
    works = TARGETS.get(opened.manifest.target).workload(opened)
    if works is None:
        raise S2PError(
            f"the target {opened.manifest.target} does not count its programs",
            "give the checkpoint that the bundle was made of",
        )
    return make_roofline(f"{opened.manifest.name} for {opened.manifest.target}", works, names)
