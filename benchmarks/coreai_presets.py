"""How large the weights of a U-Net are by the presets of apple/coreai-models, beside a bundle's, by count of bits.

    python benchmarks/coreai_presets.py demo.s2pmobile            a Core AI bundle in float16
    python benchmarks/coreai_presets.py --model sd1               true architectures: sd1, sd2, sdxl
    python benchmarks/coreai_presets.py --check                   our ``int4-blocks`` against Apple's coreai-opt, which must be there

Counted are the convolutions and linear layers outside of the time path, which our programs replace with a table and the presets keep.
``4bit``, of ``diffusion/presets.py`` and ``export/compiler.py`` of https://github.com/apple/coreai-models: 4 bits a weight and a
float16 scale for each output channel and block of 32 input channels, over the positions of a kernel; layers of fewer than 32,768
weights, or whose input channels make no whole blocks, stay in float16. int8: 8 bits a weight and a float16 scale for each output
channel.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from full_size_model import CONFIGS, unet_config
from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.graph.structure import UNetStructure, layer_specs
from s2p_mobile.sources.opening import open_model
from s2p_runtime.bundle import open_bundle

HALF, BLOCK, LEAST = 16, 32, 32_768


def int4_bits(spec: LayerSpec, least: int) -> int:
    """Of a layer's weight and scales; layers of fewer weights than ``least`` stay in float16."""
    if spec.weights < least or spec.in_channels % BLOCK:
        return HALF * spec.weights
    return 4 * spec.weights + HALF * spec.out_channels * (spec.in_channels // BLOCK)


def int8_bits(spec: LayerSpec) -> int:
    """Of a layer's weight and scales."""
    return 8 * spec.weights + HALF * spec.out_channels


def check() -> None:
    """A linear layer and a convolution through Apple's own quantizer, as the package calls it, and through ours: how many integers
    are equal, and how far scales are apart, relatively."""
    import torch
    from coreai_opt.coreai_utils import CompressionGranularity, DType, quantize_weights
    from coreai_torch import TorchConverter, get_decomp_table

    from s2p_converters.targets.coreai.builder import save_program
    from s2p_mobile.quantize.methods.baselines.coreml_presets import int4_blocks
    from s2p_runtime.hosts.coreai.constants import read_constants

    torch.manual_seed(0)
    layers = (torch.nn.Linear(96, 512, bias=False), torch.nn.Conv2d(64, 128, 3, padding=1, bias=False))
    for layer, shape in zip(layers, ((1, 96), (1, 64, 8, 8)), strict=True):
        exported = torch.export.export(layer.eval(), (torch.zeros(shape),), strict=False).run_decompositions(get_decomp_table())
        converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
        converter.add_exported_program(exported, input_names=["x"], output_names=["y"])
        program = quantize_weights(
            converter.to_coreai(), dtype=DType.INT4, granularity=CompressionGranularity.PER_BLOCK, block_size=BLOCK,
            weight_num_threshold=LEAST,
        )  # fmt: skip
        weight = layer.get_parameter("weight").detach().numpy()
        ours = int4_blocks(weight)
        assert ours is not None
        with tempfile.TemporaryDirectory() as scratch:
            save_program(program, Path(scratch) / "layer.aimodel")
            stored = list(read_constants(Path(scratch) / "layer.aimodel"))
        (integers,) = (each.values for each in stored if each.kind == "si4" and each.values.size == weight.size)
        equal = (integers.ravel() == ours.integers.ravel().astype(int) - 8).mean()
        scales = [
            each.values.reshape(ours.scale.shape)
            for each in stored
            if each.kind == "f32" and each.values.size == ours.scale.size
        ]
        # Two constants have that size: scales, and what the library subtracts, which is nothing here.
        gap = min(float(np.abs(each / ours.scale.astype(np.float32) - 1).max()) for each in scales)
        print(f"{type(layer).__name__}: {equal:.3%} of {integers.size:,} integers are equal, scales within {gap:.1e}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="of the built-in model")
    parser.add_argument("--model", choices=sorted(CONFIGS), help="a true architecture, in place of the built-in model's")
    parser.add_argument("--check", action="store_true", help="compare with Apple's own quantizer, and no more")
    options = parser.parse_args()
    if options.check:
        check()
        return
    config = unet_config(options.model, 1) if options.model else open_model(None).unet.config
    specs: Sequence[LayerSpec] = layer_specs(UNetStructure.from_config(dict(config)))
    weights = sum(spec.weights for spec in specs)
    rows = {
        "float16": HALF * weights,
        "int8 for each output channel": sum(map(int8_bits, specs)),
        "int4 in blocks of 32, layers below 32,768 weights in float16 (`4bit`)": sum(int4_bits(spec, LEAST) for spec in specs),
        "int4 in blocks of 32, all layers": sum(int4_bits(spec, 0) for spec in specs),
    }
    if options.bundle is not None:
        rows["ours, by the bundle's own count"] = 8 * sum(
            layer.bytes for layer in open_bundle(options.bundle).manifest.quantization.layers
        )
    print(f"{weights:,} weights\n\n| weights | MB | bits a weight |\n|---|---|---|")
    for name, bits in rows.items():
        print(f"| {name} | {bits / 8e6:.2f} | {bits / weights:.2f} |")


if __name__ == "__main__":
    main()
