"""Contracts and host runtime of s2p-mobile: bundles, reports, sampling plans, noise, backends."""

__version__ = "0.1.0"
