"""A forecast for people."""

from __future__ import annotations

from collections.abc import Iterator

from s2p_mobile.quantize.forecast.forecast import Forecast
from s2p_mobile.quantize.words import size_words, time_words


def forecast_lines(forecast: Forecast) -> Iterator[str]:
    """Lines to print."""
    parameters = ", ".join(f"{name} {count / 1e6:,.2f} M" for name, count in forecast.parameters.items())
    yield f"{forecast.model}, method {forecast.method}, recipe {forecast.recipe}"
    yield f"parameters: {parameters}"
    listing = ", ".join(f"{count} x {_bit_width(bits)}" for bits, count in forecast.layers.items() if count)
    yield f"layers: {listing}" + (f"; {forecast.bits_note}" if forecast.bits_note else "")
    disk = "".join(f"{size_words(count)} of {name}, " for name, count in forecast.disk.items() if count)
    yield f"disk: {disk}at most {size_words(forecast.checkpoint_bytes)} of checkpoint"
    parts = ", ".join(f"{name} {size_words(part)}" for name, part in forecast.memory_parts.items() if part)
    yield f"plan: {forecast.devices[0].plan_words}"
    yield f"peak memory: about {size_words(forecast.memory_bytes)}, {forecast.memory_stage} ({parts})"
    yield f"work: one U-Net pass is {forecast.unet_flops / 1e9:,.2f} GFLOP a sample"
    for stage in forecast.stages:
        passes = f"  {stage.samples:,.0f} U-Net samples, {stage.flops / 1e12:,.2f} TFLOP" if stage.samples else ""
        yield f"{time_words(stage.seconds):>15}  {size_words(stage.memory_bytes):>10}  {stage.name}{passes}"
    if forecast.start_seconds:
        yield f"{time_words(forecast.start_seconds):>15}  {'':>10}  loading"
    for device in forecast.devices:
        taken = f"{size_words(device.memory_bytes)}{'' if device.fits else ', more than it has'}"
        yield f"{time_words(3600 * device.hours):>9}  {device.name}, {taken}: {device.plan_words} (at {device.assumption})"


def _bit_width(bits: str) -> str:
    return "float" if bits == "float" else f"{bits} bits"
