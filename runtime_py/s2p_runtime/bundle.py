"""The bundle: everything an app needs to draw pictures, in one folder, with the proof that it draws the right ones.

A bundle is read with :func:`open_bundle`, which checks every file against its SHA-256 before anything is used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

from s2p_runtime.component import TARGET_PATTERN, Component
from s2p_runtime.contract import Contract, SparseContract, read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import inside, list_files, sha256_file
from s2p_runtime.plan import ImageStart, SamplingPlan, check_image_starts
from s2p_runtime.tokenizer_spec import TokenizerSpec as TokenizerSpec
from s2p_runtime.unet_programs import check_chunks, unet_interface

BUNDLE_FORMAT: Final = "s2p-bundle"
BUNDLE_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"


class FileEntry(Contract):
    """Checksum of one file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class LatentSpec(Contract):
    """Latent shape, and what the VAE decoder takes."""

    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    scaling_factor: float = Field(gt=0)
    shift_factor: float
    mean: tuple[float, ...] | None = Field(description="of each channel, added to what the decoder takes; null: none")
    std: tuple[float, ...] | None = Field(description="of each channel, a factor on the latents; null: none")

    @model_validator(mode="after")
    def _statistics_of_every_channel(self) -> LatentSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name}: {len(values)} numbers for {self.channels} channels")
        return self

    def encoded(self, moments: NDArray[Any]) -> NDArray[np.float32]:
        """What a VAE encoder gives [..., 2 C, H, W], means before log variances -> latents [..., C, H, W]: ``(mean - shift_factor -
        mean of the channel) / std * scaling_factor``, in float32 and from left to right. The mean stands for the distribution, as
        diffusers' ``latent_dist.mode()``: nothing is drawn."""
        latents = moments[..., : self.channels, :, :].astype(np.float32) - np.float32(self.shift_factor)
        if self.mean is not None:
            latents = latents - np.array(self.mean, np.float32)[:, None, None]
        if self.std is not None:
            latents = latents / np.array(self.std, np.float32)[:, None, None]
        return (latents * np.float32(self.scaling_factor)).astype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[1, C, H, W]"""
        return (1, self.channels, self.height, self.width)

    def decoder_input(self, latents: NDArray[Any]) -> NDArray[np.float32]:
        """Final states [..., C, H, W] -> ``latents * std / scaling_factor + shift_factor + mean`` of the same shape, in float32."""
        scaled = latents.astype(np.float32)
        if self.std is not None:
            scaled = scaled * np.array(self.std, np.float32)[:, None, None]
        scaled = scaled / np.float32(self.scaling_factor) + np.float32(self.shift_factor)
        if self.mean is not None:
            scaled = scaled + np.array(self.mean, np.float32)[:, None, None]
        return scaled.astype(np.float32)


class Conditioning(Contract):
    """What a family with two text encoders (SDXL) adds to a prompt: the second encoder's tokenizer, and what makes the time table."""

    second_tokenizer: TokenizerSpec = Field(description="of the second text encoder; its files may be the first's")
    zero_unconditional: bool = Field(description="without a negative prompt the unconditional branch gets zeros")
    time_ids: tuple[float, float, float, float, float, float] = Field(
        description="original height and width, top and left of the crop, target height and width, of the bundle's own size"
    )


def size_ids(width: int, height: int) -> tuple[float, float, float, float, float, float]:
    """SDXL's time ids of an uncropped picture, as diffusers' StableDiffusionXLPipeline fills them in by default."""
    return (float(height), float(width), 0.0, 0.0, float(height), float(width))


class LayerSummary(Contract):
    """How one layer of the U-Net is stored. ``weight_bits`` 16 or 32 means that the layer was left in float."""

    name: str
    kind: Literal["conv", "linear"]
    weight_bits: int
    activation_bits: int | None = Field(description="null: activations stay in float")
    scheme: str = Field(description="e.g. 'palette per-tensor', 'int8 linear', 'float16'")
    weights: int = Field(ge=1, description="number of weights, without bias")
    bytes: int = Field(ge=0, description="stored bytes of weights, scales and palettes")


