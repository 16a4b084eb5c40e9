"""Which calls the methods look at, and where the graph is taken apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from s2p_converters.core.graph import layer_specs
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.latents import LatentDataset, LatentJob, write_latents
from s2p_mobile.quantize.methods.baselines.pcr import MOMENTUM, PROMPTS_AT_A_TIME, relaxed_calls
from s2p_mobile.quantize.rounding.block_walk import BlockWalk, reconstruction_units
from s2p_mobile.quantize.rounding.calls import call_of_time, draw_shares, normal_times, random_pairs, read_calls, strided_pairs
from s2p_mobile.quantize.rounding.layers import InputGrid
from s2p_mobile.quantize.rounding.observers import RunningRanges
from s2p_mobile.quantize.rounding.rounded import skip_splits
from s2p_mobile.quantize.rounding.waiting import WaitingRoom
from s2p_mobile.sources.trajectory import float_unet


@pytest.fixture(scope="module")
def latents(baseline_job: Callable[..., QuantizationJob], tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    job = baseline_job()
    folder = tmp_path_factory.mktemp("latents") / "set"
    return write_latents(LatentJob(job.model, job.plan, job.prompts, job.guidance, job.seed), folder)


def test_times_of_ptq4dm_are_normal_and_clamped() -> None:
    calls = 25
    times = normal_times(20_000, calls, np.random.default_rng(0))
    inside = times[(times > 0) & (times < calls)]
    # (0 - 0.4 T) / 0.4 T = -1 and (T - 0.4 T) / 0.4 T = 1.5 standard deviations.
    truncated = stats.truncnorm(-1.0, 1.5, loc=0.4 * calls, scale=0.4 * calls)
    assert stats.kstest(inside, truncated.cdf).pvalue > 0.01
    # With the tails at the ends, the integer t has the normal distribution's own probabilities.
    indices = calls - 1 - call_of_time(times, calls)
    edges = stats.norm(0.4 * calls, 0.4 * calls).cdf(np.arange(calls + 1))
    edges[0], edges[-1] = 0.0, 1.0
    counts = np.bincount(indices, minlength=calls)
    assert stats.chisquare(counts, np.diff(edges) * len(times)).pvalue > 0.01
    # Time 0 is the end of sampling: most of what is seen lies in the second half of the calls.
    assert call_of_time(np.array([-3.0, 0.4, 24.9, 99.0]), calls).tolist() == [24, 24, 0, 0]
    assert np.median(call_of_time(times, calls)) > calls / 2


def test_pairs_and_what_they_hold(latents: LatentDataset) -> None:
    prompts, calls = strided_pairs(latents, 128, 2, 1000, np.random.default_rng(1))
    assert sorted(zip(prompts, calls, strict=True)) == [(p, c) for p in (0, 1) for c in (0, 2, 4)]
    assert len(strided_pairs(latents, 128, 2, 4, np.random.default_rng(1))[0]) == 2
    prompts, calls = random_pairs(latents, 14, np.random.default_rng(2))
    pairs = list(zip(prompts, calls, strict=True))
    assert len(set(pairs)) == len(pairs) == 7 and max(calls) < 5 and max(prompts) < 2
    read = read_calls(latents, prompts, calls, torch.device("cpu"))
    assert read.calls.tolist() == [call for call in calls for _ in range(2)]
    for k, (prompt, call) in enumerate(pairs):
        state, texts = latents.states([prompt], [call])[0], latents.conditions([prompt])[0][0]
        for branch in range(2):
            np.testing.assert_array_equal(read.samples[2 * k + branch].numpy(), state)
            assert torch.equal(read.conditions[0][2 * k + branch], texts[branch])


def test_pairs_are_drawn_by_the_weight_of_their_call(latents: LatentDataset) -> None:
    """Of one pair at a time, the first is of each call as often as its share says: 0.8 of its weight and 0.2 of all alike."""
    weights = torch.tensor([3.0, 1.0, 0.5, 0.5, 0.0])
    shares = draw_shares(weights)
    assert shares == pytest.approx(0.8 * weights.numpy() / 5 + 0.2 / 5) and latents.calls == 5
    rng = np.random.default_rng(0)
    seen = np.bincount([random_pairs(latents, latents.branches, rng, shares)[1][0] for _ in range(3000)], minlength=5)
    # Five standard deviations of a count.
    assert (np.abs(seen - 3000 * shares) < 5 * np.sqrt(3000 * shares)).all()
    prompts, calls = random_pairs(latents, latents.prompts * latents.calls * latents.branches, rng, shares)
    assert len(set(zip(prompts, calls, strict=True))) == latents.prompts * latents.calls


def test_relaxed_calls_are_a_share_of_diffusion_time() -> None:
    assert relaxed_calls(25, (0.8, 1.0)) == frozenset(range(5))
    assert relaxed_calls(25, (0.0, 0.2)) == frozenset(range(20, 25))
    assert relaxed_calls(10, (0.0, 1.0)) == frozenset(range(10))


def test_running_ranges_are_those_of_torchs_observer() -> None:
    """The authors' code observes with torch's ``MovingAverageMinMaxObserver`` as it comes, in batches of four."""
    observer = torch.ao.quantization.MovingAverageMinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    ranges, grid = RunningRanges(MOMENTUM, 8), InputGrid(1, 8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        x = torch.randn(PROMPTS_AT_A_TIME, 16, generator=generator) + 0.3
        observer(x)
        ranges.update(grid, x)
    scale, zero = observer.calculate_qparams()
    # float32 sums in another order.
    assert float(grid.scale) == pytest.approx(float(scale), rel=1e-5)
    assert int(grid.zero) == int(zero)
    assert (PROMPTS_AT_A_TIME, observer.averaging_constant) == (4, pytest.approx(1 - MOMENTUM))


def test_walk_gives_what_hooks_see_in_a_whole_run(
    latents: LatentDataset, baseline_job: Callable[..., QuantizationJob], tmp_path: Path
) -> None:
    job = baseline_job()
    unet = float_unet(job.model, job.plan)
    calls = read_calls(latents, [0, 1, 1], [0, 3, 4], torch.device("cpu"))
    units = reconstruction_units(layer_specs(job.model.structure))
    seen: dict[str, tuple[list[torch.Tensor], torch.Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: object, args: tuple[object, ...], result: torch.Tensor) -> None:
            seen[name] = ([arg for arg in args if isinstance(arg, torch.Tensor)], result)

        return keep

    handles = [unet.get_submodule(name).register_forward_hook(hook(name)) for name, _ in units]
    with torch.no_grad():
        unet(calls.samples, calls.calls, *calls.conditions)
    for handle in handles:
        handle.remove()
    # Every layer lies in exactly one unit, and units follow each other as they run.
    assert [spec.name for _, specs in units for spec in specs] == [spec.name for spec in layer_specs(job.model.structure)]
    assert list(seen) == [name for name, _ in units]
    # Half of the memory that is needed, so that some samples wait in files, and a few samples at a time.
    room = WaitingRoom(torch.device("cpu"), torch.float32, 20_000, tmp_path)
    walk = BlockWalk(unet, calls, room, together=2)
    for name, _ in units:
        inputs, output = walk.capture(name, output=True)
        assert len(inputs) == len(seen[name][0]) and output is not None
        for found, expected in zip([*inputs, output], [*seen[name][0], seen[name][1]], strict=True):
            torch.testing.assert_close(found.get(slice(None)), expected, rtol=1e-5, atol=1e-5)
            found.free()
    walk.close()
    assert room.left == 20_000


def test_splits_are_where_the_graph_puts_a_skip(
    baseline_job: Callable[..., QuantizationJob], latents: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = baseline_job()
    unet = float_unet(job.model, job.plan)
    joined: list[tuple[int, int]] = []
    cat = torch.cat
    monkeypatch.setattr(
        torch, "cat", lambda parts, dim=0: (joined.append(tuple(p.shape[1] for p in parts)), cat(parts, dim))[1]
    )
    calls = read_calls(latents, [0], [0], torch.device("cpu"))
    joined.clear()
    unet(calls.samples, calls.calls, *calls.conditions)
    resnets = [f"{b.name}.resnets.{j}" for b in job.model.structure.up for j in range(len(b.resnets))]
    expected = {f"{name}.conv_shortcut": pair[0] for name, pair in zip(resnets, joined, strict=True)}
    assert skip_splits(job.model.structure) == expected
