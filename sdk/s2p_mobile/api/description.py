"""Descriptions of checkpoints and bundles for ``inspect``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import Field

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.grids import weight_tensors
from s2p_converters.core.packing import packs
from s2p_mobile.quantize.stages import count_network
from s2p_mobile.sources.open_source import open_source, source_kind
from s2p_runtime.bundle import Bundle, LayerSummary, component_bytes
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.residency import Residency


class Description(Contract):
    """Facts by title, every layer of the U-Net in the order in which they run, and what its target finds in a bundle's programs.

    ``residency``, where it was asked for: which operators are expected to stay on the device's accelerator.
    """

    facts: dict[str, str]
    layers: tuple[LayerSummary, ...]
    detail: dict[str, Any] = Field(default_factory=dict)
    residency: Residency | None = None


LookInto: TypeAlias = Callable[[Bundle], tuple[Mapping[str, str], Mapping[str, Any]]]
"""A bundle -> facts that its programs tell, by title, and the same for programs, JSON-able."""


def describe(
    source: Checkpoint | Bundle | str | Path,
    look_into: LookInto | None = None,
    residency: Callable[[Bundle], Residency] | None = None,
) -> Description:
    """Describe a checkpoint or a bundle, opened or its folder, after checking its files.

    Args:
        look_into: reads a bundle's programs, which is for its target to do; None: the manifest is all.
        residency: holds them against the rules of an accelerator; None: nobody asked.

    Raises:
        S2PError: neither of the two, or damaged.
    """
    if source_kind(source) not in ("checkpoint", "bundle"):
        raise S2PError(f"{source} is neither a checkpoint nor a bundle", "give a folder made by s2p-mobile quantize or convert")
    opened = open_source(source)
    if isinstance(opened, Bundle):
        found = None if residency is None else residency(opened)  # refused before anything else is read
        return _describe_bundle(opened, look_into).model_copy(update={"residency": found})
    assert isinstance(opened, Checkpoint)
    return _describe_checkpoint(opened)


def _sampler(plan: SamplingPlan, guidance: float) -> str:
    return (
        f"{plan.scheduler}, {plan.steps} steps ({len(plan.calls)} U-Net calls), {plan.prediction_type}, guidance {guidance:g}"
    )


def _describe_checkpoint(checkpoint: Checkpoint) -> Description:
    manifest = checkpoint.manifest
    rows = []
    entries = {entry.name: entry for entry in manifest.layers}
    for spec in checkpoint.specs:
        bits = entries[spec.name].weight_bits
        stored = 4 * spec.weights if bits is None else (spec.weights + 1) // 2 if packs(bits) else spec.weights
        scales = 0 if bits is None else 2 * spec.out_channels
        grid = "symmetric per-channel"
        if spec.name in checkpoint.general:
            layer = checkpoint.general[spec.name]
            sizes = {name: tensor.nbytes for name, tensor in weight_tensors(layer).items() if not name.endswith(".bias")}
            stored, scales = sum(sizes.values()), 0
            grid = "palette" if layer.is_palette else "asymmetric per-channel"
            grid += ", split input" if len(layer.parts) == 2 else ""
        scheme = "float32" if bits is None else f"{grid}, {'two' if packs(bits) else 'one'} to a byte"
        rows.append(
            LayerSummary(
                name=spec.name,
                kind=spec.kind,
                weight_bits=bits or 32,
                activation_bits=entries[spec.name].activation_bits,
                scheme=scheme,
                weights=spec.weights,
                bytes=stored + scales,
            )
        )
    facts = {
        "checkpoint": str(checkpoint.folder),
        "model": f"{manifest.source.name} ({manifest.family})",
        "method": f"{manifest.method}, recipe {manifest.recipe.get('name')}, seed {manifest.seed}",
        "sampler": _sampler(manifest.plan, manifest.guidance),
        "weights": f"{manifest.average_weight_bits:.3f} bits on average",
        "arithmetic": _arithmetic(checkpoint),
    }
    return Description(facts=facts, layers=tuple(rows))


def _arithmetic(checkpoint: Checkpoint) -> str:
    """``W4A8, 93% of the MACs``: widths, and the share of all convolutions' and linear layers' multiplications in a U-Net call whose
    both operands are quantized; attention's own products are not counted."""
    manifest = checkpoint.manifest
    entries = {entry.name: entry for entry in manifest.layers}
    work = count_network(checkpoint.structure, manifest.tokenizer.max_length).layers
    quantized = [each for each in work if entries[each.spec.name].activation_bits is not None]
    if not quantized:
        return f"W{manifest.average_weight_bits:.0f}, float activations"
    widths = "/".join(str(bits) for bits in sorted({entries[each.spec.name].activation_bits or 0 for each in quantized}))
    share = sum(each.flops for each in quantized) / sum(each.flops for each in work)
    return f"W{manifest.average_weight_bits:.0f}A{widths}, {share:.0%} of the MACs"


def _describe_bundle(bundle: Bundle, look_into: LookInto | None) -> Description:
    manifest, summary = bundle.manifest, bundle.manifest.quantization
    facts = {
        "bundle": str(bundle.folder),
        "model": f"{manifest.name} ({manifest.family})",
        "target": manifest.target,
        "method": f"{summary.method}, recipe {summary.recipe}",
        "sampler": _sampler(manifest.plan, manifest.guidance),
        "weights": f"{summary.average_weight_bits:.3f} bits on average",
        "U-Net": f"{summary.unet_bytes} bytes resident, {summary.unet_bytes / summary.unet_fp32_bytes:.4f} of its fp32 parameters",
    }
    if summary.unet_download_bytes != summary.unet_bytes:
        facts["download"] = f"{summary.unet_download_bytes} bytes of U-Net in the download form (`archive` of convert)"
    facts["bundle size"] = f"{sum(entry.bytes for entry in manifest.files.values())} bytes resident"
    for name, total in component_bytes(manifest).items():
        component = manifest.components[name]
        unit = "" if component.compute_unit is None else f" for {component.compute_unit}"
        facts[name] = f"{component.path}, {component.precision}, {component.backend}{unit}, {total} bytes"
    if bundle.unlisted:
        facts["not listed"] = f"{', '.join(bundle.unlisted)} (neither checked nor read)"
    facts["golden runs"] = ", ".join(f"{run.prompt!r} (seed {run.seed})" for run in manifest.golden)
    more, detail = look_into(bundle) if look_into is not None else ({}, {})
    return Description(facts=facts | dict(more), layers=summary.layers, detail=dict(detail))
