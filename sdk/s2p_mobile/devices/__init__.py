"""Drivers that measure a bundle on another device."""

from s2p_mobile.devices.android import AndroidSettings, bench_android

__all__ = ["AndroidSettings", "bench_android"]
