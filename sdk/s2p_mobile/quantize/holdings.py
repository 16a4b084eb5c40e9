"""What a job's stages hold in memory, counted before there is a weight: every stage's model, networks and passes."""

from __future__ import annotations

from collections.abc import Mapping

from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.resources import parameter_bytes
from s2p_mobile.quantize.compute import BYTES, Precision
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.stages import Memory
from s2p_mobile.quantize.stages.peaks import forward_bytes, saved_by_fp

FLOAT32 = 4


def weights_of(job: QuantizationJob) -> int:
    """Numbers of the weights that are quantized."""
    return sum(layer.weights for layer in job.layers)


def largest_layer(job: QuantizationJob) -> LayerSpec:
    """With most weights."""
    return max(job.layers, key=lambda layer: layer.weights)


def unet_bytes(job: QuantizationJob) -> int:
    """Of the denoiser, float32."""
    return parameter_bytes(job.model.folder, (job.model.denoiser.folder,))


def holding(
    job: QuantizationJob,
    device: Mapping[str, int] | None = None,
    host: Mapping[str, int] | None = None,
    *,
    fp_network: bool = True,
    releases: bool = False,
) -> Memory:
    """What a stage holds: the model, the FP network and more.

    Args:
        device, host: of the stage's own.
        fp_network: it is there.
        releases: the model's denoiser was let go of, see :meth:`~s2p_mobile.sources.model.Model.release`.
    """
    model, denoiser = job.model, unet_bytes(job)
    others = parameter_bytes(model.folder, model.weighty_folders) - denoiser
    # The FP network is the model's own where it runs as the model lies there.
    own = job.compute.device == "cpu" and job.compute.graph == "fp32"
    network = denoiser * BYTES[job.compute.graph] // FLOAT32 if fp_network and not own else 0
    return Memory({"FP network": network, **(device or {})}, {"model": others + (0 if releases else denoiser), **(host or {})})


def pass_bytes(job: QuantizationJob, samples: int, precision: Precision | None = None) -> int:
    """Of a pass without gradients.

    Args:
        precision: of its tensors; the FP network's when None.
    """
    tokens = job.model.conditioner.tokens
    return samples * forward_bytes(job.structure, tokens) * BYTES[precision or job.compute.graph_products] // FLOAT32


def gradient_bytes(job: QuantizationJob) -> dict[str, int]:
    """Of a call's pass through the FP network for gradients of all weights, which are let go of one by one."""
    saved = saved_by_fp(job.structure, job.model.conditioner.tokens)
    kept = job.branches * saved.kept(job.compute.recompute) * BYTES[job.compute.graph_products] // FLOAT32
    # A gradient, the rounding error, and a product of both.
    return {"activations": kept, "gradient of a layer": 4 * FLOAT32 * largest_layer(job).weights}
