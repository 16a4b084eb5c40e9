"""What the student is shown: the three pipelines.

Every source answers ``batch(index, rank, count)`` for the micro-batch number ``index`` of the whole run from that number alone,
so a resumed run and a run on several processes see the same samples.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.graph import StepUNet
from s2p_converters.core.plan import make_scheduler, own_scheduler
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.recipes.training import TrainingRule
from s2p_mobile.quantize.rounding.calls import draw_shares
from s2p_mobile.sources.predictor import Predictor
from s2p_runtime.errors import S2PError
from s2p_runtime.walker import Walker, guide_runs


@dataclass(frozen=True)
class Batch:
    """n (prompt, call) pairs with their B branches.

    Attributes:
        samples: scaled states, float32 [n, C, H, W].
        calls: call indices, int64 [n].
        conditions: what the denoiser is told, float32 [n, B, ...] each.
        importance: factor on each pair's loss, float32 [n].
        outputs: FP outputs, float32 [n, B, C, H, W]; None when the teacher has to compute them.
        features: FP block outputs by name, float [n, B, ...]; None as well.
    """

    samples: Tensor
    calls: Tensor
    conditions: tuple[Tensor, ...]
    importance: Tensor
    outputs: Tensor | None = None
    features: dict[str, Tensor] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return self._each(lambda value: value.to(device))

    def split(self, pairs: int) -> list[Batch]:
        """The same pairs, so many at a time."""
        parts = [slice(first, first + pairs) for first in range(0, len(self.calls), pairs)]
        return [self._each(operator.itemgetter(part)) for part in parts]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.samples),
            change(self.calls),
            tuple(change(condition) for condition in self.conditions),
            change(self.importance),
            None if self.outputs is None else change(self.outputs),
            None if self.features is None else {name: change(value) for name, value in self.features.items()},
        )


class Batches(Protocol):
    """A source of micro-batches."""

    def batch(self, index: int, rank: int = 0, count: int = 1) -> Batch:
        """The part of process ``rank`` of micro-batch ``index``."""
        ...


def _draws(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, purpose, index]))


class _Shuffled:
    """Item numbers in an order that is new in every epoch."""

    def __init__(self, items: int, seed: int) -> None:
        self.items, self.seed = items, seed
        self._epoch, self._order = -1, np.arange(0)

    def take(self, position: int, count: int) -> NDArray[np.int64]:
        """Items at ``position`` .. ``position + count - 1`` of the endless sequence, int64 [count]."""
        return np.array([self._at(p) for p in range(position, position + count)], np.int64)

    def _at(self, position: int) -> int:
        epoch = position // self.items
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _draws(self.seed, epoch, 0).permutation(self.items)
        return int(self._order[position % self.items])


def _part(values: NDArray[np.int64], rank: int, count: int) -> NDArray[np.int64]:
    share = len(values) // count
    return values[rank * share : (rank + 1) * share]


class CallSampler:
    """Calls for the micro-batches: the more a call's error weighs in the loss, the more often it is shown.

    Call i is drawn with probability ``p_i`` of :func:`~s2p_mobile.quantize.rounding.calls.draw_shares` and counts
    ``w_i / (T p_i)``, so that the expected loss is ``mean w_i loss_i`` and no draw counts much more than another. The draws of
    an optimizer step are spread evenly over the cumulated probabilities (stratified), so that each step sees early, middle and
    late calls.
    """

    def __init__(self, weights: Tensor, seed: int, accumulate: int = 1) -> None:
        """
        Args:
            weights: of the calls, [T] with mean 1.
            accumulate: micro-batches of one optimizer step.
        """
        shares = weights.cpu().double().numpy() / len(weights)
        self.probabilities = draw_shares(weights)
        self.importance = shares / self.probabilities
        self.seed, self.accumulate = seed, accumulate

    def draw(self, index: int, count: int) -> NDArray[np.int64]:
        """Calls of micro-batch ``index``, int64 [count], in random order."""
        step, part = divmod(index, self.accumulate)
        total = count * self.accumulate
        rng = _draws(self.seed, step, 4)
        positions = (np.arange(total) + rng.random(total)) / total
        calls = np.searchsorted(np.cumsum(self.probabilities), positions, side="right")
        shuffled = rng.permutation(np.minimum(calls, len(self.probabilities) - 1)).astype(np.int64)
        return shuffled[part * count : (part + 1) * count]

    def importance_of(self, calls: NDArray[np.int64]) -> Tensor:
        """Factors on the losses of these calls, float32 [n]."""
        return torch.from_numpy(self.importance[calls]).float()


class S2PBatches:
    """Pairs of mixed prompts and calls from the stored FP trajectories; every prompt once an epoch, in a new order."""

    def __init__(self, latents: LatentDataset, rule: TrainingRule, sampler: CallSampler, seed: int) -> None:
        self.latents, self.rule, self.sampler = latents, rule, sampler
        self.order = _Shuffled(latents.prompts, seed)
        self.blocks = latents.block_names if rule.store_features and rule.distillation.weight > 0 else []

    def batch(self, index: int, rank: int = 0, count: int = 1) -> Batch:
        prompts = _part(self.order.take(index * self.rule.batch, self.rule.batch), rank, count).tolist()
        drawn = _part(self.sampler.draw(index, self.rule.batch), rank, count)
        calls = drawn.tolist()
        features = {name: torch.from_numpy(self.latents.features(name, prompts, calls)).float() for name in self.blocks}
        return Batch(
            samples=torch.from_numpy(self.latents.states(prompts, calls)),
            calls=torch.tensor(calls),
            conditions=self.latents.conditions(prompts),
            importance=self.sampler.importance_of(drawn),
            outputs=torch.from_numpy(self.latents.outputs(prompts, calls)),
            features=features or None,
        )


class SerialBatches:
    """The EfficientDM loop: ``batch`` prompts walk from fresh noise through the plan; every call is one micro-batch, and the FP
    output takes the walk to the next call. Round r, of T micro-batches, has its own prompts and seeds."""

    def __init__(
        self, latents: LatentDataset, rule: TrainingRule, teacher: StepUNet, guidance: float, weights: Tensor, seed: int
    ) -> None:
        self.latents, self.rule, self.teacher, self.guidance, self.seed = latents, rule, teacher, guidance, seed
        self.weights = weights.cpu()
        self.order = _Shuffled(latents.prompts, seed)
        self._round: _Round | None = None

    def batch(self, index: int, rank: int = 0, count: int = 1) -> Batch:
        number, call = divmod(index, self.latents.calls)
        if self._round is None or number != self._round.number or call < self._round.walker.call:
            self._round = self._begin(number, rank, count)
        current = self._round
        current.walker.run(lambda *_: guide_runs(current.outputs(), self.guidance), until=call)
        samples = torch.from_numpy(current.walker.scaled)
        calls = torch.full((len(samples),), call)
        return Batch(samples, calls, current.conditions, self.weights[calls], torch.from_numpy(current.outputs()))

    def _begin(self, number: int, rank: int, count: int) -> _Round:
        items = _part(self.order.take(number * self.rule.batch, self.rule.batch), rank, count)
        # Noise of their own: the prompts' noise in the latent set would be one draw per prompt for ever.
        seeds = _part(_draws(self.seed, number, 1).integers(0, 2**63, self.rule.batch), rank, count).tolist()
        request = self.latents.manifest.request
        walker = Walker.from_seeds(request.plan, seeds, request.latents.shape)
        return _Round(number, walker, self.latents.conditions(items.tolist()), self.teacher)


class _Round:
    """One walk of some prompts with the FP model.

    Attributes:
        number: of the round.
        walker: where it is.
        conditions: of its prompts, float32 [n, B, ...] each.
    """

    def __init__(self, number: int, walker: Walker, conditions: tuple[Tensor, ...], teacher: StepUNet) -> None:
        self.number, self.walker, self.conditions = number, walker, conditions
        self._predictor = Predictor(teacher, conditions)
        self._answer: tuple[int, NDArray[np.float32]] | None = None

    def outputs(self) -> NDArray[np.float32]:
        """FP outputs at the walker's call, [n, B, C, H, W]; computed once for the batch and for the way to the next call."""
        call = self.walker.call
        if self._answer is None or self._answer[0] != call:
            self._answer = (call, self._predictor(self.walker.scaled, call))
        return self._answer[1]


