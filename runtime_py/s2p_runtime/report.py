"""The benchmark report: one schema for the host, iOS and Android harnesses.

A figure that could not be measured is null and has its reason in ``missing`` under its dotted path; it is never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from s2p_runtime.component import TARGET_PATTERN
from s2p_runtime.contract import Contract, SparseContract

REPORT_FORMAT: Final = "s2p-report"
REPORT_VERSION: Final = 2
"""Version 2 tells the compute units that programs were loaded with and where their operators run. Version 1 is read as well."""


LoadedUnit = Literal["neural-engine", "gpu", "all", "cpu"]
"""Processors that a program was loaded for: those of manifests, and the CPU alone."""
Processor = Literal["neural-engine", "gpu", "cpu", "other"]
"""One processor of a device."""
LoadPhase = Literal["compile", "specialise", "first", "cached"]
"""Parts of getting a program ready: translation on the device, fitting it to the chip, the first load, and a load after that."""


class Device(Contract):
    """The measured machine."""

    model: str
    os: str
    soc: str | None
    memory_bytes: int | None
    cores: int | None


class Protocol(Contract):
    """How the measurement was made."""

    warmup_runs: int = Field(ge=0)
    runs: int = Field(ge=1)
    cooldown_seconds: float = Field(ge=0)
    minimum_seconds: float = Field(ge=0)
    threads: int | None = Field(description="null: the engine chose")


class Timings(SparseContract):
    """Raw samples in milliseconds, in the order in which they were taken. ``unet_call`` has one list per measured image."""

    load: dict[str, float] = Field(description="load time of each component, compilation included, once")
    text_encoder: tuple[float, ...]
    unet_call: tuple[tuple[float, ...], ...]
    vae_decoder: tuple[float, ...]
    image: tuple[float, ...] = Field(description="prompt to picture")
    load_phases: dict[str, dict[LoadPhase, float]] | None = Field(
        default=None, description="per component and phase, ms; absent: the harness does not tell them apart"
    )


class Summary(Contract):
    """Nearest-rank percentiles and the mean of the middle 80 per cent, in milliseconds."""

    count: int = Field(ge=1)
    p50: float
    p90: float
    p99: float
    trimmed_mean: float


class Memory(SparseContract):
    """Memory of the process, from a pass of its own."""

    baseline_bytes: int | None
    peak_bytes: int | None
    method: str = Field(description="e.g. 'VmHWM of /proc/self/status', 'phys_footprint'")
    samples: tuple[tuple[float, int], ...] = Field(description="(seconds since start, bytes)")
    own_launch: bool | None = Field(default=None, description="in a process that did nothing else; absent: not told")


class ThermalSample(Contract):
    """One reading: seconds since the start, state (nominal, fair, serious, critical) and temperatures by sensor."""

    seconds: float
    state: str | None
    celsius: dict[str, float]
    headroom: float | None = Field(description="Android: 1.0 is the severe threshold")


class EnergySample(Contract):
    """One reading of power or charge."""

    seconds: float
    milliwatts: float | None
    battery_level: float | None = Field(ge=0, le=1, description="1 is full")


class Fidelity(Contract):
    """The device's own picture against a golden run."""

    golden_id: str
    latent_psnr_db: float | None
    latent_max_abs: float
    image_psnr_db: float | None
    image_max_abs: float | None


class Validity(SparseContract):
    """Conditions of a fair run; null where the device cannot tell."""

    unplugged: bool | None
    low_power_mode_off: bool | None
    thermal_nominal_at_start: bool | None
    minimum_duration_met: bool
    fidelity_ok: bool
    foreground: bool | None = Field(default=None, description="in front from start to end; absent: not an app, or not told")
    unlocked: bool | None = Field(default=None, description="screen never locked; absent: no screen, or not told")
    not_throttled: bool | None = Field(default=None, description="no reading of heat was serious or critical; absent: none")


class RunEvent(Contract):
    """Something that happened to the device while pictures were measured."""

    seconds: float = Field(description="since the start of the measured pictures")
    kind: Literal["background", "foreground", "lock", "unlock", "thermal"]
    state: str | None = Field(description="of thermal: the new one; else null")


class PlacedOperator(Contract):
    """Where the engine means to run one operator of a program."""

    program: str = Field(description="component of the bundle")
    function: str = Field(description="of the program, e.g. 'main'")
    type: str = Field(description="as the engine names it, e.g. 'ios16.conv'")
    output: str | None = Field(description="name of its first output; null: it has none")
    preferred: Processor | None = Field(description="where it is to run; null: the engine does not tell")
    supported: tuple[Processor, ...] = Field(description="where it could run")
    cost: float | None = Field(description="estimated share of the work of its program, 0 to 1; null: the engine does not tell")


class BenchReport(SparseContract):
    """``report.json``."""

    format: Literal["s2p-report"] = REPORT_FORMAT
    version: Literal[2] = REPORT_VERSION
    harness: Literal["host", "ios", "android", "linux"]
    harness_version: str
    created: str = Field(description="UTC, ISO 8601")
    device: Device
    bundle_name: str
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the bundle's manifest.json")
    target: str = Field(pattern=TARGET_PATTERN, description="of the bundle")
    backend: dict[str, str] = Field(description="per component: backend or compute units")
    compute_units: dict[str, LoadedUnit] = Field(description="per program: what it was loaded for; empty: no such choice")
    placement: tuple[PlacedOperator, ...] = Field(description="every operator but constants, in the programs' order")
    protocol: Protocol
    timings_ms: Timings
    summary_ms: dict[str, Summary] = Field(description="keys text_encoder, unet_call, vae_decoder, image")
    memory: Memory
    thermal: tuple[ThermalSample, ...]
    energy: tuple[EnergySample, ...]
    fidelity: tuple[Fidelity, ...]
    validity: Validity
    missing: dict[str, str] = Field(description="dotted path of a null or empty figure: reason")
    events: tuple[RunEvent, ...] | None = Field(default=None, description="of the measured pictures; absent: nobody watched")

    @classmethod
    def added_since(cls, version: int) -> Mapping[str, Any]:
        """Version 1 tells nothing of compute units and placement."""
        return {"compute_units": {}, "placement": []} if version < 2 else {}


def picture_path(report: Path, golden_id: str) -> Path:
    """Where a harness leaves the picture that it drew of a golden run: ``<report stem>-<golden id>.png`` beside the report."""
    return report.with_name(f"{report.stem}-{golden_id}.png")