class QuantizationSummary(Contract):
    """Quantization of the U-Net, layer by layer."""

    method: str
    recipe: str
    average_weight_bits: float = Field(description="over the quantized layers, weighted by their number of weights")
    unet_bytes: int = Field(ge=0, description="resident size of the U-Net program")
    unet_download_bytes: int = Field(ge=0, description="size in the download form")
    unet_fp32_bytes: int = Field(ge=0, description="the source U-Net's parameters at 4 bytes each")
    layers: tuple[LayerSummary, ...]


class GoldenRun(Contract):
    """A recorded run. ``path`` is a safetensors file with the tensors listed in docs/formats.md."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    prompt: str
    seed: int = Field(ge=0, lt=2**64)
    path: str


class PictureSize(Contract):
    """A size of pictures that a bundle draws. Where there are several, U-Net and VAE decoder have a method for each; the weights
    exist once."""

    width: int = Field(ge=1, description="of the picture, in pixels")
    height: int = Field(ge=1, description="of the picture, in pixels")
    latent_width: int = Field(ge=1)
    latent_height: int = Field(ge=1)
    method: str | None = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="method (or function) of the programs; null: the one that a program has anyway",
    )
    check: str | None = Field(
        description="safetensors file with calls at this size; null for the first, which golden runs check"
    )

    @property
    def title(self) -> str:
        """``WxH``"""
        return f"{self.width}x{self.height}"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape, [..., H, W], is of this size's latents."""
        return shape[-2:] == (self.latent_height, self.latent_width)

    def fits_picture(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape, [..., H, W], is of this size's pictures."""
        return shape[-2:] == (self.height, self.width)


def _lies_in(file: str, path: str) -> bool:
    """Whether a file is what ``path`` names, or in it: a program may be a folder."""
    return file == path or file.startswith(f"{path}/")


class BundleManifest(SparseContract):
    """``manifest.json`` of a bundle."""

    format: Literal["s2p-bundle"] = BUNDLE_FORMAT
    version: Literal[1] = BUNDLE_VERSION
    name: str
    family: str
    target: str = Field(pattern=TARGET_PATTERN, description="what the programs are written for")
    producer: str = Field(description="program and version that wrote the bundle")
    checkpoint_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the checkpoint's s2p.json")
    components: dict[str, Component]
    chunks: tuple[str, ...] = Field(
        description="components that are the U-Net together, in the order in which they run; empty: it is one, ``unet``"
    )
    plan: SamplingPlan
    image_starts: tuple[ImageStart, ...] | None = Field(
        default=None,
        description="where runs from a picture begin, one to each step of the plan; absent without the component vae_encoder",
    )
    guidance: float = Field(description="1.0 or less: no classifier-free guidance, batch of one")
    latents: LatentSpec
    sizes: tuple[PictureSize, ...] = Field(description="sizes of pictures, that of ``latents`` first")
    tokenizer: TokenizerSpec
    conditioning: Conditioning | None = Field(description="null: one time table serves all prompts")
    quantization: QuantizationSummary
    golden: tuple[GoldenRun, ...]
    files: dict[str, FileEntry] = Field(description="every file of the bundle but the manifest, by relative path")

    @field_validator("image_starts", mode="after")
    @classmethod
    def _absent_or_given(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.mode == "json":
            raise ValueError("must be left out where there is none")
        return value

    @model_validator(mode="after")
    def _references_exist(self) -> BundleManifest:
        for name, component in self.components.items():
            if not any(_lies_in(file, component.path) for file in self.files):
                raise ValueError(f"component {name} has no file {component.path}")
            for chip, path in (component.chips or {}).items():
                if path not in self.files:
                    raise ValueError(f"component {name} has no file {path} for {chip}")
        named = {tuple(sorted(part.chips)) for part in self.components.values() if part.chips}
        if len(named) > 1:
            raise ValueError("chips: two components have programs for different chips")
        for path in self._data_files:
            if path not in self.files:
                raise ValueError(f"file {path} is not listed")
        if len({spec.max_length for spec in self._tokenizers}) != 1:
            raise ValueError("conditioning.second_tokenizer has another max_length than tokenizer")
        if (self.conditioning is not None) != ("time_table" in self.components):
            raise ValueError("conditioning and the component time_table go together")
        if (self.image_starts is not None) != ("vae_encoder" in self.components):
            raise ValueError("image_starts and the component vae_encoder go together")
        if self.image_starts is not None:
            check_image_starts(self.plan, self.image_starts)
        self._check_sizes()
        if self.chunks:
            if len(self.sizes) > 1:
                raise ValueError("chunks: such a bundle has one picture size")
            check_chunks(self.chunks, self.components)
        return self

    def _check_sizes(self) -> None:
        if not self.sizes or not self.sizes[0].fits(self.latents.shape) or self.sizes[0].check is not None:
            raise ValueError("sizes: the first is not that of the latents, which golden runs check")
        if len({size.title for size in self.sizes}) != len(self.sizes):
            raise ValueError("sizes: two are the same")
        if len({size.method for size in self.sizes}) != len(self.sizes):
            raise ValueError("sizes: two have the same method")
        for size in self.sizes[1:]:
            if size.check is None or size.check not in self.files:
                raise ValueError(f"sizes: file {size.check} of {size.title} is not listed")

    @property
    def unet_programs(self) -> dict[str, Component]:
        """Components that are the U-Net, in the order in which they run: ``unet``, or the chunks."""
        return {name: self.components[name] for name in self.chunks or ("unet",)}

    @property
    def unet(self) -> Component:
        """The U-Net's interface, whether it is one program or several."""
        return unet_interface(self.unet_programs)

    @property
    def chips(self) -> tuple[str, ...]:
        """Chips whose programs the bundle has; none: its programs run on any."""
        return next((tuple(part.chips) for part in self.components.values() if part.chips), ())

    def unused_on(self, chip: str) -> frozenset[str]:
        """Files that a device with this chip has no use for: programs of other chips, and what else lies in the folders named after
        chips."""
        used = {*self._data_files, *(size.check for size in self.sizes if size.check is not None)}
        used |= {(part.chips or {}).get(chip, part.path) for part in self.components.values()}
        programs = {path for part in self.components.values() for path in (part.chips or {}).values()}
        of_chips = {name for name in self.files if name in programs or name.split("/")[0] in self.chips}
        return frozenset(name for name in of_chips if not any(_lies_in(name, path) for path in used))

    @property
    def _tokenizers(self) -> tuple[TokenizerSpec, ...]:
        return (self.tokenizer,) if self.conditioning is None else (self.tokenizer, self.conditioning.second_tokenizer)

    @property
    def _data_files(self) -> list[str]:
        """Words of the tokenizers, and golden runs."""
        words = [path for spec in self._tokenizers for path in (spec.vocab, spec.merges)]
        return [*words, *(run.path for run in self.golden)]

    def size_of(self, shape: tuple[int, ...]) -> PictureSize:
        """The size whose latents have the shape [..., H, W].

        Raises:
            S2PError: the bundle has no such size.
        """
        for size in self.sizes:
            if size.fits(shape):
                return size
        known = " or ".join(f"{size.latent_height}x{size.latent_width}" for size in self.sizes)
        raise S2PError(f"{self.name} takes latents [..., H, W] of {known}, not {list(shape)}", "use the shapes of the manifest")

    def size_of_picture(self, shape: tuple[int, ...]) -> PictureSize:
        """The size whose pictures have the shape [..., H, W].

        Raises:
            S2PError: the bundle has no such size.
        """
        for size in self.sizes:
            if size.fits_picture(shape):
                return size
        known = " or ".join(size.title for size in self.sizes)
        raise S2PError(f"{self.name} takes pictures of {known}, not {shape[-1]}x{shape[-2]}", "use the sizes of the manifest")

    def size_named(self, title: str) -> PictureSize:
        """The size called ``WIDTHxHEIGHT``.

        Raises:
            S2PError: no size, or the bundle does not draw it.
        """
        wanted = parse_size(title)
        for size in self.sizes:
            if (size.width, size.height) == wanted:
                return size
        known = ", ".join(size.title for size in self.sizes)
        raise S2PError(
            f"the bundle draws {known}, not {title}", f"choose one of these, or convert again with `size={title}`", "size"
        )


def parse_size(text: str) -> tuple[int, int]:
    """``512x768`` -> (512, 768): width and height in pixels.

    Raises:
        S2PError: anything else.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if match is None:
        raise S2PError(f"{text!r} is no picture size", "give width and height in pixels, like 512x768")
    return int(match[1]), int(match[2])


class Bundle:
    """An opened bundle: its folder and its manifest."""

    def __init__(self, folder: Path, manifest: BundleManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def path(self, relative: str) -> Path:
        """Absolute path of a file of the bundle; see :func:`s2p_runtime.files.inside`."""
        return inside(self.folder, relative)

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Files in the folder that the manifest does not list. They are not checked and nothing here reads them.

        They are no reason to refuse a bundle: file managers leave theirs (.DS_Store), and compiled programs for Apple's pipeline lie
        beside the packages.
        """
        return tuple(name for name in list_files(self.folder) if name not in self.manifest.files and name != MANIFEST_NAME)

    def component(self, name: str) -> tuple[Component, Path]:
        """A component and its path.

        Raises:
            S2PError: the bundle has no such component.
        """
        if name not in self.manifest.components:
            raise S2PError(f"{self.folder.name} has no component {name!r}", f"it has {', '.join(self.manifest.components)}")
        component = self.manifest.components[name]
        return component, self.path(component.path)


def component_bytes(manifest: BundleManifest) -> dict[str, int]:
    """Bytes of each component's files."""
    return {
        name: sum(e.bytes for file, e in manifest.files.items() if file == part.path or file.startswith(f"{part.path}/"))
        for name, part in manifest.components.items()
    }


def file_entries(folder: Path, manifest: str = MANIFEST_NAME) -> dict[str, FileEntry]:
    """Checksums of every file below ``folder`` but the manifest, which will hold them."""
    return {
        name: FileEntry(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in list_files(folder)
        if name != manifest
    }


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle after checking its manifest and every checksum.

    Raises:
        S2PError: no bundle, invalid manifest, path outside the folder, file missing, truncated or altered.
    """
    if not folder.is_dir():
        raise S2PError(f"{folder} is not a folder", "give a bundle made by s2p-mobile convert")
    if not (folder / MANIFEST_NAME).is_file():
        raise S2PError(f"{folder} has no {MANIFEST_NAME}", "give a bundle made by s2p-mobile convert")
    manifest = read_contract(folder / MANIFEST_NAME, BundleManifest, BUNDLE_FORMAT, BUNDLE_VERSION)
    for component in manifest.components.values():
        for path in (component.path, *(component.chips or {}).values()):
            inside(folder, path)
    check_files(folder, manifest.files)
    return Bundle(folder, manifest)


def check_files(folder: Path, files: dict[str, FileEntry]) -> None:
    """Compare files with their recorded checksums.

    Raises:
        S2PError: path outside the folder, file missing, truncated or altered.
    """
    for name, entry in files.items():
        path = inside(folder, name)
        try:
            if not path.is_file():
                raise S2PError(f"{folder.name} lacks {name}", "get the folder again")
            found = path.stat().st_size
            if found != entry.bytes:
                raise S2PError(f"{name} in {folder.name} has {found} bytes instead of {entry.bytes}", "get the folder again")
            if sha256_file(path) != entry.sha256:
                raise S2PError(f"{name} in {folder.name} was altered (sha256 differs)", "get the folder again")
        except OSError as error:
            raise S2PError(
                f"cannot read {name} in {folder.name} ({error.strerror})", "check its name and permissions"
            ) from error
