"""Does a bundle compute what it was built to compute? Every component against the recorded golden runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.artist import Observe, final_states
from s2p_runtime.backends import Array32, Backend, components_of
from s2p_runtime.bundle import Bundle, GoldenRun, PictureSize
from s2p_runtime.conditions import Conditions, encode_ids
from s2p_runtime.contract import Contract
from s2p_runtime.drawing import BundleArtist, decode_latents
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.fingerprint import FINGERPRINT_FILE, check_fingerprint
from s2p_runtime.pictures import psnr_db, relative_error
from s2p_runtime.progress import Advance, Progress, Silent
from s2p_runtime.tensors import read_tensors
from s2p_runtime.walker import denoise, guide

Array = NDArray[Any]

TOLERANCE = {
    "coreml": {"text_encoder": 1e-6, "time_table": 1e-6, "unet": 1e-6, "vae_decoder": 1e-6},
    "executorch": {"text_encoder": 1e-4, "time_table": 1e-4, "unet": 5e-2, "vae_decoder": 1e-4},
}
"""Largest relative error of a component at equal inputs. Core ML programs are evaluated in float64, where they agree with the
reference to about 1e-12, so what is left is the rounding of the golden tensors to float32 (6e-8) with some room. ExecuTorch
kernels compute in float32. Float components then differ by summation order (3e-6 measured). In the U-Net a difference of one
unit in the last place flips some roundings of activations and moves the output by whole grid steps: torch itself in float32 is
up to 3.9e-2 away from torch in float64 over the calls of the demo model's golden run, and XNNPACK as far."""

SAMPLER_TOLERANCE = 1e-6
"""The plan's rows over recorded outputs: sums in double rounded to float32 on both sides."""

MINIMUM_LATENT_PSNR_DB = 30.0
"""Final latents as the program's own precision gives them against the golden ones: below this the picture is another one. The
harnesses of the devices use the same number; docs/formats.md says why."""


class ComponentCheck(Contract):
    """Worst relative error of a component over all golden runs."""

    max_relative_error: float | None
    tolerance: float
    ok: bool


class GoldenCheck(Contract):
    """Final latents in the program's own precision; PSNR null when they are equal."""

    id: str
    latent_psnr_db: float | None
    ok: bool


class Verification(Contract):
    """Result of :func:`verify`."""

    ok: bool
    components: dict[str, ComponentCheck]
    golden: tuple[GoldenCheck, ...]
    altered_constants: tuple[str, ...] = ()


@dataclass
class _Worst:
    """Running maximum of relative errors, by component."""

    errors: dict[str, float]

    def update(self, component: str, error: float) -> None:
        self.errors[component] = max(self.errors[component], error)


_GOLDEN_TENSORS = (
    "token_ids",
    "text_embeddings",
    "initial_latents",
    "noise_pred_calls",
    "noise_pred",
    "quantized_latents",
    "fp_latents",
    "image",
)
_PROMPT_TENSORS = ("pooled_text", "time_ids", "time_table")
"""Of families whose time table belongs to the prompt."""


def read_golden(bundle: Bundle, run: GoldenRun) -> dict[str, Array]:
    """Tensors of a golden run.

    Raises:
        S2PError: unreadable file or a tensor missing.
    """
    tensors = read_tensors(bundle.path(run.path))
    for name in (*_GOLDEN_TENSORS, *(() if bundle.manifest.conditioning is None else _PROMPT_TENSORS)):
        if name not in tensors:
            raise S2PError(f"golden run {run.id} of {bundle.folder.name} lacks {name}", "convert the checkpoint again")
    return tensors


def verify(bundle: Bundle, progress: Progress | None = None) -> Verification:
    """Run the text encoder, the whole denoising loop and the VAE decoder of every golden run.

    Every U-Net call is checked at its recorded input, then the loop runs freely and its end gives a PSNR. Core ML programs are
    checked in float64 and run freely in their declared precision, so that the PSNR shows what fp16 arithmetic leaves. Picture
    sizes beside the bundle's own are checked at their recorded calls.

    Raises:
        S2PError: a golden run is unreadable, or a component cannot run.
    """
    target = bundle.manifest.target
    exact = open_backend(bundle, "float64")
    declared = open_backend(bundle, "declared") if target == "coreml" else exact
    tolerances = {name: TOLERANCE[target][name] for name in components_of(bundle)} | {"sampler": SAMPLER_TOLERANCE}
    worst = _Worst(dict.fromkeys(tolerances, 0.0))
    listener = progress or Silent()
    golden = []
    calls = len(bundle.manifest.plan.calls)
    for run in bundle.manifest.golden:
        tensors = read_golden(bundle, run)
        with listener.stage(f"golden run {run.id}", 2 * calls) as advance:
            _check_run(bundle, exact, run, tensors, worst, advance)
            final = _free_run(bundle, declared, run, tensors, lambda *_: advance())
        psnr = psnr_db(final, tensors["quantized_latents"])
        golden.append(GoldenCheck(id=run.id, latent_psnr_db=_finite(psnr), ok=psnr is None or psnr >= MINIMUM_LATENT_PSNR_DB))
    for size in bundle.manifest.picture_sizes[1:]:
        with listener.stage(f"size {size.title}", 1) as advance:
            for name, error in size_errors(bundle, exact, size).items():
                worst.update(name, error)
            advance()
    components = {
        name: ComponentCheck(max_relative_error=_finite(error), tolerance=tolerances[name], ok=error <= tolerances[name])
        for name, error in worst.errors.items()
    }
    altered = check_fingerprint(bundle) if FINGERPRINT_FILE in bundle.manifest.files else []
    ok = bool(golden) and not altered and all(c.ok for c in components.values()) and all(g.ok for g in golden)
    return Verification(ok=ok, components=components, golden=tuple(golden), altered_constants=tuple(altered))


