"""Whether the teacher draws what it is told: held-out captions, drawn, and found again by the judge among all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from demo_model import judge
from midsize.counts import Counts
from midsize.rendering import render
from midsize.scenes import Scene
from midsize.teacher import held_out_scenes
from s2p_mobile.judge.evaluation.drawing import draw
from s2p_mobile.sources.session import open_session
from s2p_mobile.sources.torch_artist import model_artist
from s2p_runtime.contract import Contract


class GateResult(Contract):
    """How often the judge finds a picture's own caption.

    Attributes:
        drawn: by the teacher: ``top1`` and ``top5`` of the captions, and the mean cosine.
        rendered: of the same captions by the renderer: the best that a teacher could do.
    """

    count: int
    drawn: dict[str, float]
    rendered: dict[str, float]
    wanted_top5: float

    @property
    def passed(self) -> bool:
        """Whether a comparison on this teacher says anything."""
        return self.drawn["top5"] >= self.wanted_top5

    @property
    def words(self) -> str:
        """One line."""
        drawn, rendered = self.drawn, self.rendered
        return (
            f"of {self.count} held-out captions the judge finds a drawn picture's own first for {drawn['top1']:.0%}, among the "
            f"first five for {drawn['top5']:.0%} ({self.wanted_top5:.0%} wanted); a rendered picture's for {rendered['top1']:.0%} "
            f"and {rendered['top5']:.0%}"
        )


def run_gate(model: Path, counts: Counts, device: torch.device) -> tuple[GateResult, NDArray[np.uint8]]:
    """The result, and the teacher's pictures, uint8 [N, size, size, 3]."""
    session = open_session(model, steps=counts.calls, device=device)
    artist = model_artist(session.model, session.plan, session.guidance, session.device)
    artist.batch = counts.together
    scenes = held_out_scenes(counts)[: counts.gate_count]
    texts = [scene.text for scene in scenes]
    pictures = draw(artist, texts, range(len(texts))).pictures
    drawn = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    result = GateResult(
        count=len(texts),
        drawn=judge(model, drawn, texts, texts),
        rendered=judge(model, _rendered(scenes, counts), texts, texts),
        wanted_top5=counts.gate,
    )
    return result, pictures


def _rendered(scenes: list[Scene], counts: Counts) -> torch.Tensor:
    return render(scenes, torch.Generator().manual_seed(counts.seed), counts.size, torch.device("cpu"))
