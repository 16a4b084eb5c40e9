"""Training state that survives ``kill -9``, and the loop that goes on from it.

One safetensors file per phase holds weights, EMA weights and AdamW's moments; its JSON header holds the step and the
settings' fingerprint. The file is replaced atomically, so it is always a whole state. Random numbers are no part of it: every
draw comes from a generator seeded by (seed, phase, step), so a resumed run sees exactly what an uninterrupted one sees.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from s2p_runtime.errors import S2PError
from s2p_runtime.files import atomic_file

_HEADER = "s2p_demo_train"


class Paused(S2PError):
    """The time given was used up; the state is saved and the same command goes on (exit status 3)."""

    exit_status = 3


def generator(seed: int, phase: str, step: int) -> torch.Generator:
    """CPU generator of one training step. The draws are made on the CPU, so they do not depend on the device."""
    digest = zlib.crc32(f"{seed}|{phase}|{step}".encode())
    return torch.Generator().manual_seed((digest << 20) + step)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> None:
    """Write tensors and a JSON header atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as scratch:
        save_file(whole, scratch, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def load_tensors(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        S2PError: the file is damaged, or was made with other settings.
    """
    try:
        with safe_open(path, "pt") as handle:
            header = json.loads((handle.metadata() or {})[_HEADER])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise S2PError(f"{path} is not a training state ({error})", "delete it to begin that stage again") from error
    if header.pop("settings", None) != fingerprint:
        raise S2PError(f"{path} was made with other settings", "repeat those, or choose another `out`", "out")
    return tensors, header


@dataclass
class Clock:
    """When to save and when to stop. ``minutes`` counts from the creation of the clock; None never stops."""

    minutes: float | None = None
    save_seconds: float = 60.0
    started: float = field(default_factory=time.monotonic)
    on_step: Callable[[str, int, int, float], None] | None = None
    """Called with (phase, steps done, steps in all, loss) after each step."""

    @property
    def spent(self) -> bool:
        """Whether the time given is used up."""
        return self.minutes is not None and time.monotonic() - self.started >= 60.0 * self.minutes


def flat_then_cosine(position: float, flat: float = 0.3) -> float:
    """Learning-rate factor at ``position`` in [0, 1): 1 for the first ``flat`` of the way, then a cosine to 0."""
    if position < flat:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (position - flat) / (1.0 - flat)))


@dataclass
class Phase:
    """One optimisation: what is trained, for how long, and where its state lives.

    Attributes:
        name: of the state file and of the random stream.
        modules: trained modules by name.
        steps: in all.
        learning_rate: of step ``i``.
        seconds: of training at most, interruptions not counted; None: the steps alone decide. The learning rate is that of the
            step which lies as far on in ``steps`` as the time does in ``seconds``, so that it falls to its end in either case.
        ema: decay of the averaged weights that :func:`run` leaves in the modules; None keeps the last weights.
    """

    name: str
    modules: dict[str, nn.Module]
    steps: int
    learning_rate: Callable[[int], float]
    ema: float | None = None
    seconds: float | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters under ``module.parameter`` names."""
        return {
            f"{prefix}.{name}": parameter
            for prefix, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def place(self, done: int, spent: float) -> int:
        """How far on a training is after so many steps and seconds, in steps."""
        return done if self.seconds is None else max(done, int(self.steps * spent / self.seconds))


def run(phase: Phase, loss_of_step: Callable[[int], Tensor], folder: Path, fingerprint: str, clock: Clock) -> None:
    """Train to the end of the phase, from its saved state if there is one, and leave the result in the modules.

    Args:
        phase: what to train.
        loss_of_step: scalar loss of step ``i``; must draw all its random numbers from ``generator(seed, phase, i)``.
        folder: of the state file ``<phase>.safetensors``.
        fingerprint: of the settings.
        clock: when to save, when to stop.

    Raises:
        Paused: the clock ran out; the state is saved.
        S2PError: the saved state is damaged or made with other settings, or the loss is not finite.
    """
    path = folder / f"{phase.name}.safetensors"
    parameters = phase.parameters()
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-3)
    averages = {name: p.detach().clone() for name, p in parameters.items()} if phase.ema is not None else {}
    done, before = 0, 0.0
    if path.exists():
        tensors, header = load_tensors(path, fingerprint)
        done, before = int(header["step"]), header.get("seconds", 0.0)
        _restore(parameters, averages, optimizer, tensors, done)

    began = saved_at = time.monotonic()
    place = phase.place(done, before)
    try:
        while place < phase.steps:
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate(place)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_step(done)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise S2PError(
                    f"the loss of {phase.name} became {value} at step {done}",
                    f"delete {path.name} and try another `seed`",
                    "seed",
                )
            loss.backward()
            nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step()
            done += 1
            if phase.ema is not None:
                _average(averages, parameters, phase.ema, done)
            spent = before + time.monotonic() - began
            place = phase.place(done, spent)
            if clock.on_step is not None:
                clock.on_step(phase.name, done, phase.steps, value)
            if place >= phase.steps or time.monotonic() - saved_at >= clock.save_seconds or clock.spent:
                header = {"step": done} if phase.seconds is None else {"step": done, "seconds": spent}
                save_tensors(path, _collect(parameters, averages, optimizer), {**header, "settings": fingerprint})
                saved_at = time.monotonic()
            if place < phase.steps and clock.spent:
                raise Paused(
                    f"time is up in {phase.name} at step {done} of {phase.steps}", "the same command goes on from there"
                )
    finally:
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, average in averages.items():
            parameters[name].copy_(average)


def _average(averages: dict[str, Tensor], parameters: dict[str, nn.Parameter], decay: float, done: int) -> None:
    # The usual warm-up, so that the average is not held back by the first random weights.
    decay = min(decay, (1.0 + done) / (10.0 + done))
    with torch.no_grad():
        # Together: one kernel a tensor would take a GPU as long as a small model's step.
        torch._foreach_lerp_(list(averages.values()), [parameters[name] for name in averages], 1.0 - decay)


def _collect(
    parameters: dict[str, nn.Parameter], averages: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        moments = optimizer.state[parameter]
        tensors[f"weight/{name}"] = parameter
        tensors[f"first/{name}"] = moments["exp_avg"]
        tensors[f"second/{name}"] = moments["exp_avg_sq"]
    tensors.update({f"average/{name}": average for name, average in averages.items()})
    return tensors


def _restore(
    parameters: dict[str, nn.Parameter],
    averages: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    done: int,
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(done)),
                "exp_avg": tensors[f"first/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"second/{name}"].to(parameter.device),
            }
        for name, average in averages.items():
            average.copy_(tensors[f"average/{name}"])
