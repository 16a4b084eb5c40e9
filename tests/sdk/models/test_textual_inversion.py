"""Learned words, in saved pipelines and as files, against diffusers' own pipelines."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_mobile.cli.app import run
from s2p_mobile.sources.components import checkpoint_components
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.open_source import open_source
from s2p_mobile.sources.opening import as_model, open_model
from s2p_mobile.sources.unpickle import main as unpickle
from s2p_runtime.errors import S2PError, S2PWarning

MakeModel = Callable[..., Path]

TEXT = "a <cat> in <style>!"
SAME = 1e-6
"""Of the largest value: the same modules on the same ids; only threads could reorder a sum."""


def vectors(seed: int, *shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pipeline(folder: Path) -> Any:
    """diffusers' own pipeline of a model's folder."""
    model = Model(folder)
    parts: dict[str, Any] = {
        "vae": model.vae, "unet": model.unet, "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }  # fmt: skip
    if model.family.name != "sdxl":
        return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    second = {
        "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        "tokenizer_2": CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
    }
    return StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)


@torch.no_grad()
def told(pipe: Any, text: str) -> list[np.ndarray]:
    """What diffusers tells the U-Net about a text."""
    found = pipe.encode_prompt(text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    return [value.numpy() for value in found if value is not None]


def assert_told(model: Any, pipe: Any, text: str) -> None:
    ours = model.conditioner.encode(text, guided=False).conditions
    for found, expected in zip(ours, told(pipe, text), strict=True):
        assert np.abs(found - expected).max() <= SAME * np.abs(expected).max()


@pytest.fixture()
def files(tmp_path: Path) -> dict[str, Path]:
    tensors = {
        "cat": {"<cat>": vectors(1, 64)},
        "style": {"emb_params": vectors(2, 3, 64)},
        "half": {"<cat>": vectors(1, 1, 64).half()},
        "wide": {"<cat>": vectors(3, 2, 48)},
        "xl": {"clip_l": vectors(4, 2, 32), "clip_g": vectors(5, 2, 32)},
        "twice": {"clip_l": vectors(4, 2, 32), "text_encoders_0": vectors(5, 2, 32)},
        "first": {"<cat>": vectors(6, 2, 32)},
        "several": {"<a>": vectors(7, 64), "<b>": vectors(8, 64)},
        "cube": {"<cat>": vectors(9, 2, 2, 64)},
        "nan": {"<cat>": torch.full((64,), float("nan"))},
        "numbers": {"<cat>": torch.ones(64, dtype=torch.int64)},
    }
    for name, content in tensors.items():
        save_file(content, tmp_path / f"{name}.safetensors")
    return {name: tmp_path / f"{name}.safetensors" for name in tensors}


def test_files_are_read_as_diffusers_reads_them(make_model: MakeModel, files: dict[str, Path]) -> None:
    folder = make_model("sd1")
    pipe = pipeline(folder)
    pipe.load_textual_inversion(str(files["cat"]))
    pipe.load_textual_inversion(str(files["style"]), token="<style>")
    model = open_model(folder, embeddings=[files["cat"], f"{files['style']}:<style>"])
    assert model.name == "random-sd1+cat+style" and model.defaults.checkpoint is None
    for text in (TEXT, "A <CAT> in <STYLE>", "<style> <style>_1", "an apple"):
        assert_told(model, pipe, text)
    without = Model(folder).conditioner.encode(TEXT, guided=False).conditions[0]
    assert np.abs(without - told(pipe, TEXT)[0]).max() > 0.01 * np.abs(without).max()
    half = open_model(folder, embeddings=str(files["half"]))
    rows = half.conditioner.text_encoder.get_input_embeddings().weight  # type: ignore[attr-defined]
    assert torch.equal(rows[1026], vectors(1, 1, 64).half().float()[0]) and rows.shape[0] == 1027


def test_a_saved_pipeline_knows_its_words(make_model: MakeModel, files: dict[str, Path], tmp_path: Path) -> None:
    pipe = pipeline(make_model("sd1"))
    pipe.load_textual_inversion(str(files["style"]), token="<style>")
    pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "tokenizer" / "vocab.json").exists()
    model = Model(tmp_path / "saved")
    for text in (TEXT, "<style>"):
        assert_told(model, pipe, text)
    with pytest.raises(S2PError, match="the model's tokenizer knows '<style>' already; give another word with FILE:word"):
        open_model(tmp_path / "saved", embeddings=f"{files['style']}:<style>")


@pytest.mark.parametrize("end", [1025, 2], ids=["end-of-text", "largest"])
def test_both_encoders_of_sdxl(make_model: MakeModel, files: dict[str, Path], tmp_path: Path, end: int) -> None:
    """An old configuration (end of text 2) pools the largest id, which is the learned word then; programs do the same."""
    from s2p_converters.targets.float_modules import text_encoders_module

    folder = make_model("sdxl")
    config = folder / "text_encoder_2" / "config.json"
    config.write_text(re.sub(r'"eos_token_id": \d+', f'"eos_token_id": {end}', config.read_text()))
    pipe, loaded = pipeline(folder), load_file(files["xl"])
    for key, part in (("clip_l", ""), ("clip_g", "_2")):
        given = {"tokenizer": getattr(pipe, f"tokenizer{part}"), "text_encoder": getattr(pipe, f"text_encoder{part}")}
        pipe.load_textual_inversion(loaded[key], token="<style>", **given)
    model = open_model(folder, embeddings=f"{files['xl']}:<style>")
    for text in ("a <style> apple!", "wow!! a cat"):
        assert_told(model, pipe, text)
    words = ["--method", "rtn", "--recipe", "w8a8", "--scheduler", "ddim", "--steps", "1", "--embedding"]
    assert run(["quantize", str(folder), "--out", str(tmp_path / "checkpoint"), *words, f"{files['xl']}:<style>"]) == 0
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.manifest.source.name == "random-sdxl+xl"
    assert_told(checkpoint_components(checkpoint), pipe, "a <style> apple!")
    ids = checkpoint_components(checkpoint).conditioner.token_ids(["a <style> apple!"])
    assert 1026 in ids["token_ids"] and 1026 in ids["second_token_ids"] and 0 in ids["second_token_ids"]
    with torch.no_grad():
        found = text_encoders_module(checkpoint)(*(torch.from_numpy(rows) for rows in ids.values()))
    for output, expected in zip(found, told(pipe, "a <style> apple!"), strict=True):
        assert np.abs(output.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_file_without_parts_is_for_the_first_encoder(make_model: MakeModel, files: dict[str, Path]) -> None:
    folder = make_model("sdxl")
    pipe = pipeline(folder)
    pipe.load_textual_inversion(str(files["first"]))
    assert_told(open_model(folder, embeddings=files["first"]), pipe, "a <cat>")


def test_the_names_of_diffusers_own_trainers(make_model: MakeModel, files: dict[str, Path], tmp_path: Path) -> None:
    folder, loaded = make_model("sdxl"), load_file(files["xl"])
    path = tmp_path / "numbered.safetensors"
    save_file({"text_encoders_0": loaded["clip_l"], "text_encoders_1": loaded["clip_g"]}, path)
    pipe = pipeline(folder)
    for key, part in (("text_encoders_0", ""), ("text_encoders_1", "_2")):
        given = {"tokenizer": getattr(pipe, f"tokenizer{part}"), "text_encoder": getattr(pipe, f"text_encoder{part}")}
        pipe.load_textual_inversion(load_file(path)[key], token="<style>", **given)
    assert_told(open_model(folder, embeddings=f"{path}:<style>"), pipe, "a <style> apple!")


def test_a_word_that_is_part_of_another(make_model: MakeModel, files: dict[str, Path], tmp_path: Path) -> None:
    """diffusers writes the shorter one out within the longer one too, whichever of both comes first."""
    folder = make_model("sd1")
    save_file({"emb_params": vectors(3, 2, 64)}, tmp_path / "two.safetensors")
    pipe = pipeline(folder)
    pipe.load_textual_inversion(str(tmp_path / "two.safetensors"), token="easyneg")
    pipe.load_textual_inversion(str(files["style"]), token="easynegv2")
    assert "easyneg_1v2" in pipe.maybe_convert_prompt("easyneg easynegv2", pipe.tokenizer)
    given = [f"{tmp_path / 'two.safetensors'}:easyneg", f"{files['style']}:easynegv2"]
    words = "'easyneg' of several vectors(, which)? is part of (the|its) word 'easynegv2'"
    for order in (given, given[::-1]):
        with pytest.raises(S2PError, match=f"{words}, .*; give another word with FILE:word") as caught:
            open_model(folder, embeddings=order)
        assert caught.value.field == "embedding"
    pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises(S2PError, match=f"tokenizer has the word {words}: .*; choose another word"):
        open_model(tmp_path / "saved")
    pipe = pipeline(folder)
    pipe.load_textual_inversion(str(files["cat"]), token="easyneg")
    pipe.load_textual_inversion(str(files["style"]), token="easynegv2")
    model = open_model(folder, embeddings=[f"{files['cat']}:easyneg", given[1]])
    assert_told(model, pipe, "easyneg easynegv2 easyneg")


def test_an_encoder_that_is_not_to_see_the_filling(make_model: MakeModel) -> None:
    """diffusers' pipelines of 1.x and 2.x give their encoder a mask then, that of XL does not."""
    changes = {}
    for family in ("sd1", "sdxl"):
        folder = make_model(family)
        pipe = pipeline(folder)
        unmasked = told(pipe, "a cat")[0]
        config = folder / "text_encoder" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "use_attention_mask": True}))
        pipe.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
        changes[family] = np.abs(told(pipe, "a cat")[0] - unmasked).max()
        if family == "sd1":
            with pytest.raises(S2PError, match=r"text_encoder/config\.json .* says use_attention_mask: .*; give a model whose"):
                open_model(folder)
        else:
            assert_told(open_model(folder), pipe, TEXT)
    assert changes["sd1"] > 0.01 and changes["sdxl"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["none.safetensors"], r"embedding file .*none\.safetensors does not exist; give FILE or FILE:word"),
        (
            ["cat.safetensors:"],
            r"there is no word behind .*cat\.safetensors:; give FILE:word, for example cat\.safetensors:<style>",
        ),
        (["style.safetensors"], r"names no word that stands for it; give one with FILE:word"),
        (["wide.safetensors"], "has vectors of 48 numbers, text_encoder takes 64; it is for another model"),
        (["xl.safetensors:<w>"], "has vectors for text_encoder_2, which the model does not have; it is for another model"),
        (["several.safetensors"], "is no textual inversion: it has 2 tensors and not one"),
        (["twice.safetensors:<w>"], "has vectors for text_encoder twice, text_encoders_0 among them"),
        (["cube.safetensors"], r"<cat> of shape \[2, 2, 64\] is no list of vectors"),
        (["numbers.safetensors"], "is no list of vectors"),
        (["nan.safetensors"], "has an infinity or NaN in <cat>"),
        (["cat.safetensors", "cat.safetensors"], "the model's tokenizer knows '<cat>' already"),
        (["cat.safetensors:a</w>"], "the model's tokenizer knows 'a</w>' already"),
        (["notes.txt"], r"notes\.txt is no \.safetensors file"),
        (["damaged.safetensors"], "cannot be read as safetensors"),
    ],
)
def test_anything_else_is_one_line(
    family_models: dict[str, Path], files: dict[str, Path], tmp_path: Path, given: Sequence[str], message: str
) -> None:
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(S2PError, match=message) as caught:
        open_model(family_models["sd1"], embeddings=[tmp_path / name for name in given])
    assert "\n" not in str(caught.value) and caught.value.field == "embedding"


