"""Measures a bundle on this machine: latency, load time, memory, heat, power and fidelity, as a report."""

from s2p_runtime.bench.cores import parse_cores
from s2p_runtime.bench.host import HostSettings, bench_host
from s2p_runtime.bench.probes import Probes
from s2p_runtime.bench.statistics import summarize
from s2p_runtime.bench.system_files import SystemFiles

__all__ = ["HostSettings", "Probes", "SystemFiles", "bench_host", "parse_cores", "summarize"]
