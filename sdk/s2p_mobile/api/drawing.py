"""Pictures: drawing one, and comparing many with the floating-point model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_mobile.api.notes import note
from s2p_mobile.api.progress import ProgressLike, listener

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from s2p_mobile.judge.evaluation import EvaluationResult
    from s2p_mobile.sources.default_prompts import Prompts
    from s2p_mobile.sources.model import Model
    from s2p_mobile.sources.open_source import SourceLike
    from s2p_mobile.sources.pixel_size import SizeLike


def generate(
    source: SourceLike,
    prompt: str,
    *,
    negative_prompt: str | None = None,
    image: Image | str | Path | None = None,
    strength: float = 0.8,
    seed: int = 0,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    release_chunks: bool = False,
    progress: ProgressLike = None,
) -> Image:
    """Draw a picture.

    Args:
        source: model, checkpoint or bundle, opened or its path; None is the built-in model.
        prompt: what to draw.
        negative_prompt: what not to draw; needs a guidance above 1.
        image: a picture to start from, opened or its file; it is scaled to cover the size and cut in the middle. Bundles need a VAE
            encoder for that, which :func:`convert` adds with the option ``image_to_image``.
        strength: how much of that picture is drawn anew, above 0 and at most 1: the share of the steps that is made.
        seed: of the noise; the same seed gives every form of a model the same start.
        size: width and height in pixels, of a model or one of a bundle's; its own when None.
        lora, embedding, allow_pickle: of a model that is not open yet, see :func:`load`.
        scheduler, steps, guidance: of a model, see :func:`quantize`; checkpoints and bundles have their own.
        device: where torch runs a model or a checkpoint, see :func:`quantize`; bundles run on their own engine.
        release_chunks: of a bundle whose U-Net is several programs, load each for every call and let go of it.
        progress: see :class:`ProgressEvent`.

    Returns:
        RGB, 8 bits a channel.

    Raises:
        S2PError: no such source, or an argument that does not go with it.

    Example:
        >>> s2p_mobile.generate("app.s2pmobile", "a red apple", seed=1).save("apple.png")
        >>> s2p_mobile.generate("app.s2pmobile", "a green apple", image="apple.png", strength=0.6).save("green.png")
    """
    from PIL.Image import fromarray

    from s2p_converters.core.checkpoint import Checkpoint
    from s2p_mobile.judge.artist import draw_with, open_artist
    from s2p_mobile.sources.device import choose_device
    from s2p_mobile.sources.open_source import is_model, open_source, source_kind
    from s2p_mobile.sources.pixel_size import PixelSize
    from s2p_mobile.sources.reference import require_same
    from s2p_mobile.sources.session import check_numbers, open_session
    from s2p_runtime.artist import FromPicture, check_negative_prompt
    from s2p_runtime.bundle import Bundle
    from s2p_runtime.errors import S2PError
    from s2p_runtime.pictures import fitted_picture, read_picture

    check_numbers(steps, guidance, seed)
    opened = None if image is None else read_picture(Path(image)) if isinstance(image, str | Path) else image
    if release_chunks and source_kind(source) != "bundle":
        raise S2PError("`release_chunks` is for bundles converted with `chunks`", "leave it out", "release_chunks")
    _refuse_sampling(source, scheduler, steps, guidance)
    chosen, wanted = choose_device(device), PixelSize.of(size)
    if is_model(source):
        session = open_session(
            source,
            size=wanted,
            lora=lora,
            embedding=embedding,
            allow_pickle=allow_pickle,
            scheduler=scheduler,
            steps=steps,
            guidance=guidance,
            device=chosen,
            seed=seed,
        )
        check_negative_prompt(negative_prompt, session.guidance)  # before weights are loaded
        require_same(session.model, listener(progress))
        artist = open_artist(session, chosen)
    else:
        found = open_source(source, lora=lora, embedding=embedding)
        assert isinstance(found, Checkpoint | Bundle)
        check_negative_prompt(negative_prompt, found.manifest.guidance)
        artist = open_artist(found, chosen, size=None if wanted is None else str(wanted), release_chunks=release_chunks)
    start = None if opened is None else FromPicture(fitted_picture(opened, *artist.picture_size), strength)
    drawing = draw_with(artist, prompt, seed, negative_prompt, listener(progress), start)
    for what, dropped in (("prompt", drawing.tokens_dropped), ("negative prompt", drawing.negative_tokens_dropped)):
        if dropped:
            note(f"the {what} is too long; its last {dropped} tokens were left out")
    return fromarray(drawing.picture)


def evaluate(
    source: SourceLike = None,
    *,
    prompts: Prompts | None = None,
    model: Model | str | Path | None = None,
    count: int | None = None,
    size: SizeLike | None = None,
    lora: Sequence[str | Path] = (),
    embedding: Sequence[str | Path] = (),
    allow_pickle: bool = False,
    scheduler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    clip: str | Path | None = None,
    grid: str | Path | None = None,
    cache: str | Path | bool = True,
    progress: ProgressLike = None,
) -> EvaluationResult:
    """Compare pictures with those of the floating-point model: FID, sFID, SSIM, LPIPS, PSNR, CLIP score.

    Args:
        source: checkpoint, bundle, or a model (against itself under its own plan), opened or its path; None is the built-in model.
        prompts: a file or texts; those that the floating-point model names when None.
        model: the floating-point model of a checkpoint or a bundle, when it is not the built-in one.
        count: only the first so many prompts.
        size, lora, embedding, allow_pickle: of the floating-point model where it is not open yet, see :func:`load`.
        scheduler, steps, guidance: of a model, see :func:`quantize`; checkpoints and bundles have their own.
        device: where torch runs U-Nets, see :func:`quantize`.
        seed: prompt k is drawn from ``seed + k``.
        metrics: names; all when None.
        clip: folder of a CLIP model for the CLIP score; the model's own or one in a known place when None.
        grid: PNG to write with the first pictures: floating point, quantized, difference.
        cache: folder for floating-point pictures, which are not drawn again; True is ``fp`` in the cache
            folder (``$S2P_CACHE``, else the user's), False keeps none.
        progress: see :class:`ProgressEvent`.

    Returns:
        Figures by metric, each with the network behind it, and the PSNR of the latents at each call in dB.

    Raises:
        S2PError: not a source, made from another model, an unknown metric, fewer prompts than ``count``.

    Example:
        >>> s2p_mobile.evaluate("checkpoint", prompts="prompts.txt").metrics["psnr"].value
    """
    from s2p_mobile.judge.evaluation import evaluate as compare
    from s2p_mobile.judge.evaluation import open_evaluation
    from s2p_mobile.judge.metrics import check_metrics
    from s2p_mobile.sources.cache_folder import chosen_cache
    from s2p_mobile.sources.default_prompts import held_out_prompts
    from s2p_mobile.sources.open_source import is_model, open_source
    from s2p_mobile.sources.opening import as_model
    from s2p_mobile.sources.prompts import long_prompts
    from s2p_mobile.sources.reference import require_same
    from s2p_mobile.sources.session import open_session

    check_metrics(metrics)
    _refuse_sampling(source, scheduler, steps, guidance)
    if is_model(source):
        session = open_session(
            source,
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
        opened = open_evaluation(session, model)
    else:
        known = model is not None or size is not None or lora or embedding
        given = as_model(model, size, lora, embedding, allow_pickle) if known else None
        if given is not None:
            require_same(given, listener(progress))
        opened = open_evaluation(open_source(source), given, device=device)
    require_same(opened.model, listener(progress))
    texts = held_out_prompts(opened.model, prompts)
    for warning in long_prompts(texts[:count], opened.model.conditioner.tokenizers):
        note(warning)
    return compare(
        opened, texts, seed=seed, count=count, metrics=metrics, cache=chosen_cache(cache, "fp"),
        grid=None if grid is None else Path(grid), clip=None if clip is None else Path(clip), progress=listener(progress),
    )  # fmt: skip


def _refuse_sampling(source: SourceLike, scheduler: str | None, steps: int | None, guidance: float | None) -> None:
    """Raise :class:`S2PError` when a checkpoint or a bundle, which has its own sampler, is given another."""
    from s2p_mobile.sources.open_source import is_model
    from s2p_runtime.errors import S2PError

    if not is_model(source) and not (scheduler is None and steps is None and guidance is None):
        raise S2PError(
            f"{getattr(source, 'folder', source)} was made for one sampling plan",
            "leave `scheduler`, `steps` and `guidance` out",
            "scheduler",
        )
