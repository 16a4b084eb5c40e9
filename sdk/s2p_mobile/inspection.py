"""Descriptions of checkpoints and bundles for ``inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s2p_converters.checkpoint import Checkpoint, is_checkpoint, open_checkpoint
from s2p_converters.packing import packs
from s2p_runtime.bundle import MANIFEST_NAME, Bundle, LayerSummary, open_bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan


@dataclass(frozen=True)
class Description:
    """Facts by title, and every layer of the U-Net in the order in which they run."""

    facts: dict[str, str]
    layers: tuple[LayerSummary, ...]


def describe(path: Path) -> Description:
    """Describe a checkpoint or a bundle after checking its files.

    Raises:
        S2PError: neither of the two, or damaged.
    """
    if not path.exists():
        raise S2PError(f"{path} does not exist; give a checkpoint or a bundle")
    if is_checkpoint(path):
        return _describe_checkpoint(open_checkpoint(path))
    if (path / MANIFEST_NAME).is_file():
        return _describe_bundle(open_bundle(path))
    raise S2PError(f"{path} is neither a checkpoint nor a bundle; give a folder made by s2p-mobile quantize or convert")


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
        scheme = "float32" if bits is None else f"symmetric per-channel, {'two' if packs(bits) else 'one'} to a byte"
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
    }
    return Description(facts, tuple(rows))


def _describe_bundle(bundle: Bundle) -> Description:
    manifest, summary = bundle.manifest, bundle.manifest.quantization
    facts = {
        "bundle": str(bundle.folder),
        "model": f"{manifest.name} ({manifest.family})",
        "target": manifest.target,
        "method": f"{summary.method}, recipe {summary.recipe}",
        "sampler": _sampler(manifest.plan, manifest.guidance),
        "weights": f"{summary.average_weight_bits:.3f} bits on average",
        "U-Net": f"{summary.unet_bytes} bytes, {summary.unet_bytes / summary.unet_fp32_bytes:.4f} of its fp32 parameters",
    }
    for name, component in manifest.components.items():
        prefix = component.path + "/"
        total = sum(e.bytes for f, e in manifest.files.items() if f == component.path or f.startswith(prefix))
        facts[name] = f"{component.path}, {component.precision}, {component.backend}, {total} bytes"
    facts["golden runs"] = ", ".join(f"{run.prompt!r} (seed {run.seed})" for run in manifest.golden)
    return Description(facts, summary.layers)
