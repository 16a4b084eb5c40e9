"""Memory of one picture, in a process of its own: neither the timed pictures nor their tools are in the figures.

    python -m s2p_runtime.bench.memory_pass BUNDLE OUT.json [--threads N] [--release-chunks]

writes :class:`s2p_runtime.report.Memory` as JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from s2p_runtime.artist import draw
from s2p_runtime.backends import Backend, components_of
from s2p_runtime.bench.periodic import Periodic
from s2p_runtime.bench.probes import Probes
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.contract import write_contract
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.report import Memory

_INTERVAL = 0.1
_RESET_HIGH_WATER = "5"
"""What /proc/self/clear_refs takes to set VmHWM back to VmRSS, see proc(5)."""


def measure_memory(bundle: Bundle, backend: Backend, threads: int | None, probes: Probes) -> Memory:
    """Memory of this process while it loads every component and draws the first golden run.

    The baseline is taken when the engine is imported and nothing is loaded.
    """
    backend.start(threads)
    method = "VmRSS (baseline, engine imported) and VmHWM (peak) of /proc/self/status; samples: Pss of /proc/self/smaps_rollup"
    try:
        (probes.files.root / "proc/self/clear_refs").write_text(_RESET_HIGH_WATER)
    except OSError:
        method += "; the peak includes importing the engine"
    baseline = probes.resident_bytes()
    samples: list[tuple[float, int]] = []

    def sample(seconds: float) -> None:
        value = probes.proportional_bytes()
        if value is not None:
            samples.append((seconds, value))

    golden = bundle.manifest.golden[0]
    with Periodic(_INTERVAL, sample):
        for component in components_of(bundle):
            backend.load(component)
        draw(BundleArtist(bundle, backend), golden.prompt, golden.seed)
    peak = probes.peak_bytes()
    if peak is None:
        peak, method = peak_resident_bytes(), "ru_maxrss of getrusage, importing the engine included"
    return Memory(baseline_bytes=baseline, peak_bytes=peak, method=method, samples=tuple(samples))


def peak_resident_bytes() -> int | None:
    """Largest resident set of this process so far, imports included; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def memory_of_a_picture(folder: Path, threads: int | None, release_chunks: bool = False) -> Memory:
    """:func:`measure_memory` in a fresh process.

    Raises:
        S2PError: the process failed; the message says why in a few words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "memory.json"
        command = [sys.executable, "-m", "s2p_runtime.bench.memory_pass", str(folder), str(out)]
        command += [] if threads is None else ["--threads", str(threads)]
        command += ["--release-chunks"] if release_chunks else []
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode < 0:
            raise S2PError(f"the memory pass was ended by signal {-done.returncode}", "is there enough memory?")
        if done.returncode or not out.is_file():
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise S2PError(f"the memory pass failed ({lines[-1].removeprefix('error: ')})", "run the bundle once with verify")
        return Memory.model_validate_json(out.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--release-chunks", action="store_true")
    given = parser.parse_args(arguments)
    try:
        bundle = open_bundle(given.folder)
        backend = open_backend(bundle, release_chunks=given.release_chunks)
        write_contract(given.out, measure_memory(bundle, backend, given.threads, Probes()))
    except S2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
