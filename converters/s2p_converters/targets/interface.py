"""What goes in and out of a bundle's U-Net, whatever the target."""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph.splitting import CONTEXT, OUTPUT, SAMPLE, STEP
from s2p_converters.targets.float_components import prompt_components
from s2p_converters.targets.ports import Dtype, context_shape, sample_shape, tensor
from s2p_runtime.component import TensorSpec
from s2p_runtime.conditioning import conditioner_of


def condition_ports(checkpoint: Checkpoint) -> tuple[TensorSpec, ...]:
    """What the U-Net learns of a prompt, in the order of its arguments: the text's hidden states, which have a shape of their own
    behind the component that makes them, and outputs of other components as they are."""
    made = {port.name: port for component in prompt_components(checkpoint) for port in component.outputs}
    made[CONTEXT] = tensor(CONTEXT, context_shape(checkpoint))
    return tuple(made[name] for name in conditioner_of(checkpoint.manifest).inputs)


def unet_inputs(checkpoint: Checkpoint, step: Dtype, latents: tuple[int, int] | None = None) -> tuple[TensorSpec, ...]:
    """``sample`` [B, C, H, W], ``step`` [1] and :func:`condition_ports`.

    Args:
        step: type of the call's index.
        latents: their height and width; None: the checkpoint's own.
    """
    sample = tensor(SAMPLE, sample_shape(checkpoint, latents))
    return (sample, tensor(STEP, (1,), step), *condition_ports(checkpoint))


def unet_output(checkpoint: Checkpoint, latents: tuple[int, int] | None = None) -> TensorSpec:
    """``noise_pred`` [B, C, H, W]."""
    batch, _, *size = sample_shape(checkpoint, latents)
    return tensor(OUTPUT, (batch, checkpoint.structure.out_channels, *size))
