"""A sampler of the plug-in's own class."""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers import EulerDiscreteScheduler

from s2p_converters.core.plan import Scheduler


class QuadraticEulerScheduler(EulerDiscreteScheduler):
    """Euler's method at timesteps that are proportional to squares, so that steps get shorter towards the picture.

    Source of the spacing: Song, Meng and Ermon, "Denoising diffusion implicit models", appendix D.2.
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """See diffusers: ``timesteps`` from noise to picture."""
        last = self.config.num_train_timesteps - 1
        squares = np.linspace(1, np.sqrt(last), num_inference_steps) ** 2
        super().set_timesteps(device=device, timesteps=squares.round()[::-1].astype(np.int64).tolist())


TOY = Scheduler(QuadraticEulerScheduler)
