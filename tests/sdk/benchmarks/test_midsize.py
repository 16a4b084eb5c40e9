"""The mid-size teacher: its world against what captions say, and the whole chain in miniature, interrupted once."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from demo_training.state import Clock, Phase, load_tensors, run
from demo_training.tokenizer import build_tokenizer, save_tokenizer
from midsize.__main__ import main
from midsize.counts import MINIATURE, TOKENS, Counts
from midsize.rendering import DISTANCES, PALETTE, render
from midsize.scenes import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    distinct_scenes,
    draw_scenes,
    things,
    words,
)
from midsize.teacher import compile_if_possible
from one_start import Claim
from s2p_converters.core.checkpoint import open_checkpoint
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.reference.comparison import compare
from s2p_runtime.errors import S2PError

CPU = torch.device("cpu")


def picture(scene: Scene, size: int = 96, seed: int = 0) -> np.ndarray:
    """uint8 [size, size, 3]"""
    drawn = render([scene], torch.Generator().manual_seed(seed), size, CPU)[0]
    return ((drawn + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def places(shown: np.ndarray, colour: str) -> np.ndarray:
    """Where a picture has a colour of the palette, [n, 2]: row from the top, column."""
    return np.argwhere((shown == np.array(PALETTE[colour])).all(-1))


def test_things_are_as_many_as_planned_and_a_twelfth_is_kept_out() -> None:
    assert len(SHAPES) * len(COLOURS) * len(TEXTURES) * len(SIZES) == len(things()) == 12 * 10 * 6 * 4
    assert (len(RELATIONS), len(BACKGROUNDS)) == (6, 8)
    kinds = {(thing.shape, thing.colour, thing.texture): thing.held_out for thing in things()}
    expected = {key: zlib.crc32("|".join(key).encode()) % 12 == 0 for key in kinds}
    assert kinds == expected
    # 720 kinds, each kept out with one chance in twelve: 60, give or take three deviations of sqrt(720 / 12 * 11 / 12) = 7.4.
    assert abs(sum(kinds.values()) - 60) < 3 * 7.4


def test_training_scenes_show_nothing_that_is_kept_out() -> None:
    random = torch.Generator().manual_seed(3)
    assert not any(thing.held_out for scene in draw_scenes(2000, random) for thing in scene.things)
    held_out = distinct_scenes(500, random, 1.0)
    assert len(set(held_out)) == 500 and all(scene.held_out for scene in held_out)
    assert {len(scene.things) for scene in held_out} == {1, 2, 3}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_its_size_and_lies_within_its_radius(shape: str) -> None:
    line = torch.linspace(-1.5, 1.5, 301)
    y, x = torch.meshgrid(line, line, indexing="ij")
    distance = DISTANCES[shape](x, y)
    inside = distance < 0
    assert (x.abs()[inside].max(), y.abs()[inside].max()) <= (1.02, 1.02)
    # Half a picture at least lies outside, a tenth of the radius' square inside.
    assert 0.1 * 4 < float(inside.double().mean()) * 9 < 4
    # A distance: no place is further from the edge than its neighbour and the way to it, so that an edge is a pixel wide. Float32
    # numbers of about 1 differ by 1e-7, differences of a hundredth are off by some 1e-5 of themselves.
    diagonal = (distance[1:, 1:] - distance[:-1, :-1], distance[1:, :-1] - distance[:-1, 1:])
    for way, steps in ((0.01, (distance.diff(dim=0), distance.diff(dim=1))), (0.01 * 2**0.5, diagonal)):
        assert all(float(step.abs().max()) < way * 1.001 for step in steps)


@pytest.mark.parametrize("relation", RELATIONS)
def test_pictures_are_what_captions_say(relation: str) -> None:
    one, two = Thing("large", "", "red", "square"), Thing("large", "", "blue", "circle")
    scene = Scene((one, two), (relation,), "white")
    assert scene.text == f"a large red square {relation} a large blue circle on a white background"
    for seed in range(5):
        shown = picture(scene, seed=seed)
        red, blue = places(shown, "red"), places(shown, "blue")
        assert len(red) and len(blue) and len(places(shown, "white"))
        down, across = red.mean(0) - blue.mean(0)
        if relation in ("left of", "right of"):
            assert abs(down) < 1.5 and (across < 0) == (relation == "left of")
            assert red[:, 1].max() < blue[:, 1].min() or red[:, 1].min() > blue[:, 1].max()
        elif relation in ("above", "below"):
            assert abs(across) < 1.5 and (down < 0) == (relation == "above")
        else:
            # Both are equally large; whichever is behind loses what the other covers. Pixels on an edge are mixed: the one in front
            # may have as many fewer in its colour as its outline is long, 1.6 radii of 0.4 * 48 pixels four times.
            whole = {
                colour: len(places(picture(Scene((thing,), (), "white"), seed=seed), colour))
                for colour, thing in (("red", one), ("blue", two))
            }
            hidden = {"red": whole["red"] - len(red), "blue": whole["blue"] - len(blue)}
            front, behind = ("red", "blue") if relation == "in front of" else ("blue", "red")
            assert hidden[front] < 4 * 1.6 * 0.4 * 48 < 2 * hidden[behind] / 3


def test_every_scene_stays_in_its_picture() -> None:
    random = torch.Generator().manual_seed(1)
    scenes = draw_scenes(200, random, 0.5)
    shown = ((render(scenes, random, 64, CPU) + 1) * 127.5).round()
    background = torch.tensor([PALETTE[scene.background] for scene in scenes], dtype=torch.float32)[:, :, None, None]
    other = (shown != background).any(1)
    assert not (other[:, 0].any() or other[:, -1].any() or other[:, :, 0].any() or other[:, :, -1].any())
    assert other.flatten(1).any(1).all()


def test_every_word_is_a_token_and_every_caption_fits(tmp_path: Path) -> None:
    save_tokenizer(build_tokenizer(words(), Counts().training.vocabulary, TOKENS), tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    longest = 0
    for scene in draw_scenes(2000, torch.Generator().manual_seed(2), 0.5):
        ids = tokenizer(scene.text).input_ids
        assert len(ids) == len(scene.text.split()) + 2
        longest = max(longest, len(ids))
    assert longest <= TOKENS


def test_time_ends_a_training_and_leads_its_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("demo_training.state.time.monotonic", lambda: now[0])
    line = torch.nn.Linear(1, 1)
    rates: list[int] = []

    def rate(step: int) -> float:
        rates.append(step)
        return 1e-3

    def loss(step: int) -> torch.Tensor:
        now[0] += 3.0
        return line(torch.ones(1, 1)).square().sum()

    phase = Phase("line", {"line": line}, 100, rate, seconds=10.0)
    run(phase, loss, tmp_path, "mine", Clock())
    # Four steps of three seconds; a tenth of a second is one step of the schedule.
    assert rates == [0, 30, 60, 90]
    header = load_tensors(tmp_path / "line.safetensors", "mine")[1]
    assert header == {"step": 4, "seconds": 12.0}
    run(phase, loss, tmp_path, "mine", Clock())
    assert len(rates) == 4, "a finished training goes on"


def test_a_network_that_cannot_be_compiled_trains_as_it_is() -> None:
    network, said = torch.nn.Linear(2, 1), []

    def loss() -> torch.Tensor:
        if network._compiled_call_impl is not None:
            raise RuntimeError("no compiler here\nand more of it")
        return network(torch.ones(1, 2)).sum()

    assert compile_if_possible(network, loss, said.append) >= 0
    assert len(said) == 1 and "not compiled (RuntimeError: no compiler here)" in said[0]
    loss().backward()
    assert network.weight.grad is not None and network.weight.grad.tolist() == [[1.0, 1.0]]


def test_numbers_of_the_plan_are_arguments_and_those_of_a_state_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "midsize",
        "--miniature",
        "--state",
        str(tmp_path / "state"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "counts.json").write_text(json.dumps(vars(MINIATURE)))
    monkeypatch.setattr("sys.argv", [*arguments, "--iterations", "7"])
    assert main() == 2
    assert re.search(r"error: .*was made with iterations 2, not 7; ", capsys.readouterr().err)
    (tmp_path / "other.json").write_text("{}")
    monkeypatch.setattr("sys.argv", [*arguments, "--earlier", str(tmp_path / "other.json")])
    assert main() == 2
    assert "holds no results" in capsys.readouterr().err


def test_the_whole_chain_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    state, out = tmp_path / "state", tmp_path / "out"
    arguments = ["midsize", "--miniature", "--state", str(state), "--out", str(out), "--device", "cpu", "--limit", "3000"]
    monkeypatch.setattr("sys.argv", arguments)
    draw, drawn = Claim.draw, []

    def interrupted(claim: Claim, row: str, seed_set: int) -> None:
        drawn.append(row)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        draw(claim, row, seed_set)

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "draw", interrupted)
        assert main() == 3
    first = json.loads((out / "results.json").read_text())["teachers"]
    assert [list(each["rules"]["top5"]["rows"]) for each in first] == [["start alone"]]
    model = state / "teacher" / "model"
    made = (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns

    # A product's own eye on the folder: an ordinary model, as diffusers draws it.
    opened = open_model(model)
    assert opened.family.name == "sd1" and opened.guidance == MINIATURE.guidance
    assert max(each.relative for each in compare(opened)) < 1e-4  # the limit at which the product refuses a model
    pipeline = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    assert pipeline.unet.config.sample_size * 4 == MINIATURE.size

    lost = json.loads((out / "results.json").read_text())
    lost["teachers"][0] |= {"digest": "another", "page": "## Teacher another"}
    (tmp_path / "earlier.json").write_text(json.dumps(lost))
    monkeypatch.setattr("sys.argv", [*arguments, "--earlier", str(tmp_path / "earlier.json")])
    assert main() == 0
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == made
    mine, earlier = json.loads((out / "results.json").read_text())["teachers"]
    assert earlier["digest"] == "another" and mine["digest"] == opened.unet_sha256[:16]
    found = mine["rules"]["top5"]
    assert set(found["rows"]) == {"start alone", "s2p", "serial", "parallel", "q-diffusion"}
    assert found["rows"]["start alone"] == first[0]["rules"]["top5"]["rows"]["start alone"]
    for other in ("start alone", "serial", "parallel", "q-diffusion"):
        figures = [found["rows"][row]["sets"][0]["each"]["psnr"] for row in ("s2p", other)]
        assert len(figures[0]) == MINIATURE.count
        # The table's difference is that of the pictures.
        assert found["s2p less"][other]["psnr"]["mean"] == pytest.approx(float(np.subtract(*figures).mean()))
    page = (out / "report.md").read_text()
    assert page.index("## Teacher") < page.index("## Teacher another") and page.count("s2p less") == 4
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md", "teacher.png", "log.txt"}
    assert max(path.stat().st_size for path in out.iterdir()) < 16e6
    widths = [
        {entry.name: entry.weight_bits for entry in open_checkpoint(state / "claim" / "top5" / row).manifest.layers}
        for row in ("start-alone", "s2p", "serial", "parallel")
    ]
    assert all(each == widths[0] for each in widths) and set(widths[0].values()) == {4, 8, None}


def test_a_teacher_that_cannot_draw_makes_no_table() -> None:
    from midsize.gate import GateResult

    figures = {"top1": 0.1, "top5": 0.4, "clip_cosine_mean": 0.2}
    assert not GateResult(count=256, drawn=figures, rendered=figures, wanted_top5=0.5).passed
    assert GateResult(count=256, drawn=figures, rendered=figures, wanted_top5=0.4).passed


def test_wrong_results_are_refused(tmp_path: Path) -> None:
    from midsize.report import read_earlier

    with pytest.raises(S2PError, match="holds no results"):
        read_earlier(tmp_path / "none.json")
