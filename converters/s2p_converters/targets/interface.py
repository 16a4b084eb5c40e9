"""What goes in and out of a bundle's U-Net, whatever the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.core.graph.splitting import CONTEXT, OUTPUT, SAMPLE, STEP, Chunk, plan_chunks
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


def planned_chunks(
    checkpoint: Checkpoint,
    count: int,
    costs: Mapping[str, int],
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    between: Dtype = "float32",
) -> tuple[tuple[Chunk, ...], dict[str, TensorSpec]]:
    """The U-Net as so many programs, and every port of theirs by name.

    Args:
        costs: bytes of each layer's weights, by name.
        inputs, output: of the whole U-Net.
        between: type of tensors that one program hands to another.

    Raises:
        S2PError: the U-Net has fewer units than that.
    """
    plan = plan_chunks(checkpoint.structure, count, costs, sample_shape(checkpoint), context_shape(checkpoint))
    ports = {name: tensor(name, shape, between) for name, shape in plan[0].shapes.items()}
    return plan, ports | {port.name: port for port in (*inputs, output)}
