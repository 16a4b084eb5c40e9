"""From a checkpoint to a bundle, and what checkpoints and bundles hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2p_mobile.api.notes import note
from s2p_mobile.api.progress import ProgressLike, listener
from s2p_mobile.sources.cache_folder import chosen_cache

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.targets.conversion import Conversion
    from s2p_mobile.api.description import Description
    from s2p_mobile.sources.model import Model
    from s2p_runtime.bundle import Bundle
    from s2p_runtime.residency import Residency
    from s2p_runtime.verify import Verification

_NAMED_FILES = 5


def convert(
    checkpoint: Checkpoint | Model | str | Path | None = None,
    *,
    target: str,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    archive: str | Path | None = None,
    force: bool = False,
    cache: bool | str | Path = True,
    progress: ProgressLike = None,
) -> Bundle:
    """Convert a checkpoint into an app-ready bundle, checked against its golden runs before it appears.

    Args:
        checkpoint: opened or its folder. Of a model, the finished checkpoint that its folder holds; None is the built-in model's.
        target: where it will run, by name; an unknown one is answered with those that are installed.
        out: folder of the bundle; ``NAME-TARGET.s2pmobile`` in the current folder when None.
        options: of the target, by name, such as ``{"minimum_os": "iOS18"}``.
        archive: also write the download form, one ``.s2pmobile.zip``, where the target has one.
        force: replace what lies at ``out`` and ``archive``.
        cache: folder in which programs of text encoders and VAE wait for the next conversion of the same model, 4 GiB at most;
            True is the user's own folder (``$S2P_CACHE``, else the user's), False keeps none.
        progress: see :class:`ProgressEvent`.

    Returns:
        The bundle.

    Raises:
        S2PError: an unknown target or option, grids that the target cannot compute, too little memory or disk, ``out`` exists.
        CheckFailed: an emitted program does not compute what it should.

    Example:
        >>> s2p_mobile.convert("checkpoint", target="coreml", out="app.s2pmobile", options={"minimum_os": "iOS18"})
    """
    with opened_conversion(
        checkpoint, target=target, out=out, options=options, archive=archive, force=force, cache=cache
    ) as conversion:
        for line in conversion.notes.before:
            note(line)
        bundle = conversion.run(listener(progress))
        for line in conversion.notes.after:
            note(line)
    return bundle


@contextlib.contextmanager
def opened_conversion(
    checkpoint: Checkpoint | Model | str | Path | None,
    *,
    target: str,
    out: str | Path | None,
    options: Mapping[str, Any] | None,
    archive: str | Path | None,
    force: bool,
    cache: bool | str | Path,
) -> Iterator[Conversion]:
    """The conversion that :func:`convert` runs, checked as far as that is quick. Its checkpoint may be gone after the block."""
    from s2p_converters.targets.registry import TARGETS, read_options
    from s2p_runtime.allocator import give_back_large_blocks

    give_back_large_blocks()
    chosen = TARGETS.get(target)
    settings = read_options(chosen, options or {})
    chosen.prepare()
    with _opened_checkpoint(checkpoint) as source:
        from s2p_converters.targets.conversion import Conversion

        place = Path(f"{source.folder.resolve().name}-{target}.s2pmobile") if out is None else Path(out)
        kept = chosen_cache(cache, "programs")
        conversion = Conversion(source, chosen, settings, place, None if archive is None else Path(archive), force, kept)
        conversion.check()
        yield conversion


@contextlib.contextmanager
def _opened_checkpoint(checkpoint: Checkpoint | Model | str | Path | None) -> Iterator[Checkpoint]:
    """A checkpoint, or the finished one that a model's folder holds, which may be gone after the block."""
    from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
    from s2p_mobile.sources.default_checkpoint import default_checkpoint
    from s2p_mobile.sources.model import Model
    from s2p_mobile.sources.open_source import as_checkpoint, source_kind
    from s2p_mobile.sources.opening import as_model

    if isinstance(checkpoint, Checkpoint):
        yield checkpoint
    elif source_kind(checkpoint) == "model":
        with default_checkpoint(as_model(checkpoint)) as folder:
            yield open_checkpoint(folder)
    else:
        assert checkpoint is not None and not isinstance(checkpoint, Model)
        yield as_checkpoint(checkpoint)


