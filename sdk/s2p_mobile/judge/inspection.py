"""Descriptions of checkpoints and bundles for ``inspect``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.grids import weight_tensors
from s2p_converters.core.packing import packs
from s2p_mobile.sources.open_source import open_source, source_kind
from s2p_runtime.bundle import Bundle, LayerSummary, component_bytes
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError
from s2p_runtime.plan import SamplingPlan


class UNetProgram(Contract):
    """What the U-Net's .pte files hold, read from them and not from the manifest.

    Attributes:
        delegates: backend of each delegate, in order.
        operators: portable operators outside of them.
        nodes: convolution and fully connected nodes of layers by the XNNPACK datatypes of input, filter and output, e.g.
            ``"qdint8 x qcint4 -> fp32"``. A layer may be several nodes.
        arithmetic: such nodes that are no layers (norms written as small matrices).
        integer_layers, float_layers: names, in the order in which they run.
    """

    delegates: tuple[str, ...]
    operators: tuple[str, ...]
    nodes: dict[str, int]
    arithmetic: int
    integer_layers: tuple[str, ...]
    float_layers: tuple[str, ...]


class Description(Contract):
    """Facts by title, every layer of the U-Net in the order in which they run, and an XNNPACK program taken apart."""

    facts: dict[str, str]
    layers: tuple[LayerSummary, ...]
    program: UNetProgram | None = None


def describe(source: Checkpoint | Bundle | str | Path) -> Description:
    """Describe a checkpoint or a bundle, opened or its folder, after checking its files.

    Raises:
        S2PError: neither of the two, or damaged.
    """
    if source_kind(source) not in ("checkpoint", "bundle"):
        raise S2PError(f"{source} is neither a checkpoint nor a bundle", "give a folder made by s2p-mobile quantize or convert")
    opened = open_source(source)
    if isinstance(opened, Bundle):
        return _describe_bundle(opened)
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
    }
    return Description(facts=facts, layers=tuple(rows))


def _describe_bundle(bundle: Bundle) -> Description:
    manifest, summary = bundle.manifest, bundle.manifest.quantization
    facts = {
        "bundle": str(bundle.folder),
        "model": f"{manifest.name} ({manifest.family})",
        "target": manifest.target,
        "method": f"{summary.method}, recipe {summary.recipe}",
        "sampler": _sampler(manifest.plan, manifest.guidance),
        "weights": f"{summary.average_weight_bits:.3f} bits on average",
        "U-Net": f"{summary.unet_bytes} bytes resident, {summary.unet_bytes / summary.unet_fp32_bytes:.4f} of its fp32 parameters",
        "download": f"{summary.unet_download_bytes} bytes of U-Net in the download form (`archive` of convert)",
        "bundle size": f"{sum(entry.bytes for entry in manifest.files.values())} bytes resident",
    }
    if manifest.target == "coreml":
        del facts["download"]
    for name, total in component_bytes(manifest).items():
        component = manifest.components[name]
        facts[name] = f"{component.path}, {component.precision}, {component.backend}, {total} bytes"
    if bundle.unlisted:
        facts["not listed"] = f"{', '.join(bundle.unlisted)} (neither checked nor read)"
    facts["golden runs"] = ", ".join(f"{run.prompt!r} (seed {run.seed})" for run in manifest.golden)
    program = None
    if manifest.target == "executorch" and manifest.unet.backend.startswith("xnnpack"):
        program = read_unet_program(bundle)
        outside = f", outside of them {', '.join(program.operators)}" if program.operators else ""
        facts["delegates"] = f"{len(program.delegates)} ({', '.join(dict.fromkeys(program.delegates))}){outside}"
        facts["nodes"] = ", ".join(f"{count} {datatypes}" for datatypes, count in program.nodes.items())
        facts["kernels"] = f"{len(program.integer_layers)} layers integer, {len(program.float_layers)} float"
    return Description(facts=facts, layers=summary.layers, program=program)


def read_unet_program(bundle: Bundle) -> UNetProgram:
    """Take the U-Net of an XNNPACK bundle apart.

    Raises:
        S2PError: executorch is not installed, or the file is no program of layers as the manifest lists them.
    """
    try:
        from s2p_converters.targets.executorch.xnnpack.inspection import read_program
    except ImportError as error:
        raise S2PError("looking into a .pte needs executorch", "run pip install 's2p-mobile[executorch]'") from error
    names = [layer.name for layer in bundle.manifest.quantization.layers]
    summaries = []
    for component in bundle.manifest.unet_programs:
        path = bundle.component(component)[1]
        summaries.append(read_program(path.read_bytes()))
        if any(node.place > len(names) for node in summaries[-1].layers):
            raise S2PError(
                f"{path.name} has more layers than the manifest of {bundle.folder.name}", "convert the checkpoint again"
            )
    layers = [node for summary in summaries for node in summary.layers]
    nodes = [node for node in layers if node.place]
    datatypes = Counter("{} x {} -> {}".format(*node.datatypes) for node in nodes)
    # A layer is integer when all of its nodes are.
    floats = {names[node.place - 1] for node in nodes if node.datatypes[1].startswith("fp")}
    found = {names[node.place - 1] for node in nodes}
    return UNetProgram(
        delegates=tuple(delegate for summary in summaries for delegate in summary.delegates),
        operators=tuple(sorted({operator for summary in summaries for operator in summary.operators})),
        nodes=dict(datatypes.most_common()),
        arithmetic=len(layers) - len(nodes),
        integer_layers=tuple(name for name in names if name in found - floats),
        float_layers=tuple(name for name in names if name in floats),
    )
