"""CLIP score against transformers' towers and projections, one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.judge.metrics.clip import ClipScorer
from s2p_runtime.errors import S2PError

PROMPTS = ["a red apple on a blue background", "a panda on a yellow background", " ".join(["apple"] * 40)]
OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def pictures(size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, size, size, 3), dtype=np.uint8)


@torch.no_grad()
def cosines(model: CLIPModel, pixels: torch.Tensor, folder: Path) -> np.ndarray:
    """Each tower alone, one input at a time, without padding where the prompt is short."""
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    length = model.config.text_config.max_position_embeddings
    values = []
    for picture, prompt in zip(pixels, PROMPTS, strict=True):
        ids = torch.tensor([tokenizer(prompt, truncation=True, max_length=length)["input_ids"]])
        image = model.visual_projection(model.vision_model(pixel_values=picture[None]).pooler_output)[0].double()
        text = model.text_projection(model.text_model(input_ids=ids).pooler_output)[0].double()
        values.append(float(image @ text / (image.norm() * text.norm())))
    return np.array(values)


def test_demo_clip_is_the_direct_cosine() -> None:
    folder = DEMO_MODEL / "clip"
    model = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()
    images = pictures(64)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1
    expected = np.maximum(100 * cosines(model, pixels, folder), 0)
    scorer = ClipScorer(folder, own_judge=True)
    # float32 networks: some 1e-6 of relative rounding in unit vectors, times 100.
    np.testing.assert_allclose(scorer.scores(images, PROMPTS), expected, atol=2e-3)
    assert np.ptp(expected) > 1


@pytest.fixture(scope="module")
def other_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder as transformers saves them, with resizing, cropping and OpenAI's normalisation."""
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "clip", local_files_only=True)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(3)
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**small, "image_size": 24, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def test_clip_folder_is_preprocessed_as_it_says(other_clip: Path) -> None:
    model = CLIPModel.from_pretrained(other_clip, local_files_only=True).eval()
    images = pictures(64)
    pixels = []
    for image in images:
        small = np.array(Image.fromarray(image).resize((30, 30), Image.Resampling.BICUBIC), np.float32)[3:27, 3:27]
        pixels.append(((small / 255 - OPENAI_MEAN) / OPENAI_STD).transpose(2, 0, 1).astype(np.float32))
    expected = np.maximum(100 * cosines(model, torch.from_numpy(np.stack(pixels)), other_clip), 0)
    scorer = ClipScorer(other_clip)
    np.testing.assert_allclose(scorer.scores(images, PROMPTS), expected, atol=2e-3)
    assert scorer.name == "CLIP tiny-clip (ViT 1 x 16, 24 px)"


def test_name_tells_the_own_judge() -> None:
    assert ClipScorer(DEMO_MODEL / "clip", own_judge=True).name == "the model's own CLIP (ViT 4 x 128, 64 px)"


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", "holds no CLIP model"),
        ("preprocessor_config.json", "scaling is unknown"),
        ("model.safetensors", "cannot be loaded"),
    ],
)
def test_refuses_incomplete_folder(other_clip: Path, tmp_path: Path, removed: str, message: str) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(other_clip, folder)
    names = [removed] if (folder / removed).is_file() else ["processor_config.json"]
    for name in names:
        (folder / name).unlink()
    with pytest.raises(S2PError, match=message) as caught:
        ClipScorer(folder)
    assert "\n" not in str(caught.value)