def verify(bundle: Bundle | str | Path, *, full: bool = False, progress: ProgressLike = None) -> Verification:
    """Compare every component of a bundle on this machine with its recorded golden runs. Every file is read again.

    Args:
        bundle: opened or its folder.
        full: every recorded call and the whole loop of each run, instead of the first, middle and last call.
        progress: see :class:`ProgressEvent`.

    Returns:
        ``ok``, the largest relative error of each component beside its tolerance, and with ``full`` the PSNR of each golden run's
        latents in dB.

    Raises:
        S2PError: no bundle, a damaged one, or an engine that is missing.

    Example:
        >>> assert s2p_mobile.verify("app.s2pmobile").ok
    """
    from s2p_mobile.sources.open_source import as_bundle
    from s2p_runtime.allocator import give_back_large_blocks
    from s2p_runtime.bundle import Bundle
    from s2p_runtime.verify import verify as check

    give_back_large_blocks()
    opened = as_bundle(bundle.folder if isinstance(bundle, Bundle) else bundle)
    if names := opened.unlisted:
        more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
        note(f"not part of {opened.folder.name}, neither checked nor read: {', '.join(names[:_NAMED_FILES])}{more}")
    return check(opened, listener(progress), full)


def inspect(path: Checkpoint | Bundle | str | Path, *, residency: bool = False) -> Description:
    """What a checkpoint or a bundle holds, layer by layer, after a check of its files.

    Args:
        path: its folder, or the opened thing.
        residency: of a bundle, also hold every operator of its programs against what is published of the device's accelerator:
            which stay there, which leave it, and what padding and copies cost. It reads the programs and measures nothing.

    Returns:
        Facts by title; every layer of the U-Net in the order in which they run, with bit-widths and bytes; ``residency`` where
        it was asked for.

    Raises:
        S2PError: neither of the two, or damaged; ``residency`` of a checkpoint, or of a target that has no such rules.

    Example:
        >>> [layer.weight_bits for layer in s2p_mobile.inspect("checkpoint").layers]
        >>> s2p_mobile.inspect("app.s2pmobile", residency=True).residency.programs[0].segments
    """
    from s2p_mobile.api.description import describe
    from s2p_mobile.sources.open_source import source_kind
    from s2p_runtime.errors import S2PError

    if residency and source_kind(path) == "checkpoint":
        raise S2PError(
            "`residency` is about programs, which a checkpoint has none of", "convert it and give the bundle", "residency"
        )
    return describe(path, _look_into, required_residency if residency else None)


def known_residency(bundle: Bundle) -> Residency | None:
    """:func:`required_residency`, or None where the target has no rules for that."""
    from s2p_converters.targets.registry import TARGETS

    return TARGETS.get(bundle.manifest.target).residency(bundle)


def required_residency(bundle: Bundle) -> Residency:
    """What a bundle's target expects of its programs on the device's accelerator.

    Raises:
        S2PError: the target is not installed here or has no rules for that, or a program is damaged.
    """
    from s2p_converters.targets.registry import TARGETS
    from s2p_runtime.errors import S2PError

    target = TARGETS.get(bundle.manifest.target)
    found = known_residency(bundle)
    if found is None:
        able = [each.name for each in TARGETS.entries.values() if type(each).residency is not type(target).residency]
        raise S2PError(
            f"`residency`: nothing is known of an accelerator for bundles of the target {target.name}",
            f"leave it out, or convert for {' or '.join(able) or 'a target that knows one'}",
            "residency",
        )
    return found


def _look_into(bundle: Bundle) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """What a bundle's target reads from its programs; a note where that target cannot be had here."""
    from s2p_converters.targets.registry import TARGETS
    from s2p_runtime.errors import S2PError

    try:
        target = TARGETS.get(bundle.manifest.target)
    except S2PError as error:
        return {"programs": f"not looked into: {error}"}, {}
    found = target.inspect(bundle)
    return found.facts, found.detail
