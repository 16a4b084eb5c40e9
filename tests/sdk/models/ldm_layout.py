"""A model of diffusers and transformers written under the key names of the original Stable Diffusion code, by a mapping of its own
(from the module trees of CompVis/stable-diffusion and Stability-AI/stablediffusion)."""

from __future__ import annotations

import re

import torch

from s2p_mobile.models import Model

Tensors = dict[str, torch.Tensor]
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
WHOLE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_key(name: str, layers: int, up_attention: dict[int, bool]) -> str:
    for old, new in WHOLE.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    match = re.match(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    assert match, name
    side, kind, j, rest = match[1], match[3], int(match[4]), match[5]
    i = int(match[2] or 0)
    if kind == "resnets":
        part, _, end = rest.rpartition(".")
        rest = f"{RESNET[part]}.{end}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * j}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (i + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{(layers + 1) * i + layers}.{2 if up_attention[i] else 1}.{rest}"
    block = f"input_blocks.{(layers + 1) * i + j + 1}" if side == "down" else f"output_blocks.{(layers + 1) * i + j}"
    return f"{block}.{1 if kind == 'attentions' else 0}.{rest}"


def vae_key(name: str, levels: int) -> str:
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    name = re.sub(
        r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block.{m[2]}", name
    )
    name = re.sub(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    name = re.sub(
        r"mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)", lambda m: f"mid.attn_1.{attention[m[1]]}", name
    )
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def open_clip(state: Tensors, width: int) -> Tensors:
    """OpenCLIP's text encoder: q, k and v in one matrix, and one block more, whose output Stable Diffusion 2 does not use."""
    out = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": torch.randn(width, width),
        "logit_scale": torch.tensor(1.0),
    }
    names = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    count = len({key.split(".")[2] for key in state if key.startswith("encoder.layers.")})
    for index in range(count + 1):
        source = f"encoder.layers.{min(index, count - 1)}"
        for part in ("weight", "bias"):
            target = f"transformer.resblocks.{index}"
            parts = [state[f"{source}.self_attn.{q}_proj.{part}"] for q in "qkv"]
            out[f"{target}.attn.in_proj_{part}"] = torch.cat(parts)
            for old, new in names.items():
                value = state[f"{source}.{old}.{part}"]
                out[f"{target}.{new}.{part}"] = value if index < count else torch.full_like(value, 9.0)
    return out


def to_ldm(model: Model) -> Tensors:
    """All tensors of a model under their original names."""
    config = model.unet_config
    attention = {i: kind.startswith("CrossAttn") for i, kind in enumerate(config["up_block_types"])}
    out: Tensors = {
        f"model.diffusion_model.{unet_key(name, config['layers_per_block'], attention)}": value
        for name, value in model.unet.state_dict().items()
    }
    levels = len(model.vae_config["block_out_channels"])
    for name, value in model.vae.state_dict().items():
        matrix = re.search(r"attentions\.0\.to_.*weight", name)
        out[f"first_stage_model.{vae_key(name, levels)}"] = value[:, :, None, None] if matrix else value
    text = {name.removeprefix("text_model."): value for name, value in model.text_encoder.state_dict().items()}
    if model.family.name == "sd2":
        width = text["embeddings.token_embedding.weight"].shape[1]
        out |= {f"cond_stage_model.model.{name}": value for name, value in open_clip(text, width).items()}
    else:
        out |= {f"cond_stage_model.transformer.text_model.{name}": value for name, value in text.items()}
    return {name: value.contiguous().clone() for name, value in out.items()}
