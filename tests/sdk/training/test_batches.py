"""The three pipelines: what they show, and that a micro-batch is a function of its number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset
from s2p_mobile.quantize.training.batches import Batch, Batches, CallSampler, make_batches
from s2p_mobile.sources.predictor import Predictor
from s2p_mobile.sources.trajectory import float_unet
from s2p_runtime.errors import S2PError
from s2p_runtime.walker import denoise, guide_runs

MakeBatches = Callable[..., Batches]


@pytest.fixture
def batches(make_job: Callable[..., QuantizationJob], latents: LatentDataset) -> MakeBatches:
    def make(pipeline: str, batch: int = 4, processes: int = 1, store_features: bool = False) -> Batches:
        job = make_job({"pipeline": pipeline, "batch": batch, "store_features": store_features})
        teacher = float_unet(job.model, job.plan)
        folder = job.model.folder / "scheduler"
        return make_batches(
            latents, job.recipe.training, lambda: teacher, job.guidance, job.seed, folder, processes, torch.ones(5)
        )

    return make


def pair_of(batch: Batch, index: int, latents: LatentDataset) -> tuple[int, int]:
    """(prompt, call) of a sample, found by its content."""
    call = int(batch.calls[index])
    stored = latents.states(range(latents.prompts), [call] * latents.prompts)
    hits = [p for p in range(latents.prompts) if np.array_equal(stored[p], batch.samples[index].numpy())]
    assert len(hits) == 1
    return hits[0], call


def test_s2p_shows_every_prompt_once_an_epoch_in_a_new_order(batches: MakeBatches, latents: LatentDataset) -> None:
    source = batches("s2p", batch=2)
    shown = [source.batch(index) for index in range(12)]
    pairs = [[pair_of(batch, k, latents) for k in range(2)] for batch in shown]
    orders = [[prompt for pair in pairs[epoch * 2 : epoch * 2 + 2] for prompt, _ in pair] for epoch in range(6)]
    assert all(sorted(order) == list(range(latents.prompts)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert any(batch.calls[0] != batch.calls[1] for batch in shown)


def test_calls_are_drawn_by_their_weight_and_the_loss_stays_what_it_was() -> None:
    weights = torch.tensor([3.0, 0.5, 0.0, 0.5, 1.0])
    sampler = CallSampler(weights, seed=1)
    rounds, count = 400, 8
    drawn = np.stack([sampler.draw(index, count) for index in range(rounds)])
    expected = 0.8 * weights.double().numpy() / 5 + 0.2 / 5
    shares = np.bincount(drawn.reshape(-1), minlength=5) / drawn.size
    # Stratified draws vary less than independent ones, whose standard deviation is at most 0.5 / sqrt(3200).
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / drawn.size**0.5)
    # Importance times frequency is the weight, so a loss of l_i at call i has the mean sum w_i l_i / T.
    np.testing.assert_allclose(expected * sampler.importance_of(np.arange(5)).numpy(), weights.numpy() / 5, rtol=1e-6)
    # Stratified: the first call holds 0.52 of the probability, so every batch of 8 shows it at least 4 times.
    assert ((drawn == 0).sum(axis=1) >= 4).all()


def test_s2p_targets_belong_to_their_samples(batches: MakeBatches, latents: LatentDataset) -> None:
    batch = batches("s2p", store_features=True).batch(3)
    assert batch.outputs is not None and batch.features is not None
    for k in range(4):
        prompt, call = pair_of(batch, k, latents)
        np.testing.assert_array_equal(batch.outputs[k].numpy(), latents.outputs([prompt], [call])[0])
        assert torch.equal(batch.conditions[0][k], latents.conditions([prompt])[0][0])
        for name, value in batch.features.items():
            np.testing.assert_array_equal(value[k].numpy(), latents.features(name, [prompt], [call])[0].astype(np.float32))


@pytest.mark.parametrize("pipeline", ["s2p", "serial", "parallel"])
def test_a_batch_depends_on_its_number_alone_and_is_shared_without_loss(batches: MakeBatches, pipeline: str) -> None:
    walked = batches(pipeline)
    for index in range(8):
        last = walked.batch(index)
    fresh = batches(pipeline).batch(7)
    parts = [batches(pipeline, processes=2).batch(7, rank, 2) for rank in range(2)]

    def tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
        return batch.samples, batch.calls, batch.importance, *batch.conditions

    for again, value, *shared in zip(tensors(last), tensors(fresh), *map(tensors, parts), strict=True):
        assert torch.equal(again, value)
        # The serial walk of two prompts sums its convolutions in another order than that of four.
        torch.testing.assert_close(torch.cat(shared), value, rtol=1e-4, atol=1e-5)


def test_serial_walks_the_sampler_with_fp_outputs(
    batches: MakeBatches, make_job: Callable[..., QuantizationJob], latents: LatentDataset
) -> None:
    """Each sample's walk is that of the FP model from the same first state."""
    job = make_job()
    source = batches("serial", batch=2)
    shown = [source.batch(i) for i in range(5, 10)]  # the second round
    assert [batch.calls.tolist() for batch in shown] == [[i, i] for i in range(5)]
    first = [batch.samples for batch in (source.batch(0), shown[0])]
    assert not torch.equal(*first)
    unet = float_unet(job.model, job.plan)
    for k in range(2):
        states: list[np.ndarray] = []
        outputs: list[np.ndarray] = []
        predictor = Predictor(unet, [condition[k : k + 1] for condition in shown[0].conditions])

        def predict(scaled: np.ndarray, call: int, p: Predictor = predictor, s: list = states, o: list = outputs) -> np.ndarray:
            s.append(scaled[0])
            o.append(p(scaled, call))
            return guide_runs(o[-1], job.guidance)

        # The walk's noise is its own: the loop for one prompt is started from the state that the batch shows.
        start = shown[0].samples[k : k + 1].numpy() / np.float32(job.plan.calls[0].input_scale)
        denoise(job.plan, predict, start, seed=0)
        for call in range(5):
            close = {"rtol": 1e-3, "atol": 1e-4}  # another batch size, five calls
            np.testing.assert_allclose(shown[call].samples[k].numpy(), states[call], **close)
            np.testing.assert_allclose(shown[call].outputs[k].numpy(), outputs[call][0], **close)  # type: ignore[index]


def test_parallel_noises_pictures_as_the_scheduler_does(batches: MakeBatches, latents: LatentDataset) -> None:
    """With the picture taken out by diffusers' own alphas, what is left over is white noise."""
    source = batches("parallel", batch=64)
    plan = latents.manifest.request.plan
    alphas = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod.numpy()
    (texts,) = latents.conditions(range(latents.prompts))
    finals = latents.final(range(latents.prompts))
    noise = []
    for index in range(4):
        batch = source.batch(index)
        assert batch.outputs is None
        for k in range(64):
            prompt = next(p for p in range(latents.prompts) if torch.equal(texts[p], batch.conditions[0][k]))
            alpha = alphas[int(plan.calls[int(batch.calls[k])].timestep)]
            noise.append((batch.samples[k].numpy() - np.sqrt(alpha) * finals[prompt]) / np.sqrt(1 - alpha))
    values = np.stack(noise)
    # 256 x 256 independent numbers: mean within 5 / 256, variance within 5 sqrt(2) / 256.
    assert abs(values.mean()) < 5 / 256
    assert abs(values.var() - 1) < 5 * 2**0.5 / 256


def test_a_batch_that_cannot_be_shared_is_refused(batches: MakeBatches) -> None:
    with pytest.raises(S2PError, match="batch of 4 cannot be shared by 3 processes"):
        batches("s2p", processes=3)
