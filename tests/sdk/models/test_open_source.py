"""What a path is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import s2p_mobile
from s2p_converters.core.checkpoint import open_checkpoint
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.open_source import as_bundle, as_checkpoint, is_model, open_source, source_kind
from s2p_mobile.sources.opening import open_model
from s2p_runtime.bundle import open_bundle
from s2p_runtime.errors import S2PError

BUNDLE = Path(__file__).parents[2] / "fixtures" / "ancestral.s2pmobile"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with default_checkpoint(open_model(None)) as folder:
        return Path(shutil.copytree(folder, tmp_path_factory.mktemp("checkpoints") / "ck"))


def test_every_kind_is_known_by_its_files(checkpoint: Path, tiny_model: Model, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"")
    kinds = {checkpoint: "checkpoint", BUNDLE: "bundle", tiny_model.folder: "model", tmp_path: "other"}
    kinds[tmp_path / "file.safetensors"] = "model"
    assert {path: source_kind(path) for path in kinds} == kinds
    assert source_kind(None) == source_kind(tiny_model) == "model"
    assert source_kind(open_checkpoint(checkpoint)) == "checkpoint" and source_kind(open_bundle(BUNDLE)) == "bundle"
    assert is_model(tmp_path) and not is_model(BUNDLE)
    with pytest.raises(S2PError, match="does not exist"):
        source_kind(tmp_path / "nothing")


def test_what_is_open_is_given_back(checkpoint: Path, tiny_model: Model) -> None:
    opened = open_checkpoint(checkpoint)
    assert open_source(opened) is opened is as_checkpoint(opened)
    bundle = open_bundle(BUNDLE)
    assert open_source(bundle) is bundle is as_bundle(bundle)
    assert open_source(tiny_model) is tiny_model and open_source(str(tiny_model.folder)).folder == tiny_model.folder
    assert open_source(None).folder == open_model(None).folder


def test_another_kind_is_named(checkpoint: Path, tiny_model: Model, tmp_path: Path) -> None:
    for given, wanted, message in (
        (checkpoint, as_bundle, "is a checkpoint; give a bundle"),
        (BUNDLE, as_checkpoint, "is a bundle; give a checkpoint"),
        (tiny_model.folder, as_bundle, "is a model; give a bundle"),
        (tmp_path, as_bundle, "has no manifest.json"),
        (tmp_path / "nothing", as_checkpoint, "does not exist"),
    ):
        with pytest.raises(S2PError, match=message):
            wanted(given)
    with pytest.raises(S2PError, match="holds its weights as they are; fuse LoRA"):
        open_source(BUNDLE, lora=["a.safetensors"])
    with pytest.raises(S2PError, match="neither a checkpoint nor a bundle"):
        s2p_mobile.inspect(tiny_model.folder)


def test_functions_take_what_is_open_or_its_path(checkpoint: Path) -> None:
    assert (
        s2p_mobile.inspect(checkpoint) == s2p_mobile.inspect(str(checkpoint)) == s2p_mobile.inspect(open_checkpoint(checkpoint))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3}, "was made for one sampling plan"),
        ({"guidance": 3.0}, "was made for one sampling plan"),
        ({"size": (64, 64)}, "draws one size"),
        ({"lora": ["a.safetensors"]}, "fuse LoRA into the model before"),
        ({"release_chunks": True}, "is for bundles"),
        ({"seed": -1}, "seed -1 is out of range"),
    ],
)
def test_what_does_not_go_with_a_checkpoint(checkpoint: Path, settings: dict[str, object], message: str) -> None:
    for source in (checkpoint, open_checkpoint(checkpoint)):
        with pytest.raises(S2PError, match=message) as caught:
            s2p_mobile.generate(source, "a cat", **settings)  # type: ignore[arg-type]
        assert caught.value.field in (*settings, "scheduler")