@pytest.mark.parametrize("content", ["automatic", "diffusers"])
def test_the_way_out_of_a_pickle_works(make_model: MakeModel, tmp_path: Path, content: str) -> None:
    wanted = vectors(1, 2, 64)
    torch.save(
        {"string_to_param": {"*": torch.nn.Parameter(wanted)}} if content == "automatic" else {"<w>": wanted}, tmp_path / "w.pt"
    )
    folder = make_model("sd1")
    with pytest.raises(
        S2PError, match=r"w\.pt is a pickle, which can run code and is not read; write safetensors with: "
    ) as caught:
        open_model(folder, embeddings=tmp_path / "w.pt")
    command = shlex.split(str(caught.value).partition("with: ")[2].partition(" (")[0])
    assert command[0] == sys.executable and unpickle(command[3:]) == 0
    model = open_model(folder, embeddings=f"{tmp_path / 'w.safetensors'}:<w>")
    assert torch.equal(model.conditioner.text_encoder.get_input_embeddings().weight[1026:], wanted)  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", ["automatic", "diffusers"])
def test_a_pickle_that_is_allowed(make_model: MakeModel, tmp_path: Path, content: str) -> None:
    wanted, path = vectors(1, 2, 64), tmp_path / "learned_embeds.bin"
    old = {"string_to_param": {"*": torch.nn.Parameter(wanted)}, "name": "w"}
    torch.save(old if content == "automatic" else {"<w>": wanted}, path)
    folder = make_model("sd1")
    with pytest.raises(S2PError, match=r"is a pickle, .* or allow that reading here with `allow_pickle`"):
        open_model(folder, embeddings=path)
    pipe = pipeline(folder)
    pipe.load_textual_inversion(str(path), token="<w>")
    with pytest.warns(S2PWarning, match=r"learned_embeds\.bin is a pickle; only its weights were read"):
        model = open_model(folder, embeddings=f"{path}:<w>", allow_pickle=True)
    assert_told(model, pipe, "a <w> apple")
    torch.save({"string_to_param": {"*": wanted, "other": wanted}}, path)
    with pytest.warns(S2PWarning), pytest.raises(S2PError, match="it has 2 tensors and not one"):
        open_model(folder, embeddings=f"{path}:<w>", allow_pickle=True)
    torch.save({"<w>": Path("code")}, path)
    with pytest.raises(S2PError, match=r"learned_embeds\.bin cannot be read as weights \(it wants pathlib\.\w+, which"):
        open_model(folder, embeddings=path, allow_pickle=True)


def test_what_is_open_or_finished_learns_nothing(
    family_models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    model = Model(family_models["sd1"])
    with pytest.raises(S2PError, match="is open already; give `embedding` where it is loaded"):
        as_model(model, embedding=[files["cat"]])
    (tmp_path / "s2p.json").write_text("{}")
    with pytest.raises(
        S2PError, match="knows the words that it knows; add others to the model before, with quantize `embedding`"
    ):
        open_source(tmp_path, embedding=[files["cat"]])