def recorded(tensors: dict[str, Array]) -> Conditions:
    """Conditions as a golden run or the calls of a size hold them."""
    return Conditions(tensors["text_embeddings"], tensors.get("time_table"))


_SIZE_TENSORS = ("text_embeddings", "sample", "noise_pred_calls", "noise_pred", "latents", "image")


def size_errors(bundle: Bundle, backend: Backend, size: PictureSize) -> dict[str, float]:
    """Largest relative errors of ``unet`` and ``vae_decoder`` over the recorded calls of a size beside the bundle's own.

    Raises:
        S2PError: the recorded calls are unreadable, or a component cannot run.
    """
    assert size.check is not None
    tensors = read_tensors(bundle.path(size.check))
    for name in (*_SIZE_TENSORS, *(() if bundle.manifest.conditioning is None else ("time_table",))):
        if name not in tensors:
            raise S2PError(f"{size.check} of {bundle.folder.name} lacks {name}", "convert the checkpoint again")
    errors = [
        relative_error(backend.predict(tensors["sample"], int(call), *recorded(tensors).inputs), expected)
        for call, expected in zip(tensors["noise_pred_calls"], tensors["noise_pred"], strict=True)
    ]
    image = backend.decode(tensors["latents"])
    return {"unet": max(errors), "vae_decoder": relative_error(image, tensors["image"])}


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _check_run(
    bundle: Bundle, backend: Backend, run: GoldenRun, tensors: dict[str, Array], worst: _Worst, advance: Advance
) -> None:
    """Update ``worst`` with one golden run."""
    conditioning = bundle.manifest.conditioning
    if conditioning is None:
        for row, ids in enumerate(tensors["token_ids"]):
            worst.update(
                "text_encoder", relative_error(backend.encode_text(ids[None]), tensors["text_embeddings"][row : row + 1])
            )
    else:
        hidden, pooled = encode_ids(conditioning, bundle.manifest.tokenizer.eos_id, backend.encode_pooled, tensors["token_ids"])
        worst.update("text_encoder", relative_error(hidden, tensors["text_embeddings"]))
        worst.update("text_encoder", relative_error(pooled, tensors["pooled_text"]))
        table = backend.time_table(tensors["pooled_text"], tensors["time_ids"])
        worst.update("time_table", relative_error(table, tensors["time_table"]))
    expected = {int(call): tensors["noise_pred"][k] for k, call in enumerate(tensors["noise_pred_calls"])}
    if len(expected) == len(bundle.manifest.plan.calls):
        _check_calls(bundle, backend, run, tensors, expected, worst, advance)
    elif bundle.manifest.target == "coreml":
        _check_loop(bundle, backend, run, tensors, expected, worst, advance)
    image = decode_latents(bundle, backend, tensors["quantized_latents"])
    worst.update("vae_decoder", relative_error(image, tensors["image"]))


def _check_calls(
    bundle: Bundle,
    backend: Backend,
    run: GoldenRun,
    tensors: dict[str, Array],
    expected: dict[int, Array],
    worst: _Worst,
    advance: Advance,
) -> None:
    """Every U-Net call at its recorded input. The rows over the recorded outputs give those inputs and the recorded end."""
    manifest, conditions = bundle.manifest, recorded(tensors)

    def predict(sample: Array32, call: int) -> Array32:
        output = backend.predict(np.repeat(sample, conditions.branches, axis=0), call, *conditions.inputs)
        worst.update("unet", relative_error(output, expected[call]))
        advance()
        return guide(expected[call], manifest.guidance)

    final = denoise(manifest.plan, predict, tensors["initial_latents"], run.seed)
    worst.update("sampler", relative_error(final, tensors["quantized_latents"]))


def _check_loop(
    bundle: Bundle,
    backend: Backend,
    run: GoldenRun,
    tensors: dict[str, Array],
    expected: dict[int, Array],
    worst: _Worst,
    advance: Advance,
) -> None:
    """The whole loop on the backend's own outputs, for backends exact enough to stay on the recorded trajectory."""

    def compare(call: int, scaled: Array32, outputs: Array32) -> None:
        if call in expected:
            worst.update("unet", relative_error(outputs[0], expected[call]))
        advance()

    final = _free_run(bundle, backend, run, tensors, compare)
    worst.update("unet", relative_error(final, tensors["quantized_latents"]))


def _free_run(bundle: Bundle, backend: Backend, run: GoldenRun, tensors: dict[str, Array], observe: Observe) -> Array32:
    """Final state of the loop from a golden run's recorded conditions and first state."""
    artist = BundleArtist(bundle, backend)
    return final_states(artist, recorded(tensors).inputs, [run.seed], observe, tensors["initial_latents"])
