"""Figures about a model: how much each layer's rounding hurts, and its floating-point trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_mobile.api.notes import note
from s2p_mobile.api.progress import ProgressLike, listener

if TYPE_CHECKING:
    import torch

    from s2p_mobile.quantize.latents import LatentDataset
    from s2p_mobile.quantize.sensitivity import Comparison, Sensitivity
    from s2p_mobile.sources.default_prompts import Prompts
    from s2p_mobile.sources.model import Model
    from s2p_mobile.sources.pixel_size import SizeLike


def sensitivity(
    model: Model | str | Path | None = None,
    *,
    out: str | Path | None = None,
    estimator: str = "fisher",
    prompts: Prompts | None = None,
    calls: int | None = None,
    split_shortcuts: bool = True,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    force: bool = False,
    progress: ProgressLike = None,
) -> Sensitivity:
    """Measure how much each layer's weight rounding hurts, at every candidate bit-width.

    Args:
        model: opened, diffusers folder or ``.safetensors`` file; None is the built-in model.
        out: JSON file to write as well, for a later :func:`quantize`.
        estimator: by name, such as ``fisher``, ``hutchinson``, ``sqnr`` and ``gradient``.
        prompts: a file or texts; the model's own when None. The first four are drawn, prompt k from ``seed + k``.
        calls: U-Net calls to look at; the estimator's own number when None.
        split_shortcuts: as in the recipe that the result is for: both halves of a shortcut's input apart, or together.
        size, lora, embedding, allow_pickle: of a model that is not open yet, see :func:`load`.
        scheduler, steps, guidance, device, seed: see :func:`quantize`, whose defaults are the same.
        force: replace what lies at ``out``.
        progress: see :class:`ProgressEvent`.

    Returns:
        Shares of the output's energy (``gradient``: of its amplitude) by layer and width; higher is more sensitive.

    Raises:
        S2PError: bad input, ``out`` exists, or an FP output that is zero or not finite.

    Example:
        >>> measured = s2p_mobile.sensitivity(model, estimator="sqnr")
        >>> s2p_mobile.quantize(model, sensitivity=measured, out="checkpoint")
    """
    from s2p_mobile.quantize.sensitivity import ESTIMATORS, measure, write_sensitivity
    from s2p_mobile.quantize.sensitivity.measure import TRAJECTORIES
    from s2p_mobile.sources.default_prompts import calibration_prompts
    from s2p_mobile.sources.reference import require_same
    from s2p_mobile.sources.session import open_session
    from s2p_runtime.files import refuse_existing

    name = ESTIMATORS.get(estimator).name
    if out is not None:
        refuse_existing(Path(out), force)
    session = open_session(
        model,
        size=size,
        lora=lora,
        embedding=embedding,
        allow_pickle=allow_pickle,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        device=device,
        seed=seed,
    )
    texts = calibration_prompts(session.model, prompts)[:TRAJECTORIES]
    require_same(session.model, listener(progress))
    result = measure(
        session.model, session.plan, texts, session.guidance, name, count=calls, seed=session.seed,
        progress=listener(progress), device=session.device, split_shortcuts=split_shortcuts,
    )  # fmt: skip
    if out is not None:
        write_sensitivity(Path(out), result, force=force)
    return result


def compare_sensitivity(
    results: Sequence[Sensitivity], *, bits: int = 4, plot: str | Path | None = None, force: bool = False
) -> Comparison:
    """How far estimators agree on the layers of one model.

    Args:
        results: of :func:`sensitivity`, two or more with different estimators.
        bits: width at which layers are ranked, 2 to 8.
        plot: picture to write as well, by its suffix (``.png``, ``.svg``, ``.pdf``); needs matplotlib.
        force: replace what lies at ``plot``.

    Returns:
        Rank correlations of each pair, and each one's most sensitive layers.

    Raises:
        S2PError: results of different models or layers, a width that was not measured, matplotlib missing, ``plot`` exists.

    Example:
        >>> results = [s2p_mobile.sensitivity(model, estimator=name) for name in ("fisher", "sqnr")]
        >>> s2p_mobile.compare_sensitivity(results).pairs[0].spearman
    """
    from s2p_mobile.quantize.sensitivity import compare

    comparison = compare(results, bits)
    if plot is not None:
        from s2p_mobile.quantize.sensitivity.plot import plot_comparison

        plot_comparison(results, bits, Path(plot), force=force)
    return comparison


def latents(
    model: Model | str | Path | None = None,
    *,
    out: str | Path,
    prompts: Prompts | None = None,
    count: int | None = None,
    subset_seed: int | None = None,
    features: bool = False,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: ProgressLike = None,
) -> LatentDataset:
    """Draw prompts with the floating-point model and store the trajectories, which :func:`quantize` can learn from.

    Args:
        model: opened, diffusers folder or ``.safetensors`` file; None is the built-in model.
        out: folder of the data set. It appears when it is complete.
        prompts: a file or texts, prompt k from ``seed + k``. When None the model's own, as often as a training's default needs.
        count, subset_seed: only so many of the prompts: the first, or those that the seed picks.
        features: store the block outputs too, float16; several times larger.
        size, lora, embedding, allow_pickle: of a model that is not open yet, see :func:`load`.
        scheduler, steps, guidance, device, seed: see :func:`quantize`, whose defaults are the same.
        resume: go on with an unfinished set of the same settings; a finished one is opened as it is.
        force: replace what lies at ``out``.
        progress: see :class:`ProgressEvent`.

    Returns:
        The finished set, read from mapped files: states and outputs float32 of P prompts at T calls.

    Raises:
        S2PError: bad input, ``out`` exists, or an unfinished set lies there.
        Interrupted: Ctrl-C; finished work is kept for ``resume``.

    Example:
        >>> s2p_mobile.latents(model, prompts="prompts.txt", out="latents").states([0], [3]).shape
    """
    from s2p_mobile.quantize.latents import LatentJob, write_latents
    from s2p_mobile.quantize.recipes.training import TrainingRule
    from s2p_mobile.quantize.workers import join_workers
    from s2p_mobile.sources.default_prompts import calibration_prompts
    from s2p_mobile.sources.prompts import long_prompts, repeated
    from s2p_mobile.sources.reference import require_same
    from s2p_mobile.sources.session import open_session

    session = open_session(
        model,
        size=size,
        lora=lora,
        embedding=embedding,
        allow_pickle=allow_pickle,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        device=device,
        seed=seed,
    )
    texts = calibration_prompts(session.model, prompts, count, subset_seed)
    if prompts is None and count is None:
        texts = repeated(texts, TrainingRule().prompts)
    if prompts is not None:
        for warning in long_prompts(texts, session.model.conditioner.tokenizers):
            note(warning)
    require_same(session.model, listener(progress))
    job = LatentJob(session.model, session.plan, texts, session.guidance, session.seed, features)
    return write_latents(
        job, Path(out), resume=resume, force=force, progress=listener(progress), workers=join_workers(session.device)
    )
