"""The evaluation: FP and quantized pictures of the same prompts and seeds, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from s2p_mobile.judge.evaluation.cache import SHARD_PROMPTS, PictureCache
from s2p_mobile.judge.evaluation.drawing import Drawings, draw
from s2p_mobile.judge.evaluation.grid import save_grid
from s2p_mobile.judge.evaluation.source import EvaluationSource
from s2p_mobile.judge.metrics import NETWORK_METRICS, MetricValue, Networks, PictureMetrics, check_metrics, resolve_networks
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import psnr_db
from s2p_runtime.progress import Progress, Silent

GRID_ROWS = 8


class EvaluationResult(Contract):
    """What ``s2p-mobile evaluate`` prints."""

    source: str
    count: int = Field(ge=1, description="prompts drawn")
    seed: int = Field(ge=0, description="prompt k was drawn with seed + k")
    steps: int = Field(ge=1)
    metrics: dict[str, MetricValue]
    latent_psnr_db_per_call: tuple[float | None, ...] = Field(
        description="per call i: median over the prompts of the PSNR between the FP and the quantized x_{i+1}; null when equal"
    )


def evaluate(
    source: EvaluationSource,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    count: int | None = None,
    metrics: Sequence[str] | None = None,
    cache: Path | None = None,
    grid: Path | None = None,
    grid_rows: int = GRID_ROWS,
    networks: Networks | None = None,
    clip: Path | None = None,
    judge: PictureMetrics | None = None,
    together: int = SHARD_PROMPTS,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Draw prompts with the source and with its FP model and compare.

    Args:
        prompts: prompt k is drawn with seed ``seed + k``.
        count: only the first so many prompts.
        metrics: names out of ``METRIC_NAMES``; all when left out.
        cache: folder for FP pictures; None keeps none (see ``default_cache_folder``).
        grid: PNG to write with the first pictures: FP, quantized, difference.
        grid_rows: prompts in the grid.
        networks: the judges; found by ``resolve_networks`` when left out.
        clip: CLIP folder for ``resolve_networks``.
        judge: sees the pictures in place of one made of ``metrics`` and ``networks``; it knows each picture's figures afterwards.
        together: prompts that are judged, and kept in ``cache``, at a time.

    Raises:
        S2PError: unknown metric, count or seed out of range, fewer prompts than asked for, NaN in the source.
    """
    names = check_metrics(metrics)
    chosen = _choose(prompts, count)
    if not 0 <= seed <= 2**64 - len(chosen):
        raise S2PError(f"seed {seed} is out of range", f"give one from 0 to {2**64 - len(chosen)}")
    if judge is None:
        if networks is None and NETWORK_METRICS.intersection(names):
            networks = resolve_networks(source.model.folder, clip)
        judge = PictureMetrics(names, networks)
    reference = source.reference
    store = None if cache is None else PictureCache(cache, source.model, reference.plan, reference.guidance, source.device)
    latents: list[NDArray[np.float64]] = []
    shown: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    with (progress or Silent()).stage(f"drawing {len(chosen)} prompts, FP and quantized", len(chosen)) as advance:
        for start in range(0, len(chosen), together):
            batch = chosen[start : start + together]
            seeds = [seed + start + k for k in range(len(batch))]
            original = (
                draw(reference, batch, seeds) if store is None else store.get(batch, seeds, _drawer(source, batch, seeds))
            )
            drawn = draw(source.artist, batch, seeds, advance)
            judge.update(drawn.pictures, original.pictures, batch)
            latents.append(latent_psnr(drawn, original))
            if grid is not None:
                shown.extend(zip(original.pictures, drawn.pictures, strict=True))
                del shown[grid_rows:]
    if grid is not None:
        save_grid(grid, shown)
    medians = np.median(np.concatenate(latents), axis=0)
    return EvaluationResult(
        source=source.name,
        count=len(chosen),
        seed=seed,
        steps=reference.plan.steps,
        metrics=judge.values(),
        latent_psnr_db_per_call=tuple(float(value) if math.isfinite(value) else None for value in medians),
    )


def latent_psnr(drawn: Drawings, reference: Drawings) -> NDArray[np.float64]:
    """PSNR in dB of every state, float64 [N, T], infinite where equal; the peak is the range of the FP state.

    The next call's input scale is a factor of both states and of the range, so it does not show.
    """
    values = [
        [psnr_db(value, original) for value, original in zip(*states, strict=True)]
        for states in zip(drawn.states, reference.states, strict=True)
    ]
    return np.array([[math.inf if value is None else value for value in row] for row in values])


def _drawer(source: EvaluationSource, prompts: Sequence[str], seeds: Sequence[int]) -> Callable[[], Drawings]:
    return lambda: draw(source.reference, prompts, seeds)


def _choose(prompts: Sequence[str], count: int | None) -> list[str]:
    if not prompts:
        raise S2PError("there is no prompt to evaluate", "give a prompt file with one prompt a line")
    if count is None:
        return list(prompts)
    if count < 1:
        raise S2PError(f"count {count} is not positive", "give at least 1")
    if count > len(prompts):
        raise S2PError(
            f"count {count} is more than the {len(prompts)} prompts given", "give a longer prompt file or a smaller count"
        )
    return list(prompts[:count])
