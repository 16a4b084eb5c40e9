"""Golden runs without an engine: what they recorded answers in place of the programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from s2p_runtime.backends import Array32
from s2p_runtime.bundle import Bundle, GoldenRun
from s2p_runtime.conditioning import bundle_tokenizers, conditioner_of, token_ids
from s2p_runtime.contract import Contract
from s2p_runtime.errors import S2PError
from s2p_runtime.pictures import from_picture, relative_error, to_picture
from s2p_runtime.verify import SAMPLER_TOLERANCE, free_run, read_golden
from s2p_runtime.walker import initial_latents

Array = NDArray[Any]


class ReplayBackend:
    """Answers what a golden run recorded, and refuses what it did not. See :class:`s2p_runtime.backends.Backend`."""

    def __init__(self, bundle: Bundle, run: GoldenRun) -> None:
        """
        Raises:
            S2PError: the run's file is unreadable or lacks tensors.
        """
        self.bundle, self.golden = bundle, run
        self.tensors = read_golden(bundle, run)
        self._conditioner = conditioner_of(bundle.manifest)

    def start(self, threads: int | None = None) -> None:
        """There is no engine to start."""

    def load(self, component: str) -> None:
        """There is no program to load."""

    def describe(self, component: str) -> str:
        """See :class:`s2p_runtime.backends.Backend`."""
        return f"replay of golden run {self.golden.id}"

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, Array32]:
        """See :class:`s2p_runtime.backends.Backend`: for the token ids of the run, one text at a time, and what was made of them.

        Raises:
            S2PError: other inputs than the run's.
        """
        rows = self._rows(component, inputs)
        recorded = [tensor for tensor, maker in self._conditioner.made_by.items() if maker == component]
        outputs = self.bundle.component(component)[0].outputs
        return {port.name: self.tensors[name][rows] for port, name in zip(outputs, recorded, strict=True)}

    def _rows(self, component: str, inputs: Mapping[str, Array]) -> slice:
        """Which branches the inputs are of."""
        if all(name in self.tensors for name in inputs):
            if all(np.array_equal(value, self.tensors[name]) for name, value in inputs.items()):
                return slice(None)
        else:
            for row, known in enumerate(self._conditioner.token_rows(self.tensors)):
                if all(np.array_equal(inputs[name], ids) for name, ids in known.items()):
                    return slice(row, row + 1)
        raise self._not_recorded(f"what {component} makes of these inputs")

    def predict(self, sample: Array32, step: int, conditions: Mapping[str, Array32]) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`. The answer is the recorded one whatever the states are: what they should be is
        for the caller to compare.

        Raises:
            S2PError: the run has not recorded this call, these conditions or this shape.
        """
        own = self._conditioner.conditions(self.tensors).inputs
        known = [int(call) for call in self.tensors["noise_pred_calls"]]
        same = conditions.keys() == own.keys() and all(np.array_equal(conditions[name], own[name]) for name in own)
        if step not in known or not same or sample.shape != self.tensors["noise_pred"].shape[1:]:
            raise self._not_recorded(f"call {step} with these inputs")
        output: Array32 = self.tensors["noise_pred"][known.index(step)]
        return output

    def decode(self, latents: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`. What a run from a picture ends in is not recorded; the run's own picture stands
        for it.

        Raises:
            S2PError: other latents than the end of the run, or of the one from its picture.
        """
        spec = self.bundle.manifest.latents
        for end in ("quantized_latents", "from_picture_latents"):
            own = spec.decoder_input(self.tensors[end]) if end in self.tensors else None
            if own is not None and latents.shape == own.shape and relative_error(latents, own) <= SAMPLER_TOLERANCE:
                image: Array32 = self.tensors["image"]
                return image
        raise self._not_recorded("the picture of these latents")

    def encode(self, image: Array32) -> Array32:
        """See :class:`s2p_runtime.backends.Backend`.

        Raises:
            S2PError: another picture than the run's own, in 8 bits, or a run that was not encoded again.
        """
        own = from_picture(to_picture(self.tensors["image"]))
        if "moments" not in self.tensors or not np.array_equal(image, own):
            raise self._not_recorded("the latents of this picture")
        moments: Array32 = self.tensors["moments"]
        return moments

    def _not_recorded(self, what: str) -> S2PError:
        return S2PError(
            f"golden run {self.golden.id} of {self.bundle.folder.name} has not recorded {what}",
            "give the run's own prompt and seed, or run the bundle with its engine",
        )


class GoldenReplay(Contract):
    """Result of :func:`replay`. Errors are relative, see :func:`s2p_runtime.pictures.relative_error`."""

    id: str
    tokens_ok: bool = Field(description="the tokenizer gives the recorded ids")
    noise_error: float = Field(description="of the initial latents that the seed gives here")
    recorded_calls: int
    latents_error: float | None = Field(description="of the sampling plan's end; null when not all calls are recorded")
    ok: bool


def replay(bundle: Bundle, run: GoldenRun) -> GoldenReplay:
    """Do again what needs no engine: the prompt's tokens, the seed's noise, and the sampling plan over the recorded outputs.

    Raises:
        S2PError: the run's file is unreadable or lacks tensors.
    """
    manifest, backend = bundle.manifest, ReplayBackend(bundle, run)
    tensors = backend.tensors
    texts = ["", run.prompt] if manifest.guidance > 1 else [run.prompt]
    ids = token_ids(bundle_tokenizers(bundle), texts)
    tokens_ok = all(np.array_equal(found, tensors[name]) for name, found in ids.items())
    start = tensors["initial_latents"]
    noise_error = relative_error(initial_latents(manifest.plan, run.seed, start.shape), start)
    recorded = len(tensors["noise_pred_calls"])
    latents_error = None
    if recorded == len(manifest.plan.calls):
        end = free_run(bundle, backend, run, tensors)
        latents_error = relative_error(end, tensors["quantized_latents"])
    ok = tokens_ok and max(noise_error, latents_error or 0.0) <= SAMPLER_TOLERANCE
    return GoldenReplay(
        id=run.id,
        tokens_ok=tokens_ok,
        noise_error=noise_error,
        recorded_calls=recorded,
        latents_error=latents_error,
        ok=ok,
    )
