"""Is it the training that helps, and which? S2P, serial, parallel and the start alone from one start, and Q-Diffusion; demo model.

    python benchmarks/claim.py --work DIR [--rules top5 layer] [--iterations 300] [--accumulate 4] [--count 256] [--seeds 3]
                               [--rows NAME ...] [--out docs/results-claim.md]

:mod:`one_start` has the rows. Differences are taken picture by picture; the table gives them with 95% bootstrap intervals. The
trained rows have the same processor time. The command may be stopped and repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from claim_page import differences, page, table
from one_start import ROWS, RULES, Claim, Settings
from result_tables import write_page


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--iterations", type=int, default=300, help="optimizer steps of the s2p row")
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches of 8 pairs in a step")
    parser.add_argument("--count", type=int, default=256, help="pictures of a seed set")
    parser.add_argument("--seeds", type=int, default=3, help="seed sets")
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(options.work, options.iterations, options.accumulate, options.count, options.seeds)
    claims = [Claim(settings, rule) for rule in options.rules]
    for claim in claims:
        for row in options.rows:
            for seed_set in range(settings.seeds):
                claim.draw(row, seed_set)
            print(claim.rule, row, "done", flush=True)
    print(table(claims), differences(claims), sep="\n\n")
    if options.out:
        command = (
            f"python benchmarks/claim.py --work DIR --rules {' '.join(options.rules)} --iterations {settings.iterations} "
            f"--accumulate {settings.accumulate} --count {settings.count} --seeds {settings.seeds} --out {options.out}"
        )
        write_page(options.out, page(claims, command))


if __name__ == "__main__":
    main()
