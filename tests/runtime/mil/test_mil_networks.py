"""Whole networks of a Stable Diffusion pipeline, converted as they are, against the torch modules in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2p_runtime.hosts.coreml.mil import load_program
from s2p_runtime.quiet import quiet_import

Array = np.ndarray[Any, Any]


class FirstOutput(torch.nn.Module):
    """A network whose forward takes tensors and returns its first output."""

    def __init__(self, network: torch.nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.call(self.network, *inputs)[0]
        return result


def unet(**options: Any) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 24), layers_per_block=1, cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4, **options,
    )  # fmt: skip
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([7], dtype=torch.int32), torch.randn(2, 5, 12))
    return FirstOutput(network, lambda net, x, step, text: net(x, step, text, return_dict=False)), inputs


def text_encoder() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=9,
    )
    inputs = (torch.tensor([[58, 3, 9, 27, 59, 59, 59, 59, 59]], dtype=torch.int32),)
    return FirstOutput(CLIPTextModel(config), lambda net, ids: (net(input_ids=ids).last_hidden_state,)), inputs


def vae_decoder() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return FirstOutput(network, lambda net, z: net.decode(z, return_dict=False)), (torch.randn(1, 4, 8, 8),)


def convert(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], target: str, precision: str, path: Path) -> None:
    with quiet_import():
        import coremltools as ct
        from coremltools.converters.mil.frontend.torch.ops import _get_inputs
        from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

        @register_torch_op(override=True)
        def alias(context: Any, node: Any) -> None:  # CLIPTextModel exports it; coremltools 9 does not know it
            context.add(_get_inputs(context, node, expected=1)[0], node.name)

        # This pass turns gamma * x + beta into a batch_norm with variance 1 and the default epsilon of 1e-5, which scales every
        # group normalization by 1 / sqrt(1 + 1e-5): a conversion error of 5e-6, not an error of the interpreter.
        pipeline = ct.PassPipeline()
        pipeline.remove_passes({"common::fuse_elementwise_to_batchnorm"})
        exported = torch.export.export(network, inputs).run_decompositions({})
        model = ct.convert(
            exported,
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=getattr(ct.precision, precision),
            pass_pipeline=pipeline,
            skip_model_load=True,
        )
        model.save(str(path))


@pytest.mark.parametrize(
    ("make", "target", "precision"),
    [
        (lambda: unet(use_linear_projection=True, resnet_time_scale_shift="scale_shift"), "iOS18", "FLOAT32"),
        pytest.param(unet, "iOS17", "FLOAT16", marks=pytest.mark.slow),
        (text_encoder, "iOS17", "FLOAT32"),
        (vae_decoder, "iOS16", "FLOAT32"),
    ],
    ids=["unet-iOS18-fp32", "unet-iOS17-fp16", "text-iOS17-fp32", "vae-iOS16-fp32"],
)
def test_network(make: Any, target: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = make()
    network.eval()
    if precision == "FLOAT16":
        network.half().float()  # weights that fp16 holds, as the package stores them in fp16
    convert(network, inputs, target, precision, tmp_path / "network.mlpackage")
    with torch.no_grad():
        reference = network.double()(*(x.double() if x.is_floating_point() else x for x in inputs)).numpy()

    program = load_program(tmp_path / "network.mlpackage")
    feeds = {item.name: value.numpy() for item, value in zip(program.inputs, inputs, strict=True)}

    def relative_error(result: dict[str, Array]) -> float:
        (value,) = result.values()
        return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))

    # float64 evaluation differs from torch's by the constants that conversion rounds (1 / sqrt(d), epsilons, frequencies of the
    # time embedding): units of 2**-24 or 2**-11, 16 of them allowed. Rounding at each of about 200 operations on the way adds
    # as a random walk: sqrt(200) = 14 units, and a factor 4 for where an operation amplifies.
    unit = 2.0**-24 if precision == "FLOAT32" else 2.0**-11
    assert relative_error(program.run(feeds, compute="float64")) <= 16 * unit
    assert relative_error(program.run(feeds)) <= (16 + 4 * 14) * unit