class ParallelBatches:
    """Random calls of noised pictures: ``sqrt(a) x_0 + sqrt(1 - a) z`` with the training schedule's a at the call's timestep.

    The pictures are the final FP latents, which keeps the pipeline free of data; the U-Net's scaled input has this form for
    variance-preserving and for sigma-scaled samplers alike.
    """

    def __init__(
        self,
        latents: LatentDataset,
        rule: TrainingRule,
        scheduler_config: Mapping[str, Any],
        sampler: CallSampler,
        seed: int,
    ) -> None:
        self.latents, self.rule, self.sampler, self.seed = latents, rule, sampler, seed
        alphas = make_scheduler("ddim", scheduler_config).alphas_cumprod.double().numpy()
        timesteps = latents.manifest.request.plan.timesteps
        self.alphas = np.interp(timesteps, np.arange(len(alphas)), alphas)
        """Share of signal power at each call, float64 [T]."""

    def batch(self, index: int, rank: int = 0, count: int = 1) -> Batch:
        draw = _draws(self.seed, index, 2)
        prompts = _part(draw.integers(0, self.latents.prompts, self.rule.batch), rank, count)
        calls = _part(self.sampler.draw(index, self.rule.batch), rank, count)
        spec = self.latents.manifest.request.latents
        noise = draw.standard_normal((self.rule.batch, spec.channels, spec.height, spec.width))
        noise = noise[_part(np.arange(self.rule.batch), rank, count)]
        alpha = self.alphas[calls][:, None, None, None]
        samples = np.sqrt(alpha) * self.latents.final(prompts.tolist()) + np.sqrt(1 - alpha) * noise
        return Batch(
            samples=torch.from_numpy(samples.astype(np.float32)),
            calls=torch.from_numpy(calls),
            conditions=self.latents.conditions(prompts.tolist()),
            importance=self.sampler.importance_of(calls),
        )


def make_batches(
    latents: LatentDataset,
    rule: TrainingRule,
    teacher: Callable[[], StepUNet],
    guidance: float,
    seed: int,
    scheduler: Path,
    processes: int,
    call_weights: Tensor,
) -> Batches:
    """The source of a recipe's pipeline.

    Args:
        teacher: gives the FP graph, which ``serial`` uses.
        scheduler: the model's scheduler folder, used by ``parallel``.
        processes: how many share a micro-batch.
        call_weights: of the calls in the loss, [T] with mean 1.

    Raises:
        S2PError: the micro-batch cannot be shared evenly.
    """
    if rule.batch % processes:
        raise S2PError(f"a batch of {rule.batch} cannot be shared by {processes} processes", "set training.batch to a multiple")
    if rule.pipeline == "serial":
        return SerialBatches(latents, rule, teacher(), guidance, call_weights, seed)
    sampler = CallSampler(call_weights, seed, rule.accumulate)
    if rule.pipeline == "parallel":
        return ParallelBatches(latents, rule, own_scheduler(scheduler).settings, sampler, seed)
    return S2PBatches(latents, rule, sampler, seed)
