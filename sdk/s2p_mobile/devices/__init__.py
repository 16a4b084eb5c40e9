"""Drivers that measure a bundle on another device."""

from s2p_mobile.devices.android import AndroidSettings, bench_android
from s2p_mobile.devices.android_app import AppSettings, bench_android_app
from s2p_mobile.devices.ios import IosSettings, UnitRun, bench_ios, compare_units_ios

__all__ = [
    "AndroidSettings",
    "AppSettings",
    "IosSettings",
    "UnitRun",
    "bench_android",
    "bench_android_app",
    "bench_ios",
    "compare_units_ios",
]
