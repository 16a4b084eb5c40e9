"""Golden runs replayed without an engine, and what happens where something is not as recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from s2p_runtime.__main__ import main
from s2p_runtime.artist import FromPicture, draw
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file
from s2p_runtime.pictures import to_picture
from s2p_runtime.replay import ReplayBackend, replay

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["replay", "ancestral", "chunked", "pooled", "picture"]


def fixture(name: str) -> Bundle:
    return open_bundle(FIXTURES / f"{name}.s2pmobile")


@pytest.fixture()
def altered(tmp_path: Path) -> Callable[[str, Callable[[NDArray[Any]], NDArray[Any]]], Path]:
    """``altered(tensor, change)``: the bundle ``replay`` with another tensor in its golden run, and the checksum of that."""

    def make(tensor: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Path:
        folder = tmp_path / "replay.s2pmobile"
        shutil.copytree(FIXTURES / "replay.s2pmobile", folder)
        path = folder / "golden" / "first.safetensors"
        tensors = load_file(path)
        save_file(tensors | {tensor: np.ascontiguousarray(change(tensors[tensor]))}, path)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["golden/first.safetensors"] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_all_calls_ends_in_its_latents(name: str) -> None:
    bundle = fixture(name)
    result = replay(bundle, bundle.manifest.golden[0])
    assert result.ok and result.tokens_ok and result.recorded_calls == len(bundle.manifest.plan.calls)
    # Numbers that Python wrote and reads again.
    assert result.noise_error == 0.0 and result.latents_error == 0.0


def test_a_run_with_some_calls_is_replayed_as_far_as_it_goes() -> None:
    bundle = fixture("replay")
    result = replay(bundle, bundle.manifest.golden[1])
    assert result.ok and result.recorded_calls == 2 and result.latents_error is None


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_way_from_prompt_to_picture(name: str) -> None:
    """Tokenizer, prompt, noise, plan, guidance and decoder scaling lead to exactly what was recorded; anything else is refused."""
    bundle = fixture(name)
    run = bundle.manifest.golden[0]
    backend = ReplayBackend(bundle, run)
    drawing = draw(BundleArtist(bundle, backend), run.prompt, run.seed)
    assert np.array_equal(drawing.picture, to_picture(backend.tensors["image"]))
    with pytest.raises(S2PError, match="has not recorded what text_encoder makes of these inputs; give the run's own prompt"):
        draw(BundleArtist(bundle, backend), f"not {run.prompt}", run.seed)
    with pytest.raises(S2PError, match="has not recorded the picture of these latents"):
        draw(BundleArtist(bundle, backend), run.prompt, run.seed + 1)


def test_calls_that_are_not_recorded_are_refused() -> None:
    bundle = fixture("replay")
    backend = ReplayBackend(bundle, bundle.manifest.golden[1])
    conditions = {"encoder_hidden_states": backend.tensors["text_embeddings"]}
    sample = np.zeros(backend.tensors["noise_pred"].shape[1:], np.float32)
    assert np.array_equal(backend.predict(sample, 5, conditions), backend.tensors["noise_pred"][1])
    for call, given, told in (
        (1, sample, conditions),
        (5, sample[:1], conditions),
        (5, sample, {"encoder_hidden_states": conditions["encoder_hidden_states"] + 1}),
    ):
        with pytest.raises(S2PError, match=f"has not recorded call {call} with these inputs"):
            backend.predict(given, call, told)


@pytest.mark.parametrize(
    ("tensor", "verdict"),
    [
        ("token_ids", "tokens other ones, noise 0.0e+00 off, latents 0.0e+00 off"),
        ("initial_latents", "tokens as recorded, noise 5.0e-01 off"),
        ("quantized_latents", "tokens as recorded, noise 0.0e+00 off, latents 5.0e-01 off"),
    ],
)
def test_what_differs_is_said(
    altered: Callable[[str, Callable[[NDArray[Any]], NDArray[Any]]], Path],
    capsys: pytest.CaptureFixture[str],
    tensor: str,
    verdict: str,
) -> None:
    """Twice the recorded latents are half of themselves away from the right ones."""
    folder = altered(tensor, lambda values: values[::-1] if tensor == "token_ids" else values * 2)
    assert main([str(folder)]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "FAILED" in line)
    assert line.startswith("golden first") and verdict in line
    assert main([str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_people_read_what_a_bundle_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FIXTURES / "replay.s2pmobile")]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["pictures"].strip().startswith("64x64, ")
    assert lines["golden first"].strip() == "tokens, noise and latents after 6 calls as recorded"
    assert lines["golden second"].strip() == "tokens and noise as recorded; holds 2 of 6 calls, too few to go on"


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_a_run_from_its_own_picture_ends_where_the_record_says() -> None:
    bundle = fixture("picture")
    run, starts = bundle.manifest.golden[0], bundle.manifest.image_starts
    backend = ReplayBackend(bundle, run)
    picture = to_picture(backend.tensors["image"])
    calls: list[int] = []
    drawn = draw(
        BundleArtist(bundle, backend),
        run.prompt,
        run.seed,
        None,
        lambda call, *_: calls.append(call),
        FromPicture(picture, 0.6),
    )
    assert calls == [2, 3, 4, 5] and starts is not None and int(backend.tensors["from_picture_step"][0]) == 2
    np.testing.assert_array_equal(drawn.latents, backend.tensors["from_picture_latents"])
    with pytest.raises(S2PError, match="has not recorded the latents of this picture"):
        draw(BundleArtist(bundle, backend), run.prompt, run.seed, image=FromPicture(picture[::-1].copy(), 0.6))


def test_a_bundle_without_an_encoder_says_how_to_get_one() -> None:
    bundle = fixture("replay")
    artist = BundleArtist(bundle, ReplayBackend(bundle, bundle.manifest.golden[0]))
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(S2PError, match=r"has no VAE encoder, so it cannot start from a picture; convert with `image_to_image`"):
        draw(artist, bundle.manifest.golden[0].prompt, 1, image=FromPicture(picture, 0.5))
