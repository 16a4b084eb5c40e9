"""The target Core AI: iPhones, iPads and Macs from iOS 27 and macOS 27 on."""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.targets.coreai.options import FILES, FOLDER, CoreAIOptions
from s2p_converters.targets.coreai.requests import Converter, Request
from s2p_converters.targets.protocol import ConvertedUNet, Inspection, LatentShapes, Notes, Target
from s2p_runtime.bundle import Bundle, LayerSummary
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.graph import StepUNet
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.float_components import FloatComponent

_UNITS = {"neural-engine": "Neural Engine", "gpu": "GPU", "all": "all units"}


class CoreAITarget(Target[CoreAIOptions]):
    """Programs in .aimodel folders, written by Apple's authoring library in a process of its own, and run by Apple's runtime."""

    name = "coreai"
    title = "Core AI"
    options = CoreAIOptions
    keeps_programs = True
    lowers_here = False

    def __init__(self) -> None:
        self._converter = Converter()
        atexit.register(self._converter.close)

    def describe(self, options: CoreAIOptions) -> str:
        """See :class:`Target`."""
        words = f"Core AI, {_UNITS[options.compute_unit]}, {options.precision}, {options.activations} activations"
        return words if options.layout == "s2p" else f"{words}, layout of {options.layout}"

    def prepare(self) -> None:
        """See :class:`Target`: Apple's library is imported in its process while this one reads the checkpoint."""
        from s2p_runtime.hosts.coreai import require_engine

        with contextlib.suppress(S2PError):
            require_engine()
            self._converter.start()

    def check(self, checkpoint: Checkpoint, options: CoreAIOptions) -> None:
        """See :class:`Target`."""
        from s2p_converters.targets.coreai.weights import check_activation_scale
        from s2p_runtime.hosts.coreai import require_engine

        require_engine()
        for layer in checkpoint.layers.values():
            check_activation_scale(layer, options)
        if options.layout == "coreai-models":
            from s2p_converters.targets.coreai.swift_package import package_settings

            package_settings(checkpoint, options)
        self._converter.start()

    def notes(self, checkpoint: Checkpoint, options: CoreAIOptions) -> Notes:
        """See :class:`Target`."""
        from s2p_runtime.hosts.coreai.backend import SLOW_HERE

        here = (SLOW_HERE,) if sys.platform != "darwin" else ()
        if options.layout == "s2p":
            return Notes(after=here, figures={"package": None})
        from s2p_converters.targets.coreai.swift_package import package_settings

        settings = package_settings(checkpoint, options)
        after = (f"settings of the package: {settings.describe()}", *settings.notes, *here)
        return Notes(after=after, figures={"package": asdict(settings)})

    def memory(self, checkpoint: Checkpoint, options: CoreAIOptions) -> int:
        """See :class:`Target`."""
        from s2p_converters.targets.coreai.needs import peak_memory

        return peak_memory(checkpoint)

    def disk(self, checkpoint: Checkpoint, options: CoreAIOptions) -> int:
        """See :class:`Target`."""
        from s2p_converters.targets.coreai.needs import bundle_bytes

        return bundle_bytes(checkpoint)

    def lower(
        self, checkpoint: Checkpoint, options: CoreAIOptions, folder: Path, methods: Mapping[str, FloatComponent]
    ) -> Component:
        """See :class:`Target`."""
        own = next(iter(methods.values()))
        # Of components beside the VAE nothing depends on it.
        shapes = {method: part.latents or (1, 1) for method, part in methods.items()}
        answer = self._ask(checkpoint, options, folder, own.name, own.title, shapes)
        if not self.runs_here(checkpoint, options, own.name):
            self._check_small_part(checkpoint, options, own)
        return Component.model_validate_json(answer[0])

    def lower_unet(self, checkpoint: Checkpoint, options: CoreAIOptions, folder: Path, shapes: LatentShapes) -> ConvertedUNet:
        """See :class:`Target`."""
        component, layers = self._ask(checkpoint, options, folder, "unet", "U-Net", shapes)
        if options.layout == "coreai-models":
            from s2p_converters.targets.coreai.swift_package import write_metadata

            write_metadata(checkpoint, options, folder)
        if not self.runs_here(checkpoint, options, "unet"):
            self._check_small(checkpoint, options)
        self._converter.close()
        return ConvertedUNet({"unet": Component.model_validate_json(component)}, layers)

    def runs_here(self, checkpoint: Checkpoint, options: CoreAIOptions, component: str) -> bool:
        """See :class:`Target`."""
        from s2p_converters.targets.coreai.small_twin import is_large, is_large_vae
        from s2p_converters.targets.float_components import VAE_PARTS

        if component == "unet":
            return not is_large(checkpoint)
        return component not in VAE_PARTS or not is_large_vae(checkpoint)

    def _check_small_part(self, checkpoint: Checkpoint, options: CoreAIOptions, part: FloatComponent) -> None:
        """The same network at small latents against the source's."""
        from s2p_converters.targets.coreai.small_twin import check_part, small_latents
        from s2p_converters.targets.float_components import vae_part

        plain, latents = options.model_copy(update={"layout": "s2p", "size": ()}), small_latents(checkpoint)
        tolerance = self.self_check_tolerance(options, part.name)
        assert tolerance is not None
        with tempfile.TemporaryDirectory() as scratch:
            self._ask(checkpoint, plain, Path(scratch), part.name, part.title, {"main": latents})
            twin = vae_part(checkpoint, part.name, latents)
            check_part(twin, Path(scratch) / f"{part.name}.aimodel", options.vae_precision, tolerance)

    def _check_small(self, checkpoint: Checkpoint, options: CoreAIOptions) -> None:
        """The same layers at small latents against the reference."""
        from s2p_converters.targets.coreai.small_twin import check_twin, small_latents

        plain = options.model_copy(update={"layout": "s2p", "size": (), "chunks": 1})
        with tempfile.TemporaryDirectory() as scratch:
            self._ask(checkpoint, plain, Path(scratch), "unet", "U-Net", {"main": small_latents(checkpoint)})
            self._converter.close()
            tolerance = self.self_check_tolerance(options, "unet")
            assert tolerance is not None
            reference = self.reference(checkpoint, plain)
            check_twin(checkpoint, reference, Path(scratch) / "unet.aimodel", options.precision, tolerance)

    def lower_chunks(self, checkpoint: Checkpoint, options: CoreAIOptions, folder: Path) -> ConvertedUNet:
        """See :class:`Target`."""
        from s2p_converters.targets.ports import own_latents

        components: dict[str, Component] = {}
        layers: tuple[LayerSummary, ...] = ()
        for number in range(1, options.chunks + 1):
            name = f"unet_{number}"
            title = f"U-Net's program {number}"
            component, layers = self._ask(checkpoint, options, folder, name, title, {"main": own_latents(checkpoint)}, number)
            components[name] = Component.model_validate_json(component)
        if not self.runs_here(checkpoint, options, "unet"):
            self._check_small(checkpoint, options)
        self._converter.close()
        return ConvertedUNet(components, layers)

    def _ask(
        self, checkpoint: Checkpoint, options: CoreAIOptions, folder: Path, name: str, title: str, shapes: LatentShapes,
        number: int | None = None,
    ) -> tuple[str, tuple[LayerSummary, ...]]:  # fmt: skip
        """The component as JSON, and the U-Net's layers."""
        from s2p_converters.targets.float_modules import import_classes

        request = Request(
            checkpoint=checkpoint.folder.resolve(), options=options.model_dump(), folder=folder.resolve(), name=name, title=title,
            path=_place(options, name), shapes=dict(shapes), number=number,
        )  # fmt: skip
        # The checks that follow need the same classes in this process.
        answer = self._converter.ask(request, meanwhile=import_classes)
        return json.dumps(answer["component"]), tuple(
            LayerSummary.model_validate_json(json.dumps(row)) for row in answer.get("layers", ())
        )

    def constants(self, options: CoreAIOptions) -> Constants:
        """See :class:`Target`: everything is stored in the program's precision, weights and their scales exactly."""
        from s2p_converters.core.reference import Constants, exact_weight, to_float16, to_float32

        return Constants(to_float16 if options.half else to_float32, exact_weight, options.quantizes_activations)

    def reference(self, checkpoint: Checkpoint, options: CoreAIOptions) -> StepUNet:
        """See :class:`Target`. The program divides by the scale that it stores and does not multiply by a stored reciprocal."""
        from s2p_converters.targets.coreai.reference import dividing_reference

        unet = dividing_reference(checkpoint, self.constants(options))
        if options.layout == "coreai-models":
            from s2p_converters.targets.timesteps import as_the_pipeline_calls

            as_the_pipeline_calls(unet, checkpoint.manifest.plan.timesteps)
        return unet

    def self_check_tolerance(self, options: CoreAIOptions, component: str) -> float | None:
        """See :class:`Target`."""
        from s2p_runtime.hosts.coreai import component_tolerance

        precisions = dict.fromkeys(("vae_decoder", "vae_encoder"), options.vae_precision)
        precisions |= dict.fromkeys(("text_encoder", "unet"), options.precision)
        return component_tolerance("float16" if precisions.get(component) == "fp16" else "float32", component)

    def tokenizer_folder(self, options: CoreAIOptions) -> str:
        """See :class:`Target`."""
        return "tokenizer" if options.layout == "s2p" else f"{FOLDER}/tokenizer"

    def inspect(self, bundle: Bundle) -> Inspection:
        """See :class:`Target`: how many constants of each type the programs hold, and their bytes."""
        from s2p_runtime.hosts.coreai.digests import constant_bytes

        stored = constant_bytes(bundle)
        facts = {
            f"constants of {name}": ", ".join(f"{count} {kind} ({size / 1e6:.1f} MB)" for kind, (count, size) in kinds.items())
            for name, kinds in stored.items()
        }
        return Inspection(facts, {"constants": stored})


def _place(options: CoreAIOptions, name: str) -> str:
    """Where a component's program lies in the bundle."""
    return f"{name}.aimodel" if options.layout == "s2p" else f"{FOLDER}/{FILES[name]}"


TARGET = CoreAITarget()
