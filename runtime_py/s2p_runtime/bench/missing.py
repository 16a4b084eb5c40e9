"""Reasons for the figures that a host report lacks."""

from __future__ import annotations

from s2p_runtime.report import BenchReport

_NO_READING = "the machine gives no reading"
_NO_BATTERY = "no battery that can be read"


def missing_reasons(report: BenchReport, no_memory: str | None) -> dict[str, str]:
    """Dotted path of each null or empty figure: why.

    Args:
        no_memory: why there was no memory pass, or None.
    """
    memory, thermal, energy, validity = report.memory, report.thermal, report.energy, report.validity
    absent = {
        "device.soc": (report.device.soc is None, "the system does not name the chip"),
        "device.memory_bytes": (report.device.memory_bytes is None, _NO_READING),
        "device.cores": (report.device.cores is None, _NO_READING),
        "compute_units": (not report.compute_units, "this engine has no such choice"),
        "placement": (not report.placement, "this engine does not tell where operators run"),
        "protocol.threads": (report.protocol.threads is None, "the engine chose"),
        "memory.baseline_bytes": (memory.baseline_bytes is None, no_memory or "/proc/self/status has no VmRSS"),
        "memory.peak_bytes": (memory.peak_bytes is None, no_memory or "neither VmHWM nor getrusage is there"),
        "memory.samples": (not memory.samples, no_memory or "/proc/self/smaps_rollup cannot be read"),
        "thermal.state": (all(sample.state is None for sample in thermal), _NO_READING),
        "thermal.celsius": (not any(sample.celsius for sample in thermal), _NO_READING),
        "thermal.headroom": (True, "needs Android's thermal service (API 31)"),
        "energy.milliwatts": (
            all(sample.milliwatts is None for sample in energy),
            "no power sensor, or the battery is charging",
        ),
        "energy.battery_level": (all(sample.battery_level is None for sample in energy), _NO_BATTERY),
        "validity.unplugged": (validity.unplugged is None, _NO_BATTERY),
        "validity.low_power_mode_off": (validity.low_power_mode_off is None, _NO_READING),
        "validity.thermal_nominal_at_start": (validity.thermal_nominal_at_start is None, _NO_READING),
    }
    for index, fidelity in enumerate(report.fidelity):
        path = f"fidelity.{index}"
        reason = "no finite ratio: identical, or the golden latents are constant"
        absent[f"{path}.latent_psnr_db"] = (fidelity.latent_psnr_db is None, reason)
        absent[f"{path}.image_psnr_db"] = (fidelity.image_psnr_db is None, "the pictures are identical")
    return {path: reason for path, (missing, reason) in absent.items() if missing}
