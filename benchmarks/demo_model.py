"""How well a demo model draws: CLIP cosine, top-1 and top-5 of its own judge over held-out captions.

    python benchmarks/demo_model.py [--model DIR] [--count 64] [--threads 2] [--json FILE]

Prompt k of the held-out captions is drawn from the SDK's own noise (Philox, seed ``--seed + k``) by DDIM with trailing spacing,
in float32. The judge is ``DIR/clip``; a caption is right when its cosine is the highest among all 1,904.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from demo_training.captions import all_captions, held_out_captions
from demo_training.data import COLOURS
from s2p_mobile.demo import DEMO_MODEL
from s2p_runtime.noise import gaussian


def _ids(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def draw(model: Path, prompts: list[str], seed: int, steps: int, guidance: float, batch: int) -> torch.Tensor:
    """Pictures float32 [N, 3, 64, 64] in [-1, 1]; picture k comes from seed ``seed + k``."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder", local_files_only=True).float().eval()
    unet = UNet2DConditionModel.from_pretrained(model / "unet", local_files_only=True).float().eval()
    vae = AutoencoderKL.from_pretrained(model / "vae", local_files_only=True).float().eval()
    scheduler = DDIMScheduler.from_pretrained(model / "scheduler", local_files_only=True)
    shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    empty = text_encoder(input_ids=_ids(tokenizer, [""])).last_hidden_state
    pictures = []
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        states = text_encoder(input_ids=_ids(tokenizer, texts)).last_hidden_state
        states = torch.cat([empty.expand_as(states), states])
        latents = torch.cat([torch.from_numpy(gaussian(seed + start + k, shape)) for k in range(len(texts))])
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            without, given = unet(torch.cat([latents, latents]), timestep, encoder_hidden_states=states).sample.chunk(2)
            latents = scheduler.step(without + guidance * (given - without), timestep, latents).prev_sample
        pictures.append(vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1.0, 1.0))
    return torch.cat(pictures)


@torch.no_grad()
def judge(model: Path, pictures: torch.Tensor, prompts: list[str], captions: list[str]) -> dict[str, float]:
    """Mean cosine with the right caption, and how often it is first and among the first five of all captions.

    Args:
        model: folder with ``clip/``.
        pictures: float32 [N, 3, size, size] in [-1, 1].
        prompts: N captions, each one of ``captions``.
    """
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)
    clip = CLIPModel.from_pretrained(model / "clip", local_files_only=True).float().eval()
    # The whole model on one picture and the captions in parts: embeddings without depending on the getters' return types.
    texts = torch.cat(
        [
            clip(input_ids=_ids(tokenizer, captions[i : i + 256]), pixel_values=pictures[:1]).text_embeds
            for i in range(0, len(captions), 256)
        ]
    )
    images = clip(input_ids=_ids(tokenizer, captions[:1]), pixel_values=pictures).image_embeds
    cosine = images @ texts.t()  # both are of unit length
    right = torch.tensor([captions.index(prompt) for prompt in prompts])
    own = cosine.gather(1, right[:, None])
    rank = (cosine > own).sum(1)
    return {
        "clip_cosine_mean": own.mean().item(),
        "top1": (rank == 0).float().mean().item(),
        "top5": (rank < 5).float().mean().item(),
    }


def background_right(pictures: torch.Tensor, prompts: list[str]) -> float:
    """Share of pictures whose four corners' median colour is nearest to the colour that the caption names."""
    names = list(COLOURS)
    palette = torch.tensor([COLOURS[name] for name in names], dtype=torch.float32)
    corners = torch.cat([pictures[..., y, x][..., None] for y in (1, -2) for x in (1, -2)], -1).median(-1).values
    nearest = torch.cdist((corners + 1.0) * 127.5, palette).argmin(1)
    found = [names[int(i)] for i in nearest]
    return float(np.mean([prompt.split()[-2] == name for prompt, name in zip(prompts, found, strict=True)]))


def sheet(pictures: torch.Tensor, columns: int = 8) -> Image.Image:
    """All pictures in rows of ``columns``, 8-bit RGB."""
    array = ((pictures + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = -(-len(array) // columns)
    grid = np.zeros((rows * columns, *array.shape[1:]), np.uint8)
    grid[: len(array)] = array
    height, width = array.shape[1:3]
    return Image.fromarray(
        grid.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, help="pipeline folder with clip/")
    parser.add_argument("--count", type=int, default=64, help="held-out captions to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--sheet", type=Path, help="write all pictures as one PNG there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    prompts = held_out_captions()[: options.count]
    start = time.perf_counter()
    pictures = draw(options.model, prompts, options.seed, options.steps, options.guidance, options.batch)
    seconds = time.perf_counter() - start
    figures = {
        "count": len(prompts),
        "steps": options.steps,
        "guidance": options.guidance,
        "seed": options.seed,
        **judge(options.model, pictures, prompts, [caption.text for caption in all_captions()]),
        "background_right": background_right(pictures, prompts),
        "seconds_per_picture": seconds / len(prompts),
    }
    for name, value in figures.items():
        print(f"{name:20s} {value:.4f}" if isinstance(value, float) else f"{name:20s} {value}")
    if options.sheet:
        sheet(pictures).save(options.sheet)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
