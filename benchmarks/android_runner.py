"""What the C++ runner costs beside the engine: time around the U-Net calls, and peak memory against the Python runtime.

    android_harness/scripts/build_wheel.sh PYTHON
    python benchmarks/android_runner.py BUNDLE [--runs 20]

Both sides measure the same bundle on one thread with the same ExecuTorch and write the same report. Time around the calls is
(picture - text encoder - VAE decoder - sum of the U-Net calls) / calls: scaling, batching, guidance, sampler row and noise.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from s2p_runtime.contract import read_contract
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

REPOSITORY = Path(__file__).resolve().parents[1]
RUNNER_FOLDER = REPOSITORY / "android_harness" / "build" / "wheel"


def loop_milliseconds(report: BenchReport) -> float:
    """Median over the pictures of the time around one U-Net call."""
    timings = report.timings_ms
    pictures = zip(timings.image, timings.text_encoder, timings.vae_decoder, timings.unet_call, strict=True)
    return statistics.median((image - text - vae - sum(calls)) / len(calls) for image, text, vae, calls in pictures)


def measure(command: list[str | Path], out: Path) -> BenchReport:
    """Run a bench command that writes its report to ``out``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", out], check=True, stdout=subprocess.DEVNULL, env=environment)
    return read_contract(out, BenchReport, REPORT_FORMAT, REPORT_VERSION)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="an ExecuTorch bundle")
    parser.add_argument("--runs", type=int, default=20, help="measured pictures on each side")
    arguments = parser.parse_args()
    protocol = ["--runs", str(arguments.runs), "--warmup", "1", "--threads", "1"]
    with tempfile.TemporaryDirectory() as scratch:
        cpp_command: list[str | Path] = [RUNNER_FOLDER / "s2p-bench", arguments.bundle, *protocol, "--minimum-seconds", "0"]
        python_command: list[str | Path] = [sys.executable, "-m", "s2p_mobile", "bench", arguments.bundle, *protocol]
        reports = {
            "C++ runner": measure(cpp_command, Path(scratch) / "cpp.json"),
            "Python runtime": measure([*python_command, "--minimum", "0"], Path(scratch) / "python.json"),
        }
    print(f"{arguments.bundle.name} on {processor()}, {platform.machine()}, one thread, {arguments.runs} pictures\n")
    print("| | U-Net call, ms | around it, ms | of a call | peak memory, MB |")
    print("|---|---|---|---|---|")
    for name, report in reports.items():
        call, loop = report.summary_ms["unet_call"].p50, loop_milliseconds(report)
        peak = "unknown" if report.memory.peak_bytes is None else f"{report.memory.peak_bytes / 1e6:.0f}"
        print(f"| {name} | {call:.2f} | {loop:.4f} | {loop / call:.2%} | {peak} |")


if __name__ == "__main__":
    main()
