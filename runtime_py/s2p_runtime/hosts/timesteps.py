"""Timesteps as Apple's Swift packages pass them to a U-Net."""

from __future__ import annotations


def told_timestep(timestep: float) -> int:
    """The integer that Apple's pipeline passes for a call's timestep; it knows no others."""
    return round(timestep)
