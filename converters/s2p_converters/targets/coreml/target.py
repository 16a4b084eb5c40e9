"""The target Core ML: iPhones, iPads and Macs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_converters.targets.protocol import ConvertedUNet, LatentShapes, Notes, Target
from s2p_runtime.bundle import Bundle
from s2p_runtime.component import Component
from s2p_runtime.residency import Residency
from s2p_runtime.workload import Workload

if TYPE_CHECKING:
    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_converters.core.graph import StepUNet
    from s2p_converters.core.reference import Constants
    from s2p_converters.targets.float_components import FloatComponent

_EXACT_TOLERANCE = 1e-6
"""Program in float64 against a reference in float64: only the rounding of results to float32 (6e-8) remains."""
_FLOAT_TOLERANCE = {"fp16": 2e-2, "fp32": 1e-4}
"""Text encoder and VAE decoder, program in float64 against the float32 source model. fp16 weights differ by up to 2^-11 (4.9e-4) each
and a dozen layers amplify that; fp32 leaves the source model's own rounding."""


_UNITS = {"neural-engine": "Neural Engine", "gpu": "GPU", "all": "all units"}


class CoreMLTarget(Target[CoreMLOptions]):
    """ML Programs in .mlpackage folders, written by coremltools and evaluated by the MIL interpreter."""

    name = "coreml"
    title = "Core ML"
    options = CoreMLOptions
    keeps_programs = True

    def describe(self, options: CoreMLOptions) -> str:
        """See :class:`Target`."""
        words = f"Core ML, {options.minimum_os}, {_UNITS[options.compute_unit]}, {options.palette} palettes"
        words += f", {options.activation_form} activations"
        return f"{words}, Apple's layout" if options.layout == "apple" else words

    def check(self, checkpoint: Checkpoint, options: CoreMLOptions) -> None:
        """See :class:`Target`: whether Apple's pipeline can draw with the model."""
        if options.layout == "apple":
            from s2p_converters.targets.coreml.apple_pipeline import pipeline_settings

            pipeline_settings(checkpoint)

    def notes(self, checkpoint: Checkpoint, options: CoreMLOptions) -> Notes:
        """See :class:`Target`: what the system and the chip do not do, and the settings of Apple's pipeline."""
        from s2p_converters.targets.coreml.advice import advice

        before = advice(checkpoint, options)
        if options.layout != "apple":
            return Notes(before, figures={"pipeline": None})
        from s2p_converters.targets.coreml.apple_pipeline import pipeline_settings

        settings = pipeline_settings(checkpoint)
        after = (
            f"pipeline settings: {settings.describe()}",
            *settings.notes,
            "compile Resources/*.mlpackage on a Mac before an app loads the folder: docs/devices.md",
        )
        return Notes(before, after, {"pipeline": asdict(settings)})

    def memory(self, checkpoint: Checkpoint, options: CoreMLOptions) -> int:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.needs import peak_memory

        return peak_memory(checkpoint)

    def disk(self, checkpoint: Checkpoint, options: CoreMLOptions) -> int:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.needs import bundle_bytes

        return bundle_bytes(checkpoint)

    def lower(
        self, checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, methods: Mapping[str, FloatComponent]
    ) -> Component:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.components import convert_float

        return convert_float(options, folder, methods)

    def lower_unet(self, checkpoint: Checkpoint, options: CoreMLOptions, folder: Path, shapes: LatentShapes) -> ConvertedUNet:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.components import convert_unet

        return convert_unet(checkpoint, options, folder, shapes)

    def lower_chunks(self, checkpoint: Checkpoint, options: CoreMLOptions, folder: Path) -> ConvertedUNet:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.chunk_packages import convert_chunks

        return convert_chunks(checkpoint, options, folder)

    def constants(self, options: CoreMLOptions) -> Constants:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.components import program_constants

        return program_constants(options)

    def reference(self, checkpoint: Checkpoint, options: CoreMLOptions) -> StepUNet:
        """See :class:`Target`. In Apple's layout a timestep finds its call."""
        unet = super().reference(checkpoint, options)
        if options.layout == "apple":
            from s2p_converters.targets.timesteps import as_the_pipeline_calls

            as_the_pipeline_calls(unet, checkpoint.manifest.plan.timesteps)
        return unet

    def self_check_tolerance(self, options: CoreMLOptions, component: str) -> float | None:
        """See :class:`Target`."""
        vae = options.vae_precision
        precisions = {"text_encoder": options.precision, "vae_decoder": vae, "vae_encoder": vae}
        return _FLOAT_TOLERANCE[precisions[component]] if component in precisions else _EXACT_TOLERANCE

    def tokenizer_folder(self, options: CoreMLOptions) -> str:
        """See :class:`Target`."""
        return options.tokenizer_folder

    def residency(self, bundle: Bundle) -> Residency:
        """See :class:`Target`: against what is published of Apple's Neural Engine."""
        from s2p_converters.targets.coreml.residency import check_bundle

        return check_bundle(bundle)

    def workload(self, bundle: Bundle) -> tuple[Workload, ...]:
        """See :class:`Target`."""
        from s2p_converters.targets.coreml.workload import bundle_workloads

        return bundle_workloads(bundle)


TARGET = CoreMLTarget()
