"""Probes on copies of real machines' files: those of the C++ harness, with the readings that stand in them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from s2p_runtime.bench import Probes, SystemFiles, parse_cores
from s2p_runtime.bench.cores import on_cores
from s2p_runtime.errors import S2PError

TREES = Path(__file__).parents[3] / "android_harness" / "tests" / "fixtures"


def tree(name: str) -> Probes:
    return Probes(SystemFiles(TREES / name))


def test_pixel() -> None:
    probes = tree("sysfs-pixel")
    # TPU (off, -273) and quiet_therm (0) give no reading; the second battery zone gets a name of its own.
    zones = {"BIG": 41.0, "MID": 40.0, "LITTLE": 39.0, "G3D": 38.0, "battery": 29.4, "battery-2": 29.5}
    thermal, energy = probes.thermal(1.5), probes.energy(2.5)
    assert (thermal.celsius, thermal.state, thermal.seconds) == (zones, None, 1.5)
    # 0.8125 A at 4 V.
    assert (energy.milliwatts, energy.battery_level, energy.seconds) == (3250.0, 0.83, 2.5)
    assert probes.unplugged() is True
    assert probes.device().memory_bytes == 11863504 * 1024
    assert probes.resident_bytes() == 20480 * 1024
    assert probes.peak_bytes() == 130048 * 1024
    assert probes.proportional_bytes() == 18432 * 1024


def test_raspberry_pi_5() -> None:
    probes = tree("sysfs-raspberry-pi-5")
    thermal, energy, device = probes.thermal(0), probes.energy(0), probes.device()
    # Above the first fan step (50 C), below all that slows it down.
    assert (thermal.celsius, thermal.state) == ({"cpu-thermal": 52.65}, "fair")
    assert energy.milliwatts is None and energy.battery_level is None and probes.unplugged() is None
    assert device.model == "Raspberry Pi 5 Model B Rev 1.0" and device.soc == "brcm,bcm2712"
    assert device.os == "Debian GNU/Linux 12 (bookworm)"


def test_jetson_orin() -> None:
    probes = tree("sysfs-jetson-orin")
    thermal = probes.thermal(0)
    assert thermal.celsius == {"cpu-thermal": 47.5, "gpu-thermal": 46.968, "tj-thermal": 47.5}
    assert thermal.state == "nominal"
    # VDD_IN alone, which feeds the other rails.
    assert probes.energy(0).milliwatts == pytest.approx(5.056 * 1240)
    assert probes.device().soc == "nvidia,tegra234"


def test_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    probes = Probes(SystemFiles(tmp_path))
    thermal, energy = probes.thermal(0), probes.energy(0)
    assert thermal.state is None and thermal.celsius == {}
    assert energy.milliwatts is None and energy.battery_level is None
    assert probes.unplugged() is None
    assert probes.resident_bytes() is probes.peak_bytes() is probes.proportional_bytes() is None
    device = probes.device()
    assert device.memory_bytes is None and device.soc is None and device.model and device.os


def test_power_of_a_battery_only_while_it_discharges(tmp_path: Path) -> None:
    shutil.copytree(TREES / "sysfs-pixel", tmp_path, dirs_exist_ok=True)
    supplies = tmp_path / "sys" / "class" / "power_supply"
    (supplies / "battery" / "status").write_text("Charging\n")
    (supplies / "usb" / "online").write_text("1\n")
    probes = Probes(SystemFiles(tmp_path))
    assert probes.energy(0).milliwatts is None and probes.energy(0).battery_level == 0.83
    assert probes.unplugged() is False


def test_battery_of_a_mouse_is_not_the_machines(tmp_path: Path) -> None:
    shutil.copytree(TREES / "sysfs-pixel", tmp_path, dirs_exist_ok=True)
    (tmp_path / "sys/class/power_supply/battery/scope").write_text("Device\n")
    probes = Probes(SystemFiles(tmp_path))
    assert probes.energy(0).battery_level is None and probes.unplugged() is None


@pytest.mark.parametrize(
    ("millidegrees", "state"),
    [("40000", "nominal"), ("51000", "fair"), ("76000", "fair"), ("99500", "serious"), ("120000", "critical")],
)
def test_worst_trip_point_passed(tmp_path: Path, millidegrees: str, state: str) -> None:
    shutil.copytree(TREES / "sysfs-raspberry-pi-5", tmp_path, dirs_exist_ok=True)
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    (zone / "temp").write_text(millidegrees)
    (zone / "trip_point_5_type").write_text("passive\n")
    (zone / "trip_point_5_temp").write_text("99000\n")
    assert Probes(SystemFiles(tmp_path)).thermal(0).state == state


@pytest.mark.parametrize(("text", "cores"), [("0", (0,)), ("4-7", (4, 5, 6, 7)), ("2,0", (0, 2)), ("0-1,1,3", (0, 1, 3))])
def test_core_lists(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1 2", "5000", "0,", "١"])
def test_what_is_no_core_list(text: str) -> None:
    with pytest.raises(S2PError, match="give cores as 4-7 or 0,2"):
        parse_cores(text)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not let programs choose cores")
def test_cores_are_chosen_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with on_cores((core,)):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(S2PError, match="cannot run on these cores"), on_cores((1023,)):
        pass
