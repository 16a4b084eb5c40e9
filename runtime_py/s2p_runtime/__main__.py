"""``python -m s2p_runtime BUNDLE``: what a bundle is, and its golden runs again as far as that needs no engine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from s2p_runtime import __version__
from s2p_runtime.bundle import Bundle, open_bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts import host_of
from s2p_runtime.replay import GoldenReplay, replay


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0 done, 1 a golden run does not come out as recorded, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m s2p_runtime", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("bundle", type=Path, help="folder made by s2p-mobile convert")
    parser.add_argument("--json", action="store_true", help="figures for programs instead of lines for people")
    parser.add_argument("--version", action="version", version=f"s2p-runtime {__version__}")
    chosen = parser.parse_args(arguments)
    try:
        bundle = open_bundle(chosen.bundle)
        runs = [replay(bundle, run) for run in bundle.manifest.golden]
    except S2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(json.dumps(_figures(bundle, runs), indent=1) if chosen.json else "\n".join(_lines(bundle, runs)))
    return 0 if all(run.ok for run in runs) else 1


def _figures(bundle: Bundle, runs: Sequence[GoldenReplay]) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "bundle": manifest.name,
        "family": manifest.family,
        "target": manifest.target,
        "engine": _engine(bundle),
        "files": len(manifest.files),
        "golden": [run.model_dump() for run in runs],
        "ok": all(run.ok for run in runs),
    }


def _lines(bundle: Bundle, runs: Sequence[GoldenReplay]) -> list[str]:
    """What people read: one thing a line, its name first."""
    manifest = bundle.manifest
    plan, unet = manifest.plan, manifest.quantization
    sizes = ", ".join(size.title for size in manifest.sizes)
    missing = _engine(bundle)
    named = {
        "bundle": f"{manifest.name}, {manifest.family} for {manifest.target}, by {manifest.producer}",
        "pictures": f"{sizes}, {plan.scheduler} with {plan.steps} steps ({len(plan.calls)} calls), guidance {manifest.guidance:g}",
        "U-Net": f"{unet.recipe} by {unet.method}, {unet.average_weight_bits:.2f} bits a weight, {unet.unet_bytes / 2**20:.1f} MiB",
        "files": f"{len(manifest.files)}, all as recorded (SHA-256)",
        **{f"golden {run.id}": _verdict(run, len(plan.calls)) for run in runs},
        "engine": "installed, the programs can run here" if missing is None else missing,
    }
    width = max(map(len, named))
    return [f"{name:<{width}}  {text}" for name, text in named.items()]


def _verdict(run: GoldenReplay, calls: int) -> str:
    if not run.ok:
        latents = "not computed" if run.latents_error is None else f"{run.latents_error:.1e} off"
        tokens = "as recorded" if run.tokens_ok else "other ones"
        return f"FAILED: tokens {tokens}, noise {run.noise_error:.1e} off, latents {latents}"
    if run.latents_error is None:
        return f"tokens and noise as recorded; holds {run.recorded_calls} of {calls} calls, too few to go on"
    return f"tokens, noise and latents after {calls} calls as recorded"


def _engine(bundle: Bundle) -> str | None:
    """What is missing to run the programs here, with the remedy; None: nothing."""
    try:
        host_of(bundle)
    except S2PError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
