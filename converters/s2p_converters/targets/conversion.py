"""Checkpoint -> bundle, for every target: the order of things, and all of it that no target decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2p_converters.core.checkpoint import Checkpoint, require_symmetric
from s2p_converters.core.graph.splitting import check_count
from s2p_converters.core.plan import image_starts
from s2p_converters.targets.float_components import SourceNetworks
from s2p_converters.targets.golden import FloatPrograms, Recorder
from s2p_converters.targets.lowering import float_parts, lower_all
from s2p_converters.targets.manifest import copy_tokenizers, draft_manifest, write_manifest
from s2p_converters.targets.needs import require_conversion
from s2p_converters.targets.options import TargetOptions
from s2p_converters.targets.protocol import Notes, Target
from s2p_converters.targets.self_check import SelfCheck, check_sizes
from s2p_converters.targets.sizes import latent_shapes, picture_sizes
from s2p_converters.targets.task import Task
from s2p_runtime.bundle import Bundle, BundleManifest
from s2p_runtime.files import atomic_folder, refuse_existing
from s2p_runtime.progress import Progress


@dataclass(frozen=True)
class Conversion:
    """A conversion that is asked for.

    Attributes:
        out: folder of the bundle.
        archive: also write the bundle's download form to this file.
        force: replace what exists.
        kept: folder of programs that earlier conversions wrote; None: there are none, and none are kept.
    """

    checkpoint: Checkpoint
    target: Target[Any]
    options: TargetOptions
    out: Path
    archive: Path | None = None
    force: bool = False
    kept: Path | None = None

    @property
    def title(self) -> str:
        """What becomes what."""
        return f"{self.checkpoint.manifest.title} for {self.target.describe(self.options)}"

    @property
    def notes(self) -> Notes:
        """What a user should know of it."""
        return self.target.notes(self.checkpoint, self.options)

    def check(self) -> None:
        """Refuse at once what cannot be.

        Raises:
            S2PError: something is there already, what :func:`check_early` refuses, too little memory or disk.
        """
        refuse_existing(self.out, self.force)
        if self.archive is not None:
            refuse_existing(self.archive, self.force)
        check_early(self.checkpoint, self.target, self.options)
        require_conversion(self.checkpoint, self.target, self.options, self.out)

    def run(self, progress: Progress) -> Bundle:
        """Write the bundle, which appears only when everything is right, and its download form.

        Raises:
            S2PError: what :meth:`check` refuses, or a component cannot be lowered.
            CheckFailed: an emitted program does not hold or compute what it should.
        """
        self.check()
        with atomic_folder(self.out, force=self.force) as scratch:
            manifest = convert_checkpoint(self.checkpoint, self.target, self.options, scratch, progress, self.kept)
        bundle = Bundle(self.out, manifest)
        if self.archive is not None:
            self.target.archive.write(bundle, self.archive, force=self.force)
        return bundle


def check_early(checkpoint: Checkpoint, target: Target[Any], options: TargetOptions) -> None:
    """Refuse what cannot be converted, before anything is written.

    Raises:
        S2PError: grids that programs do not compute, more chunks than the U-Net has parts, sizes that do not fit it, or what the
            target itself refuses.
    """
    target.check(checkpoint, options)
    require_symmetric(checkpoint)
    if options.chunks > 1:
        check_count(checkpoint.structure, options.chunks)
    picture_sizes(checkpoint, options.size)


def convert_checkpoint(
    checkpoint: Checkpoint,
    target: Target[Any],
    options: TargetOptions,
    folder: Path,
    progress: Progress,
    kept: Path | None = None,
) -> BundleManifest:
    """Write a bundle into an empty folder.

    Every program that this machine can run is compared with its reference before golden runs are recorded.

    Args:
        kept: see :class:`Conversion`.

    Raises:
        S2PError: what :func:`check_early` refuses, or a component cannot be lowered.
        CheckFailed: an emitted program does not hold or compute what it should.
    """
    check_early(checkpoint, target, options)
    sizes = picture_sizes(checkpoint, options.size)
    shapes = latent_shapes(sizes, target.host.default_method)
    components = float_parts(checkpoint, shapes, options)
    starts = image_starts(checkpoint.manifest.plan, checkpoint.folder / "scheduler") if options.image_to_image else None
    lowered = lower_all(Task(checkpoint, target, options, folder, shapes, kept), components, progress)
    tokenizers = copy_tokenizers(checkpoint, folder, target.tokenizer_folder(options))
    download = target.archive.unet_bytes(folder, lowered.unet)
    draft = draft_manifest(checkpoint, target.name, folder, lowered.unet, lowered.others, sizes, tokenizers, download, starts)

    reference = target.reference(checkpoint, options)
    parts = {name: tuple(methods.values()) for name, methods in components.items()}
    check = SelfCheck(target, options, checkpoint, parts)
    floats: FloatPrograms | None = None
    if check.names:
        backend = target.host.open(Bundle(folder, draft), "float64")
        check.run(backend, progress)
        # Golden runs record what the programs denote, where that can be told apart from how an engine rounds.
        floats = backend if target.host.exact else None
        del backend  # an engine that is not recorded from gives its memory back
    recorder = Recorder(checkpoint, reference, floats or SourceNetworks(checkpoint), folder, progress, starts)
    golden = recorder.golden_runs()
    recorder.size_calls(sizes)
    target.host.record_constants(folder, draft.components)
    del recorder, floats
    manifest = write_manifest(draft, folder, golden=golden)
    bundle = Bundle(folder, manifest)
    if check.names:
        backend = target.host.open(bundle, "float64")
        check.run_unet(bundle, backend, progress)
        if len(sizes) > 1:
            check_sizes(target, bundle, backend)
    return manifest
