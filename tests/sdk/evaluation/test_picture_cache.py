"""FP pictures are drawn once, and a damaged cache heals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.judge.evaluation import PictureCache, default_cache_folder
from s2p_mobile.judge.evaluation.drawing import Drawings
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_runtime.plan import SamplingPlan

PROMPTS, SEEDS = ["one", "two"], [4, 5]


class Drawer:
    """Counts how often it draws; each drawing differs from the one before."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Drawings:
        self.calls += 1
        random = np.random.default_rng(self.calls)
        pictures = random.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
        return Drawings(pictures, random.normal(size=(2, 3, 4, 2, 2)).astype(np.float32))


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(None)


@pytest.fixture(scope="module")
def plan(model: Model) -> SamplingPlan:
    return plan_for(model.folder / "scheduler", None, 3)


def test_second_time_is_read(tmp_path: Path, model: Model, plan: SamplingPlan) -> None:
    drawer = Drawer()
    first = PictureCache(tmp_path, model, plan, 4.0).get(PROMPTS, SEEDS, drawer)
    again = PictureCache(tmp_path, model, plan, 4.0).get(PROMPTS, SEEDS, drawer)
    assert drawer.calls == 1
    np.testing.assert_array_equal(again.pictures, first.pictures)
    np.testing.assert_array_equal(again.states, first.states)


def test_anything_that_decides_a_picture_is_in_the_key(tmp_path: Path, model: Model, plan: SamplingPlan) -> None:
    drawer = Drawer()
    other = plan_for(model.folder / "scheduler", None, 4)
    runs: list[Callable[[], Drawings]] = [
        lambda: PictureCache(tmp_path, model, plan, 4.0).get(PROMPTS, SEEDS, drawer),
        lambda: PictureCache(tmp_path, model, plan, 5.0).get(PROMPTS, SEEDS, drawer),
        lambda: PictureCache(tmp_path, model, other, 4.0).get(PROMPTS, SEEDS, drawer),
        lambda: PictureCache(tmp_path, model, plan, 4.0).get(["one", "three"], SEEDS, drawer),
        lambda: PictureCache(tmp_path, model, plan, 4.0).get(PROMPTS, [5, 6], drawer),
        lambda: PictureCache(tmp_path, model, plan, 4.0, device="cuda").get(PROMPTS, SEEDS, drawer),
    ]
    for run in runs:
        run()
    assert drawer.calls == len(runs)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(folder / "drawings.safetensors"),
        lambda folder: (folder / "drawings.safetensors").write_bytes(b"short"),
        lambda folder: (folder / "drawings.safetensors").unlink(),
        lambda folder: (folder / "shard.json").write_text("{"),
    ],
)
def test_damage_is_drawn_again(tmp_path: Path, model: Model, plan: SamplingPlan, damage: Callable[[Path], None]) -> None:
    drawer = Drawer()
    cache = PictureCache(tmp_path, model, plan, 4.0)
    cache.get(PROMPTS, SEEDS, drawer)
    damage(next(cache.folder.iterdir()))
    healed = cache.get(PROMPTS, SEEDS, drawer)
    assert drawer.calls == 2
    np.testing.assert_array_equal(cache.get(PROMPTS, SEEDS, drawer).states, healed.states)
    assert drawer.calls == 2


def test_interruption_leaves_nothing_half_written(tmp_path: Path, model: Model, plan: SamplingPlan) -> None:
    cache = PictureCache(tmp_path, model, plan, 4.0)

    def interrupted() -> Drawings:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get(PROMPTS, SEEDS, interrupted)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S2P_CACHE", str(tmp_path / "own"))
    assert default_cache_folder() == tmp_path / "own" / "fp"
    monkeypatch.delenv("S2P_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "s2p-mobile" / "fp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "s2p-mobile" / "fp"
