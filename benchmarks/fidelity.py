"""How far checkpoints are from the FP model: one table row each, over the held-out prompts.

    python benchmarks/fidelity.py CHECKPOINT... [--count 64] [--seed 0] [--cache DIR] [--threads 2] [--json FILE]

Prompt k is drawn with seed ``--seed + k``. The line below the table names the networks behind the figures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from s2p_mobile.demo import HELD_OUT_PROMPTS
from s2p_mobile.judge.evaluation import EvaluationResult, default_cache_folder, evaluate, open_evaluation
from s2p_mobile.judge.metrics import METRIC_NAMES
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.prompts import read_prompts

_DIGITS = {"fid_to_fp": 3, "sfid_to_fp": 3, "ssim": 4, "lpips": 4}


def fidelity(
    source: Path, count: int, seed: int = 0, *, model: Model | None = None, cache: Path | None = None, grid: Path | None = None
) -> EvaluationResult:
    """Evaluate a checkpoint (or bundle) on the first ``count`` held-out prompts."""
    return evaluate(
        open_evaluation(source, model), read_prompts(HELD_OUT_PROMPTS), seed=seed, count=count, cache=cache, grid=grid
    )


def table_head() -> str:
    """Head of the Markdown table."""
    names = ["checkpoint", "count", "steps", *METRIC_NAMES, "latent dB, last call"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def table_row(result: EvaluationResult) -> str:
    """One row; an infinite or unmeasured figure is a dash."""
    cells = [Path(result.source).name, str(result.count), str(result.steps)]
    cells += [_cell(result.metrics[name].value, _DIGITS.get(name, 2)) for name in METRIC_NAMES]
    return f"| {' | '.join([*cells, _cell(result.latent_psnr_db_per_call[-1], 2)])} |"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--count", type=int, default=64, help="held-out prompts to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache_folder(), help="folder for the FP pictures")
    parser.add_argument("--grid", type=Path, help="PNG of the first pictures of the last checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    results = []
    print(table_head())
    for source in options.sources:
        start = time.perf_counter()
        result = fidelity(source, options.count, options.seed, cache=options.cache, grid=options.grid)
        print(table_row(result), f"{time.perf_counter() - start:.0f} s", flush=True)
        results.append(result)
    for name, value in results[-1].metrics.items():
        print(f"{name}: {value.network or value.reason or 'no network'}")
    if options.json:
        document = [result.model_dump(mode="json") for result in results]
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
