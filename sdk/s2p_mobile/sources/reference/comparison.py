"""A model against diffusers: texts, sampling plan, a few U-Net calls and one decoded corner, each component for itself.

The pipeline of diffusers runs as it is, at a small size and with the model's own scheduler. Its U-Net computes a few calls and
answers noise to the others, so that a run costs little and every step of the scheduler is exercised. What is compared is the reading
around the modules: tokens, conditions, padding, timesteps, scaling, rows of the plan, step graph, time tables, and what is decoded.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.json_object import MAX_WORDS_BYTES
from s2p_converters.core.plan import extract_plan, make_scheduler, own_scheduler, plan_for
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.modules import read_json
from s2p_mobile.sources.origin import file_title
from s2p_mobile.sources.pixel_size import vae_factor
from s2p_mobile.sources.reference.pipeline import Call, Recording, open_pipeline, refused, with_denoiser, with_vae
from s2p_mobile.sources.tokenizer_files import CONFIG_NAME
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.noise import gaussian
from s2p_runtime.plan import SamplingPlan
from s2p_runtime.quiet import quiet_import

LIMIT = 1e-4
"""Largest relative difference. Both sides round to float32, in another order of sums; real differences are larger by far."""
TEXT = "A photo of 3 Red apples, isn't it? Naïve café (f/1.8)!"
"""Capitals, digits, accents, an apostrophe, and the exclamation mark that some tokenizers fill with; short, so that it is padded."""
_ADDED_TOKENS = 3
_CORNER = 4

Array = NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """The largest difference of a component.

    Attributes:
        component: ``text encoder``, ``scheduler``, ``U-Net`` or ``VAE``.
        relative: to the largest number of the reference; infinite for another shape or what is not finite.
        here, there: both figures where they differ most, in words.
        allowed: how large it may be.
    """

    component: str
    relative: float
    here: str
    there: str
    allowed: float = LIMIT

    @property
    def is_small(self) -> bool:
        """Whether it is rounding."""
        return self.relative <= self.allowed


def difference(component: str, here: Array, there: Array, size: float | None = None, allowed: float = LIMIT) -> Difference:
    """The largest difference of two arrays.

    Args:
        size: what it is relative to; the largest number of ``there`` when None.
    """
    if here.shape != there.shape:
        return Difference(component, float("inf"), f"shape {list(here.shape)}", f"shape {list(there.shape)}", allowed)
    gap = np.abs(here.astype(np.float64) - there.astype(np.float64))
    gap[~np.isfinite(gap)] = np.inf
    worst = int(gap.argmax())
    largest = float(np.abs(there).max()) if size is None else size
    relative = 0.0 if gap.flat[worst] == 0 else float(gap.flat[worst]) / max(largest, 1e-30)
    return Difference(component, relative, f"{here.flat[worst]:.6g}", f"{there.flat[worst]:.6g}", allowed)


@torch.no_grad()
def compare(model: Model) -> list[Difference]:
    """The largest difference between a model and diffusers' pipeline of the same folder, of each component.

    Raises:
        S2PError: weights that cannot be loaded, a tokenizer without a length that its text encoder takes, or a folder that diffusers
            itself cannot open or draw with.
    """
    model.conditioner.load()
    pipeline = open_pipeline(model)
    _require_lengths(model, pipeline)
    plan = _plan(model, pipeline)
    text = _telling(pipeline.tokenizer)
    guidance = model.family.guidance if model.embedded_guidance is None else model.embedded_guidance
    run = _run(model, pipeline, plan, text, guidance)
    found = [*_tokens(model, pipeline, text), *_texts(model, text, run.calls[0])]
    found += _steps(plan, run, guidance, _table_error(pipeline.scheduler))
    found += _calls(model, plan, run)
    assert run.picture is not None
    picture = model.decode(run.states[-1][..., :_CORNER, :_CORNER].numpy())
    found.append(difference("VAE", picture, run.picture.numpy()))
    return [
        max((each for each in found if each.component == component), key=lambda each: each.relative / each.allowed)
        for component in dict.fromkeys(each.component for each in found)
    ]


def _require_lengths(model: Model, pipeline: Any) -> None:
    """Name the file of a tokenizer that does not say how long texts are, or says more than its text encoder takes. diffusers hands on
    what it says, and what comes of it names no file."""
    for name in (folder for folder in model.family.folders if folder.startswith("tokenizer")):
        encoder = name.replace("tokenizer", "text_encoder")
        positions = getattr(getattr(pipeline, encoder).config, "max_position_embeddings", None)
        length = getattr(pipeline, name).model_max_length
        if positions is None or length <= positions:
            continue
        file = model.folder / name / CONFIG_NAME
        entry = f'"model_max_length": {positions}'
        if not file.is_file():
            problem, remedy = "is not there, so diffusers does not know how long texts are", f"write it, with {{{entry}}}"
        else:
            told = read_json(file, MAX_WORDS_BYTES).get("model_max_length")
            says = "no model_max_length" if told is None else f"a model_max_length of {told}"
            problem = f"has {says}, which diffusers cannot draw with: {encoder} has {positions} positions"
            remedy = f"write {entry} there"
        raise S2PError(f"{file_title(file)} {problem}", remedy)


def _plan(model: Model, pipeline: Any) -> SamplingPlan:
    """The plan of the model's own scheduler. Where that cannot be a plan, somebody has to name another one: DDIM stands for it."""
    folder = model.folder / "scheduler"
    try:
        return plan_for(folder, None, model.steps)
    except S2PError:
        pipeline.scheduler = make_scheduler("ddim", own_scheduler(folder).settings)
        return extract_plan(pipeline.scheduler, model.steps)


