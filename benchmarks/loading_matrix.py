"""Random configurations, opened and drawn by s2p-mobile and by diffusers: the outcome is equal, or a refusal that names a feature.

    OMP_NUM_THREADS=1 python benchmarks/loading_matrix.py --seeds 500

Prints what failed with its configuration, and a summary: equal, refused by feature, failures. The exit status is 1 after a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loading_configurations import Configuration, attempts, draw
from loading_models import build
from s2p_converters.core.plan import extract_plan, plan_for
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.reference import Difference, compare
from s2p_mobile.sources.reference.pipeline import open_pipeline
from s2p_mobile.sources.session import open_session
from s2p_mobile.sources.torch_artist import model_artist
from s2p_runtime.artist import draw as draw_picture
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers

STEPS, GUIDANCE, SEED, TEXT = 2, 3.0, 3, "a red apple on a blue background"
DRAWN_LIMIT = 2e-3
"""Of the spread of the final state, end to end: a difference of 1e-5 at each of a few calls, guided and carried on by the scheduler.
A misread setting changes the picture by a tenth of it and more."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What came of a configuration.

    Attributes:
        kind: ``equal``, ``refused`` or ``failed``.
        detail: the refusal's words, or what differs.
    """

    configuration: Configuration
    kind: str
    detail: str


def outcome_of(seed: int) -> Outcome:
    """Open and draw the first configuration of a seed that diffusers accepts, by both."""
    for attempt in attempts(seed):
        configuration = draw(attempt)
        with tempfile.TemporaryDirectory(prefix="s2p-matrix-") as scratch:
            folder = Path(scratch) / "model"
            folder.mkdir()
            try:
                with _quiet():
                    build(configuration, folder)
                    expected = _by_diffusers(configuration, folder)
            except Exception:
                continue
            if np.isfinite(expected[0]).all():
                return _outcome(configuration, folder, expected)
    raise RuntimeError(f"diffusers accepts no configuration of seed {seed}")


def _outcome(configuration: Configuration, folder: Path, expected: tuple[Array, Array]) -> Outcome:
    try:
        with _quiet():
            session = open_session(folder, steps=STEPS, guidance=GUIDANCE, device="cpu", seed=SEED)
            if large := [each for each in compare(session.model) if not each.is_small]:
                return _different(configuration, session.model, large[0])
            drawing = draw_picture(model_artist(session.model, session.plan, session.guidance), TEXT, SEED)
    except S2PError as error:
        text = str(error)
        named = "\n" not in text and any(word in text for word in _words(configuration))
        return Outcome(configuration, "refused" if named else "failed", text)
    except Exception:
        return Outcome(configuration, "failed", traceback.format_exc())
    latents, picture = expected
    difference = float(np.abs(drawing.latents - latents).max() / latents.std())
    levels = int(np.abs(drawing.picture.astype(int) - picture.astype(int)).max())
    # diffusers rounds states to float32, the first of which are as large as the noise level: what is left of that is no difference.
    rounding = 4 * session.plan.initial_scale * float(np.abs(drawing.latents).max()) * 2.0**-23 / float(latents.std())
    # A picture of such latents may be off by a level; a VAE that is told something else is off by many.
    same = drawing.latents.shape == latents.shape and difference <= DRAWN_LIMIT + rounding and levels <= 2 + 255 * rounding
    detail = f"latents differ by {difference:.1e} of their spread, the picture by {levels} levels of 255"
    return Outcome(configuration, "equal" if same else "failed", detail)


def _different(configuration: Configuration, model: Model, found: Difference) -> Outcome:
    """A difference is a failure, but for a scheduler whose plan is the same: then float32, in which diffusers computes its tables, is
    too little for that configuration, and the refusal is right."""
    if found.component == "scheduler":
        pipeline = open_pipeline(model)
        if extract_plan(pipeline.scheduler, model.steps) == plan_for(model.folder / "scheduler", None, model.steps):
            return Outcome(configuration, "refused", f"float32 is too little for {configuration.scheduler['_class_name']}")
    return Outcome(configuration, "failed", f"{found}")


def _words(configuration: Configuration) -> set[str]:
    """Names of settings and classes, one of which a refusal has to tell."""
    parts = (configuration.unet, configuration.vae, configuration.scheduler, *configuration.texts)
    values = [value for part in parts for entry in part.values() for value in (entry if isinstance(entry, list) else [entry])]
    classes = {value for value in values if isinstance(value, str) and value[0].isupper()}
    return classes.union(*parts) - {"_class_name"}


def _by_diffusers(configuration: Configuration, folder: Path) -> tuple[Array, Array]:
    """Final state [1, C, h, w] and picture, uint8 [H, W, 3], of the pipeline that diffusers opens."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    size = configuration.unet["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size or 8, size or 8)
    shape = (1, configuration.unet["in_channels"], height, width)
    start, factor = torch.from_numpy(gaussian(SEED, shape)), pipeline.vae_scale_factor
    more = {"output_type": "latent", "height": height * factor, "width": width * factor}
    more |= {"latents": start, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    with torch.no_grad(), _known_noise(pipeline.scheduler):
        latents = pipeline(TEXT, **more).images
    with torch.no_grad(), _known_noise(pipeline.scheduler):
        picture = pipeline(TEXT, **(more | {"output_type": "np"})).images[0]
    return latents.numpy(), (picture * 255).round().astype(np.uint8)


@contextlib.contextmanager
def _known_noise(scheduler: Any) -> Iterator[None]:
    """Let a scheduler draw the noise that s2p-mobile draws: one stream after each U-Net call."""
    modules: list[Any] = [
        sys.modules[kind.__module__] for kind in type(scheduler).__mro__ if kind.__module__.startswith("diffusers.schedulers")
    ]
    patched = [module for module in modules if hasattr(module, "randn_tensor")]
    kept, calls = [module.randn_tensor for module in patched], iter(range(1, 100))
    step = scheduler.step
    current = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal current
        current = next(calls)
        return step(*arguments, **named)

    scheduler.step = counted
    # The pipeline looks for these by name in the signature of ``step``.
    counted.__wrapped__ = step  # type: ignore[attr-defined]
    for module in patched:
        module.randn_tensor = lambda shape, **_: torch.from_numpy(gaussian(SEED, tuple(shape), stream=current))
    try:
        yield
    finally:
        del scheduler.step
        for module, function in zip(patched, kept, strict=True):
            module.randn_tensor = function


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with quiet_import(), contextlib.redirect_stderr(io.StringIO()):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=500, help="configurations")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.seeds):
        outcome = outcome_of(seed)
        outcomes[outcome.kind] += 1
        if outcome.kind == "refused":
            problem = re.sub(r"\S*/s2p-matrix-\S*", "FOLDER", outcome.detail.partition("; ")[0])
            refusals[re.sub(r"\d+", "N", problem)] += 1
        if outcome.kind == "failed":
            print(f"seed {seed} failed: {outcome.detail}\n{outcome.configuration.to_json()}", flush=True)
    print(", ".join(f"{kind} {outcomes[kind]}" for kind in ("equal", "refused", "failed")))
    for problem, count in refusals.most_common():
        print(f"{count:4d}  {problem}")
    sys.exit(1 if outcomes["failed"] else 0)


if __name__ == "__main__":
    main()
