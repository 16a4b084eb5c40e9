"""The recipe's formulas, against closed forms and diffusers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from PIL import Image

from demo_training.captions import EmojiObject, all_captions, objects
from demo_training.config import Cycle, DataConfig, DiffusionConfig, TrainConfig, VaeConfig
from demo_training.data import COLOURS, Pictures, find_font, make_sprites, noto_renderer
from demo_training.diffusion import learning_rate, min_snr_weight, new_scheduler, new_unet, stratified_timesteps
from demo_training.vae import fold_statistics, new_autoencoder
from s2p_runtime.errors import S2PError


def square(item: EmojiObject) -> Image.Image:
    return Image.new("RGBA", (40, 40), (200, 10, 30, 255))


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(make_sprites(square, DataConfig()), DataConfig())


def test_pictures_have_the_background_the_size_and_the_place(pictures: Pictures) -> None:
    random = torch.Generator().manual_seed(0)
    captions = list(all_captions()[:14])
    images = ((pictures.compose(captions, random) + 1) * 127.5).round().numpy()
    for caption, image in zip(captions, images, strict=True):
        background = np.array(COLOURS[caption.background])
        drawn = np.argwhere((image != background[:, None, None]).any(0))
        side = 32 if caption.small else 56
        assert (drawn.max(0) - drawn.min(0) + 1).tolist() == [side, side]
        assert len(drawn) == side * side
        centre = (drawn.max(0) + drawn.min(0) + 1) / 2 - 32
        assert np.abs(centre).max() <= (16 if caption.small else 4)
        assert image[:, drawn[0][0], drawn[0][1]].tolist() == [200, 10, 30]


def test_half_transparent_pixels_are_blended() -> None:
    glass = make_sprites(lambda item: Image.new("RGBA", (8, 8), (255, 255, 255, 128)), DataConfig())
    caption = next(c for c in all_captions() if c.background == "black" and not c.small)
    image = Pictures(glass, DataConfig()).compose([caption], torch.Generator().manual_seed(0))
    value = float((image[0, 0, 32, 32] + 1) * 127.5)
    # 128/255 of white over (20, 20, 20); 8-bit premultiplied storage is off by at most half a step for colour and alpha each.
    assert value == pytest.approx(255 * 128 / 255 + 20 * (1 - 128 / 255), abs=1.0)


def test_training_draws_no_held_out_caption(pictures: Pictures) -> None:
    drawn = pictures.draw(4000, torch.Generator().manual_seed(1))
    assert not any(caption.held_out for caption in drawn)
    whole = pictures.draw(1904, torch.Generator().manual_seed(1), held_out_too=True, distinct=True)
    assert len({caption.text for caption in whole}) == 1904


def test_sprites_that_would_leave_the_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="does not stay inside"):
        DataConfig(normal_size=60, normal_jitter=4)


def test_a_missing_font_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_training.data._FONT_PLACES", (tmp_path / "none.ttf",))
    with pytest.raises(S2PError, match="fonts-noto-color-emoji"):
        find_font()
    with pytest.raises(S2PError, match="does not exist"):
        find_font(tmp_path / "mine.ttf")
    (tmp_path / "text.ttf").write_text("not a font")
    with pytest.raises(S2PError, match="as Noto Color Emoji"):
        noto_renderer(tmp_path / "text.ttf")


def test_the_font_has_a_picture_of_every_object() -> None:
    try:
        font = find_font()
    except S2PError:
        pytest.skip("Noto Color Emoji is not installed")
    render = noto_renderer(font)
    pictures = {item.name: np.asarray(render(item)).tobytes() for item in objects()}
    assert len(set(pictures.values())) == 136  # a missing glyph would be the same empty box twice


def test_shipped_judge_recognises_the_rendered_objects() -> None:
    """The renderer makes the pictures the shipped model was trained on: its judge knows them."""
    try:
        render = noto_renderer(find_font())
    except S2PError:
        pytest.skip("Noto Color Emoji is not installed")
    from transformers import CLIPModel, CLIPTokenizer

    from s2p_mobile.demo import DEMO_MODEL

    pictures = Pictures(make_sprites(render, DataConfig()), DataConfig())
    captions = [c for c in all_captions() if c.background == "blue" and not c.small]
    clip = CLIPModel.from_pretrained(DEMO_MODEL / "clip", local_files_only=True).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "clip", local_files_only=True)
    ids = tokenizer([c.text for c in captions], padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = clip(input_ids=ids, pixel_values=pictures.compose(captions, torch.Generator().manual_seed(0))).logits_per_image
    right = (logits.argmax(1) == torch.arange(len(captions))).float().mean()
    # The model card: all but 3 of the 136 objects are known. A tenth wrong leaves room for the position jitter.
    assert right >= 0.9


def test_min_snr_weight_against_diffusers() -> None:
    scheduler = new_scheduler()
    timesteps = torch.arange(0, 1000, 37)
    ratio = compute_snr(scheduler, timesteps)
    expected = torch.minimum(ratio, torch.full_like(ratio, 5.0)) / ratio
    # Both divide float32 sums of the same betas: 1e-4 is far above their rounding, far below any wrong formula.
    torch.testing.assert_close(min_snr_weight(scheduler.alphas_cumprod, timesteps, 5.0), expected, rtol=1e-4, atol=0)


def test_stratified_timesteps_take_one_from_each_part() -> None:
    for seed in range(20):
        timesteps = stratified_timesteps(16, 1000, torch.Generator().manual_seed(seed))
        assert (timesteps * 16 // 1000).tolist() == pytest.approx(list(range(16)), abs=1)
        edges = torch.arange(17) * 62.5
        assert ((timesteps >= edges[:-1].floor()) & (timesteps < edges[1:])).all()


def test_learning_rate_cycles() -> None:
    config = DiffusionConfig(cycles=(Cycle(1e-3, 100), Cycle(6e-4, 50)))
    assert [learning_rate(config, step) for step in (0, 29)] == [1e-3, 1e-3]
    assert learning_rate(config, 65) == pytest.approx(5e-4)  # half-way down the cosine: half the peak
    assert learning_rate(config, 100) == 6e-4
    assert learning_rate(config, 99) < 1e-6 * 2


def test_scaling_the_recipe_scales_every_step_count() -> None:
    config = TrainConfig().scaled(0.5)
    assert config.vae.steps * 2 == TrainConfig().vae.steps
    assert [c.steps * 2 for c in config.diffusion.cycles] == [c.steps for c in TrainConfig().diffusion.cycles]
    assert config.fingerprint() != TrainConfig().fingerprint()


def test_folding_normalises_the_latents_and_keeps_the_reconstruction() -> None:
    torch.manual_seed(0)
    vae = new_autoencoder(VaeConfig(channels=(8, 8, 16))).double().eval()
    images = torch.rand(6, 3, 64, 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        decoded = vae.decode(before.mean).sample
        mean, deviation = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        spread = before.std / deviation.view(1, -1, 1, 1)
        fold_statistics(vae, mean, deviation)
        after = vae.encode(images).latent_dist
        again = vae.decode(after.mean).sample
    scaled = after.mean * vae.config.scaling_factor
    # Exact in exact arithmetic; float64 leaves about 1e-12 after a network of this depth.
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(after.std * vae.config.scaling_factor, spread, rtol=1e-9, atol=0)
    torch.testing.assert_close(again, decoded, rtol=0, atol=1e-9)


def test_posterior_starts_narrow() -> None:
    torch.manual_seed(0)
    posterior = new_autoencoder(VaeConfig()).encode(torch.rand(2, 3, 64, 64) * 2 - 1).latent_dist
    assert float(posterior.logvar.mean()) == pytest.approx(-5.0, abs=1.0)


def test_default_unet_is_the_shipped_one() -> None:
    from diffusers import UNet2DConditionModel

    from s2p_mobile.demo import DEMO_MODEL

    shipped = UNet2DConditionModel.from_pretrained(DEMO_MODEL / "unet", local_files_only=True)
    made = new_unet(DiffusionConfig())
    assert {name: tuple(p.shape) for name, p in made.named_parameters()} == {
        name: tuple(p.shape) for name, p in shipped.named_parameters()
    }
