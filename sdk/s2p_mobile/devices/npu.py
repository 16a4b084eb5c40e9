"""Bundles whose programs are compiled for chips: whether a phone has one of them, and what its report says of it."""

from __future__ import annotations

from s2p_mobile.devices.adb import Adb
from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.socs import SOCS
from s2p_runtime.report import BenchReport

CHIP_PROPERTY = "ro.soc.model"
"""From Android 12 on; what apps read as ``Build.SOC_MODEL``."""


def phone_chip(adb: Adb, bundle: Bundle) -> str | None:
    """The chip of a phone, which is one of the bundle's. None: the bundle's programs run on any.

    Raises:
        S2PError: the phone does not name its chip, or has one that the bundle is not for.
    """
    if not bundle.manifest.chips:
        return None
    wanted = f"{bundle.folder.name} is for the NPU of {', '.join(map(_titled, bundle.manifest.chips))}"
    chip = adb.shell(f"getprop {CHIP_PROPERTY}", check=False).strip()
    if not chip:
        raise S2PError(
            f"{wanted}, and device {adb.serial} does not name its chip, which takes Android 12",
            "convert with `backend=xnnpack` to measure its processor",
            "backend",
        )
    if chip not in bundle.manifest.chips:
        known = chip in SOCS
        raise S2PError(
            f"{wanted}, and device {adb.serial} has {_titled(chip)}",
            f"convert with `soc={chip}`" if known else "convert with `backend=xnnpack` to measure its processor",
            "soc" if known else "backend",
        )
    return chip


def refuse_chips(bundle: Bundle) -> None:
    """For what brings no engine for an NPU.

    Raises:
        S2PError: the bundle's programs are compiled for chips.
    """
    if bundle.manifest.chips:
        raise S2PError(
            f"{bundle.folder.name} is for the NPU of {', '.join(bundle.manifest.chips)}, whose engine the runner does not bring",
            "measure it with `device=android-app`, or convert with `backend=xnnpack` to measure the processor",
            "backend",
        )


def with_chip(report: BenchReport, bundle: Bundle, chip: str | None) -> BenchReport:
    """The report with the chip, and the version of its NPU behind the delegate of each program that was compiled for it."""
    if chip is None:
        return report
    npu = f"NPU V{SOCS[chip].arch} of {chip}" if chip in SOCS else f"NPU of {chip}"
    manifest = bundle.manifest
    compiled = {"unet" if name in manifest.chunks else name for name, part in manifest.components.items() if part.chips}
    backend = {name: f"{text}, {npu}" if name in compiled else text for name, text in report.backend.items()}
    missing = {path: reason for path, reason in report.missing.items() if path != "device.soc"}
    device = report.device.model_copy(update={"soc": chip})
    return report.model_copy(update={"backend": backend, "device": device, "missing": missing})


def _titled(chip: str) -> str:
    """A chip's name, with that which phones are sold with where it is known."""
    return f"{chip} ({SOCS[chip].title})" if chip in SOCS else chip
