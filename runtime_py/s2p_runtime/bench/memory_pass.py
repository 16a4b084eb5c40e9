"""Memory of one picture, in a process of its own: neither the timed pictures nor their tools are in the figures.

    python -m s2p_runtime.bench.memory_pass '{"bundle": "app.s2pmobile", "out": "memory.json"}'

takes a :class:`MemoryRequest` and writes :class:`s2p_runtime.report.Memory`, both as JSON.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import Field

from s2p_runtime.artist import draw
from s2p_runtime.backends import Backend
from s2p_runtime.bench.periodic import Periodic
from s2p_runtime.bench.probes import Probes
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.conditioning import components_of
from s2p_runtime.contract import Contract, write_contract
from s2p_runtime.drawing import BundleArtist
from s2p_runtime.engines import open_backend
from s2p_runtime.errors import S2PError
from s2p_runtime.report import Memory

_INTERVAL = 0.1
_RESET_HIGH_WATER = "5"
"""What /proc/self/clear_refs takes to set VmHWM back to VmRSS, see proc(5)."""


class MemoryRequest(Contract):
    """What the process is asked for."""

    bundle: Path
    out: Path
    threads: int | None = Field(default=None, ge=1, description="of the engine; null: it chooses")
    release_chunks: bool = Field(default=False, description="load each program of the U-Net for every call and let go of it")


def measure_memory(bundle: Bundle, backend: Backend, threads: int | None, probes: Probes) -> Memory:
    """Memory of this process while it loads every component and draws the first golden run.

    The baseline is taken when the engine is imported and nothing is loaded.
    """
    backend.start(threads)
    method = "VmRSS (baseline, engine imported) and VmHWM (peak) of /proc/self/status; samples: Pss of /proc/self/smaps_rollup"
    engine = getattr(backend, "process_id", None)
    if engine is not None:
        probes, method = Probes(probes.files, str(engine)), f"{method}; of the process in which the engine runs"
    try:
        (probes.files.root / f"proc/{probes.process}/clear_refs").write_text(_RESET_HIGH_WATER)
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
    if peak is None and engine is None:
        peak, method = peak_resident_bytes(), "ru_maxrss of getrusage, importing the engine included"
    return Memory(baseline_bytes=baseline, peak_bytes=peak, method=method, samples=tuple(samples), own_launch=True)


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
        request = MemoryRequest(bundle=folder, out=out, threads=threads, release_chunks=release_chunks)
        command = [sys.executable, "-m", "s2p_runtime.bench.memory_pass", request.model_dump_json()]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode < 0:
            raise S2PError(f"the memory pass was ended by signal {-done.returncode}", "is there enough memory?")
        if done.returncode or not out.is_file():
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise S2PError(f"the memory pass failed ({lines[-1].removeprefix('error: ')})", "run the bundle once with verify")
        return Memory.model_validate_json(out.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    """Entry of the process."""
    try:
        asked = MemoryRequest.model_validate_json(arguments[0])
        bundle = open_bundle(asked.bundle)
        backend = open_backend(bundle, release_chunks=asked.release_chunks)
        write_contract(asked.out, measure_memory(bundle, backend, asked.threads, Probes()))
    except S2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
