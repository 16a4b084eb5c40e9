"""What the machine tells about itself: heat, power, memory, its name. The semantics are those of the C++ harness."""

from __future__ import annotations

import os
import platform
from typing import Literal

from s2p_runtime.bench.system_files import SystemFiles
from s2p_runtime.report import Device, EnergySample, ThermalSample

_ZONES = "sys/class/thermal"
_MONITORS = "sys/class/hwmon"
_SUPPLIES = "sys/class/power_supply"
_STATES: tuple[Literal["nominal", "fair", "serious", "critical"], ...] = ("nominal", "fair", "serious", "critical")
_SEVERITY = {"active": 1, "passive": 2, "hot": 2, "critical": 3}
"""Trip points of the kernel: active starts a fan, passive and hot slow the machine down, critical switches it off."""


def _is_temperature(celsius: float) -> bool:
    """A zone that is switched off reads 0, or far outside of this."""
    return celsius != 0 and -40 < celsius < 200


class Probes:
    """Reads the machine; what it does not tell is None or empty, never 0."""

    def __init__(self, files: SystemFiles | None = None, process: str = "self") -> None:
        """
        Args:
            process: whose memory is read: a number, or this process.
        """
        self.files, self.process = files or SystemFiles(), process

    def device(self) -> Device:
        """The machine's name, system, chip, memory and cores."""
        files = self.files
        tree = files.text("proc/device-tree/model")
        product = files.text("sys/class/dmi/id/product_name")
        compatible = files.text("proc/device-tree/compatible")
        return Device(
            model=tree or product or f"unknown {platform.machine() or 'machine'}",
            os=self._release() or f"{platform.system()} {platform.release()}",
            # Device trees list "maker,board" first and "maker,chip" last, separated by NULs.
            soc=compatible.split("\0")[-1] if compatible else self._processor(),
            memory_bytes=files.kilobytes("proc/meminfo", "MemTotal"),
            cores=os.cpu_count(),
        )

    def _release(self) -> str | None:
        for line in (self.files.text("etc/os-release") or "").splitlines():
            name, _, value = line.partition("=")
            if name == "PRETTY_NAME":
                return value.strip('"') or None
        return None

    def _processor(self) -> str | None:
        for line in (self.files.text("proc/cpuinfo") or "").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip() or None
        return None

    def resident_bytes(self) -> int | None:
        """VmRSS of the process."""
        return self.files.kilobytes(f"proc/{self.process}/status", "VmRSS")

    def peak_bytes(self) -> int | None:
        """VmHWM of the process."""
        return self.files.kilobytes(f"proc/{self.process}/status", "VmHWM")

    def proportional_bytes(self) -> int | None:
        """Pss of the process: shared pages counted in proportion."""
        return self.files.kilobytes(f"proc/{self.process}/smaps_rollup", "Pss")

    def thermal(self, seconds: float) -> ThermalSample:
        """Temperatures, and the state that the kernel's trip points give."""
        return ThermalSample(seconds=seconds, state=self._trip_state(), celsius=self._temperatures(), headroom=None)

    def _zones(self) -> list[tuple[str, float]]:
        """Folder and millidegrees of each zone that has a plausible reading."""
        folders = [f"{_ZONES}/{name}" for name in self.files.names(_ZONES, "thermal_zone")]
        readings = [(folder, self.files.number(f"{folder}/temp")) for folder in folders]
        return [(folder, value) for folder, value in readings if value is not None and _is_temperature(value / 1000)]

    def _temperatures(self) -> dict[str, float]:
        celsius: dict[str, float] = {}
        for folder, millidegrees in self._zones():
            name = kind = self.files.text(f"{folder}/type") or folder.rsplit("/", 1)[1]
            number = 1
            while name in celsius:
                number += 1
                name = f"{kind}-{number}"
            celsius[name] = millidegrees / 1000
        return celsius

    def _trip_state(self) -> str | None:
        worst: int | None = None
        for folder, millidegrees in self._zones():
            trip = 0
            while (kind := self.files.text(f"{folder}/trip_point_{trip}_type")) is not None:
                threshold = self.files.number(f"{folder}/trip_point_{trip}_temp")
                trip += 1
                if kind not in _SEVERITY or threshold is None or threshold <= 0:
                    continue
                worst = max(worst or 0, _SEVERITY[kind] if millidegrees >= threshold else 0)
        return None if worst is None else _STATES[worst]

    def energy(self, seconds: float) -> EnergySample:
        """Power of the whole board, or of a battery that is being used up; charge of the battery."""
        milliwatts = self._rail_milliwatts()
        battery = self._battery()
        if milliwatts is None and battery is not None:
            milliwatts = self._battery_milliwatts(battery)
        percent = None if battery is None else self.files.number(f"{battery}/capacity")
        level = percent / 100 if percent is not None and 0 <= percent <= 100 else None
        return EnergySample(seconds=seconds, milliwatts=milliwatts, battery_level=level)

    def _rail_milliwatts(self) -> float | None:
        """INA monitors: ``power1_input`` in microwatts, or millivolts times milliamperes per rail.

        On a Jetson the rail VDD_IN is the board's whole input, from which the other rails are fed.
        """
        total: float | None = None
        for name in self.files.names(_MONITORS, "hwmon"):
            folder = f"{_MONITORS}/{name}"
            if not (self.files.text(f"{folder}/name") or "").startswith("ina"):
                continue
            microwatts = self.files.number(f"{folder}/power1_input")
            if microwatts is not None:
                total = (total or 0) + microwatts / 1000 if microwatts > 0 else total
                continue
            for channel in (1, 2, 3):
                millivolts = self.files.number(f"{folder}/in{channel}_input")
                milliamperes = self.files.number(f"{folder}/curr{channel}_input")
                if millivolts is None or milliamperes is None:
                    continue
                milliwatts = millivolts * milliamperes / 1000
                if self.files.text(f"{folder}/in{channel}_label") == "VDD_IN":
                    return milliwatts
                total = (total or 0) + milliwatts if milliwatts > 0 else total
        return total

    def _battery(self) -> str | None:
        for name in self.files.names(_SUPPLIES):
            folder = f"{_SUPPLIES}/{name}"
            # A "Device" scope is the battery of a mouse or keyboard.
            own = (self.files.text(f"{folder}/scope") or "System") == "System"
            if own and self.files.text(f"{folder}/type") == "Battery":
                return folder
        return None

    def _battery_milliwatts(self, battery: str) -> float | None:
        # While it charges, the battery's current says nothing about what the machine draws.
        if self.files.text(f"{battery}/status") != "Discharging":
            return None
        microamperes = self.files.number(f"{battery}/current_now")
        microvolts = self.files.number(f"{battery}/voltage_now")
        if not microamperes or microvolts is None or microvolts <= 0:
            return None
        # Makers disagree on the sign of a discharging current.
        return abs(microamperes) * microvolts / 1e9

    def unplugged(self) -> bool | None:
        """Whether the machine runs on its battery; None when it has none, or does not tell."""
        if self._battery() is None:
            return None
        plugged: bool | None = None
        for name in self.files.names(_SUPPLIES):
            if (self.files.text(f"{_SUPPLIES}/{name}/type") or "Battery") == "Battery":
                continue
            online = self.files.number(f"{_SUPPLIES}/{name}/online")
            plugged = plugged if online is None else bool(plugged) or online != 0
        return None if plugged is None else not plugged
