"""The page of a comparison from one start: rows, differences with their intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from one_start import COMPARED, FIGURES, ROWS, Claim, slug
from result_tables import markdown_table


def table(claims: Sequence[Claim]) -> str:
    """Rows of all rules, means over the seed sets' pictures."""
    heads = ["widths", "row", "FID-to-FP", "LPIPS", "PSNR mean", "PSNR median", "bits a weight", "iterations", "minutes"]
    lines = []
    for claim in claims:
        for row in ROWS:
            found = claim.found(row)
            if not found:
                continue
            facts = json.loads((claim.folder / f"{slug(row)}.json").read_text("utf-8"))
            cells = [
                f"{statistics.mean(values):.{digits}f}"
                if (values := [f["means"][name] for f in found if f["means"][name]])
                else "-"
                for name, digits in (("fid_to_fp", 1), ("lpips", 4), ("psnr_mean", 2), ("psnr", 2))
            ]
            lines.append([claim.rule, row, *cells, f"{facts['bits']:.2f}", str(facts["iterations"]), f"{facts['minutes']:.1f}"])
    return markdown_table(heads, lines)


def differences(claims: Sequence[Claim]) -> str:
    """The s2p row less each other one, with intervals; ``better`` and ``worse`` where they exclude 0."""
    lines = []
    for claim in claims:
        for other in COMPARED:
            cells = [claim.rule, f"s2p less {other}"]
            for figure, (digits, sign) in FIGURES.items():
                interval = claim.difference(figure, other)
                if interval is None:
                    break
                verdict = "open" if not interval.excludes_zero else "better" if interval.mean * sign > 0 else "worse"
                cells.append(f"{interval.words(digits)}, {verdict}")
            else:
                lines.append(cells)
    return markdown_table(["widths", "difference", "PSNR (dB)", "LPIPS"], lines)


def page(claims: Sequence[Claim], command: str) -> str:
    """The page of results of some rules, all with the same settings."""
    settings = claims[0].settings
    sets = f"{settings.seeds} seed sets" if settings.seeds > 1 else "one seed set"
    return f"""# What the training is worth, from one start

`{command}`

The start alone, S2P, the serial and the parallel pipeline begin from the same widths, grids, call weights and soft weights of
AdaRound; the three trainings have the same {settings.time} (S2P: {settings.iterations} steps of {settings.pairs} pairs).
Minutes are of that time, beside the shared start. Q-Diffusion has the same widths. {settings.count} held-out pictures in each of
{sets}; every checkpoint is made once (seed 0), so intervals speak of pictures and not of quantizing again.

{tables(claims)}
"""


def tables(claims: Sequence[Claim]) -> str:
    """Rows, and differences with their intervals."""
    return f"{table(claims)}\n\n95% intervals by paired bootstrap over the pictures:\n\n{differences(claims)}"