def _telling(tokenizer: Any) -> str:
    """The text, with a few of the words that a tokenizer has beyond its vocabulary."""
    special = set(tokenizer.all_special_tokens)
    added = [word for word in tokenizer.get_added_vocab() if word not in special]
    return " ".join([TEXT, *added[:_ADDED_TOKENS]])


def _side(model: Model) -> int:
    """Height and width of the latents: two positions at the lowest level, so that attention has a choice; pixels come in eights."""
    halvings = sum(block.resample for block in model.structure.down)
    return int(max(2 * 2**halvings, 8 // vae_factor(model.vae_config)))


def _chosen(plan: SamplingPlan) -> set[int]:
    """The calls that are computed: the first, the middle one and the last."""
    last = len(plan.calls) - 1
    return {0, last // 2, last}


def _run(model: Model, pipeline: Any, plan: SamplingPlan, text: str, guidance: float) -> Recording:
    recording, generator, side = Recording(), torch.Generator().manual_seed(0), _side(model)
    with_denoiser(pipeline, model.denoiser.folder, recording, generator, _chosen(plan))
    with_vae(pipeline, recording, _CORNER)

    def keep(_: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        recording.states.append(values["latents"].clone())
        return {}

    pixels, own = side * vae_factor(model.vae_config), model.picture_size
    accepted = inspect.signature(type(pipeline).__call__).parameters
    # A model that is told the size of its pictures is told its own, whatever is drawn here.
    sizes = {name: (own.height, own.width) for name in ("original_size", "target_size") if name in accepted}
    start = torch.from_numpy(gaussian(0, (1, model.structure.in_channels, side, side)))
    try:
        with quiet_import():
            pipeline(
                text, height=pixels, width=pixels, num_inference_steps=plan.steps, guidance_scale=guidance, latents=start,
                generator=generator, output_type="pt", callback_on_step_end=keep, **sizes,
            )  # fmt: skip
    except Exception as error:
        under = f" under {type(pipeline.scheduler).__name__} at {model.steps} steps"
        raise refused(model, "draw with", error, under) from error
    return recording


def _tokens(model: Model, pipeline: Any, text: str) -> list[Difference]:
    """Token ids of the text, of none and of one that is too long, by every tokenizer."""
    texts = [text, "", " ".join([text] * 20)]
    here = model.conditioner.token_ids(texts)
    tokenizers = [getattr(pipeline, name) for name in model.family.folders if name.startswith("tokenizer")]
    found = []
    for ids, tokenizer in zip(here.values(), tokenizers, strict=True):
        with quiet_import():
            there = tokenizer(
                pipeline.maybe_convert_prompt(texts, tokenizer), padding="max_length", max_length=tokenizer.model_max_length,
                truncation=True, return_tensors="np",
            ).input_ids  # fmt: skip
        found.append(difference("text encoder", ids, there, 1.0))
    return found


def _texts(model: Model, text: str, call: Call) -> list[Difference]:
    """What the U-Net is told about a text, and about none."""
    encoded = model.conditioner.encode(text, guided=len(call.sample) > 1).conditions
    pairs = zip(encoded, call.conditions, strict=False)
    return [difference("text encoder", here, there.numpy()) for here, there in pairs]


def _table_error(scheduler: Any) -> float:
    """How exact a scheduler of diffusers is: its tables are float32, and ``1 - alpha`` of the least noisy step is a small difference
    of two of their numbers. Rows are float64."""
    return max(LIMIT, 2.0**-23 / (1.0 - float(scheduler.alphas_cumprod[0])))


def _steps(plan: SamplingPlan, run: Recording, guidance: float, allowed: float) -> list[Difference]:
    """Timesteps, scaled inputs and the row of every call, at the states and outputs of the pipeline."""
    if len(plan.calls) != len(run.calls):
        return [Difference("scheduler", float("inf"), f"{len(plan.calls)} calls", f"{len(run.calls)} calls")]
    noise = gaussian(0, tuple(run.states[0].shape)).astype(np.float64)
    states: list[Array] = [plan.initial_scale * noise, *(state.numpy().astype(np.float64) for state in run.states)]
    outputs = [_guided(call.output.numpy().astype(np.float64), guidance) for call in run.calls]
    told = np.array([call.timestep for call in run.calls])
    found = [difference("scheduler", np.array(plan.timesteps), told)]
    for index, (call, recorded) in enumerate(zip(plan.calls, run.calls, strict=True)):
        found.append(difference("scheduler", call.input_scale * states[index], recorded.sample[-1:].numpy(), None, allowed))
        terms = [a * states[k] for k, a in call.states] + [b * outputs[k] for k, b in call.outputs]
        terms.append(call.noise * _drawn(recorded, run.states[index]))
        # Rows may be sums of large terms that cancel; float32 rounds each of them.
        largest = max(float(np.abs(term).max()) for term in terms)
        found.append(difference("scheduler", np.sum(terms, axis=0), states[index + 1], largest, allowed))
    return found


def _guided(outputs: Array, guidance: float) -> Array:
    if len(outputs) == 1:
        return outputs
    unconditional, conditional = outputs[:1], outputs[1:]
    return unconditional + guidance * (conditional - unconditional)


def _drawn(call: Call, like: Tensor) -> Array:
    """The fresh noise that the scheduler draws after a call, if it draws any."""
    generator = torch.Generator()
    generator.set_state(call.generator)
    return torch.randn(like.shape, generator=generator).numpy().astype(np.float64)


def _calls(model: Model, plan: SamplingPlan, run: Recording) -> list[Difference]:
    """The step graph at the inputs of the calls that the pipeline's U-Net computed."""
    graph, found = float_unet(model, plan), []
    for index in sorted(_chosen(plan) & set(range(len(run.calls)))):
        call = run.calls[index]
        conditions = (condition[-1:] for condition in call.conditions)
        here = graph(call.sample[-1:], torch.tensor([index]), *conditions)
        found.append(difference("U-Net", here.numpy(), call.output[-1:].numpy()))
    return found
