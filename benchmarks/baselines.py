"""S2P and its baselines in one table: same model, plan, prompts, quantized operators and average weight bits.

    python benchmarks/baselines.py --work DIR [--settings W4A8 ...] [--methods s2p pcr ...] [--steps 25] [--count 256] [--seeds 3]
                                [--prompts 200] [--iterations 300] [--factor 20] [--samples 1024]
                                [--rows docs/results-baselines.json] [--out docs/results-baselines.md]

A row is one method at one setting, number of steps and seed: quantized with that seed from the calibration captions
(``DIR/checkpoints``), then held-out caption k mod 148 is drawn from seed ``1000 seed + k``. Finished rows lie in ``--rows``
(``DIR/rows.json``), so the command may be stopped and repeated, also with other options; the table holds all rows of the same
count and prompts and, where the method depends on them, iterations, factor and samples. Baselines' published iteration counts are
divided by ``--factor``; S2P makes ``--iterations`` steps. All methods of a seed share one set of FP trajectories, whose time is
not in their minutes. The plot beside ``--out`` shows FID-to-FP against CPU minutes. ``--methods`` with nothing after it only
writes the page; notes in it that were written by hand stay.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from ablation_rows import merged
from result_tables import markdown_table, mean_and_spread, write_page
from s2p_converters.core.checkpoint import Checkpoint, open_checkpoint
from s2p_converters.core.grids import general_size_bytes
from s2p_converters.core.plan import plan_for
from s2p_mobile.demo import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from s2p_mobile.judge.evaluation import evaluate, open_evaluation
from s2p_mobile.quantize.checkpointing import write_checkpoint
from s2p_mobile.quantize.latents import LatentJob, write_latents
from s2p_mobile.quantize.methods import QuantizationJob, run_method
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.sources.model import Model
from s2p_mobile.sources.opening import open_model
from s2p_mobile.sources.prompts import read_prompts
from s2p_runtime.contract import Contract
from s2p_runtime.files import atomic_file, atomic_folder
from s2p_runtime.progress import Silent

SETTINGS: Mapping[str, tuple[int, int]] = {"W8A8": (8, 8), "W4A8": (4, 8), "W3A8": (3, 8), "W4A6": (4, 6)}
"""Weight and activation bits; below 8 weight bits the 5% most sensitive layers have 8, or :data:`BUDGET` applies."""

BUDGET = {"candidates": [2, 4, 6, 8], "ranking": "linear"}
"""How widths are shared out in the rows that choose every layer's: of the same average as with 5% of the layers at 8 bits."""

TOP = {"top": "5%", "bits": 8, "ranking": "fisher"}
"""The paper's rule."""


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        method: as ``s2p-mobile quantize --method`` takes it.
        by_layer: widths by :data:`BUDGET` instead of :data:`TOP`.
        changes: fields of the recipe, section by section.
    """

    method: str
    by_layer: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


def palettes(**rule: Any) -> Entry:
    """k-means palettes, of the average of :data:`TOP` unless given."""
    return Entry("palettize", changes={"baselines": {"palettes": rule}})


PLAIN = {"activations": {"zero_points": False}, "split_shortcuts": False}
"""S2P's activations as the paper has them."""

GPTQ = {"training": {"start": {"rounding": "gptq"}}}

METHODS: Mapping[str, Entry] = {
    "rtn": Entry("rtn", changes=PLAIN),
    "gptq": Entry("gptq", changes=PLAIN),
    "adaround alone, 5% at 8 bits": Entry("adaround"),
    "ptq4dm": Entry("ptq4dm"),
    "ptq4dm, reconstructed": Entry("ptq4dm", changes={"baselines": {"reconstruction": True}}),
    "q-diffusion": Entry("q-diffusion"),
    "q-diffusion, four times the budget": Entry("q-diffusion", changes={"baselines": {"factor": 5, "samples": 4096}}),
    "q-diffusion, widths of s2p": Entry("q-diffusion", by_layer=True),
    "pcr": Entry("pcr", changes={"baselines": {"relaxing": True}}),
    "pcr without relaxing": Entry("pcr", changes={"baselines": {"relaxing": False}}),
    "palettes, float activations": palettes(),
    "6-bit palettes in all layers, float activations": palettes(candidates=[6], average_bits=6),
    "6-bit palettes on average, float activations": palettes(average_bits=6),
    "int4 in blocks of 32, float activations": Entry("int4-blocks"),
    "4-bit palettes in groups of 32 channels, float activations": Entry("grouped-palettes"),
    "s2p as the paper has it (gptq start, 5% at 8 bits)": Entry("s2p", changes=PLAIN | GPTQ),
    "s2p, gptq start, whole shortcuts, symmetric activations": Entry("s2p", True, PLAIN | GPTQ),
    "s2p, gptq start, whole shortcuts": Entry("s2p", True, {"split_shortcuts": False} | GPTQ),
    "s2p, 5% at 8 bits": Entry("s2p"),
    "s2p without training": Entry("adaround", True),
    "s2p, 7.5% of the multiplications in float": Entry("s2p", True, {"activations": {"float_share": "7.5%"}}),
    "s2p": Entry("s2p", True),
}
"""Row name -> what it is; ``s2p`` has the settings of the built-in recipe ``w4a8-mixed``."""

PANELS_IN_A_LINE = 3

COLUMNS = {
    "fid_to_fp": "FID-to-FP",
    "sfid_to_fp": "sFID",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "psnr": "PSNR",
    "clip_score": "CLIP",
}
DIGITS = {"ssim": 3, "lpips": 4, "clip_score": 2}


CALIBRATED = frozenset({"ptq4dm", "q-diffusion", "pcr"})
"""Methods to which ``--factor`` and ``--samples`` mean something."""


class Budget(Contract):
    """What rows must share to stand in one table."""

    count: int
    prompts: int
    iterations: int
    factor: float
    samples: int

    def allows(self, row: Row) -> bool:
        """Whether a row was made under this budget, in all that its method depends on."""
        method = METHODS[row.method].method
        unused = set() if method in CALIBRATED else {"factor", "samples"}
        unused |= set() if method == "s2p" else {"iterations"}
        return self.model_dump(exclude=unused) == row.budget.model_dump(exclude=unused)


class Row(Contract):
    """A finished row."""

    method: str
    setting: str
    steps: int
    seed: int
    budget: Budget
    metrics: dict[str, float | None]
    bits: float
    size_bytes: int
    minutes: float
    cpu_minutes: float
    withdrawn: str | None = None
    """Why the row does not hold any more; it is shown, and made again."""

    @property
    def label(self) -> str:
        """In tables."""
        return self.method if self.withdrawn is None else f"{self.method} [withdrawn]"


ROWS = TypeAdapter(list[Row])


def recipe_of(method: str, setting: str, budget: Budget) -> Recipe:
    """The recipe of a row."""
    weights, activations = SETTINGS[setting]
    entry = METHODS[method]
    document: dict[str, Any] = {
        "name": f"{setting} {method}",
        "description": "row of the comparison",
        "weights": {"bits": weights},
        "activations": {"bits": activations},
        "training": {"iterations": budget.iterations, "batch": 8, "start": {"rounding": "adaround"}},
        "baselines": {"factor": budget.factor, "samples": budget.samples},
    }
    if weights < 8:
        document["mixed"] = BUDGET | {"average_bits": weights + 0.06} if entry.by_layer else TOP
    return Recipe.model_validate(merged(document, entry.changes))


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Download size of a U-Net: integers at their own width, scales, zero points and palettes as stored, all else as float16."""
    quantized = sum(
        (layer.integers.size * layer.weight_bits + 7) // 8 + 2 * layer.scale.size for layer in checkpoint.layers.values()
    )
    general = sum(general_size_bytes(layer) for layer in checkpoint.general.values())
    stored = [layer.bias for layer in checkpoint.layers.values()] + [layer.bias for layer in checkpoint.general.values()]
    biases = sum(bias.size for bias in stored if bias is not None)
    floats = sum(value.size for value in (*checkpoint.floats.values(), *checkpoint.time_tables.values()))
    return int(quantized + general + 2 * (biases + floats))


def make_row(work: Path, model: Model, method: str, setting: str, steps: int, seed: int, budget: Budget) -> Row:
    """Quantize, draw and judge."""
    plan = plan_for(model.folder / "scheduler", None, steps)
    prompts = tuple(read_prompts(CALIBRATION_PROMPTS)[: budget.prompts])
    latents = work / f"latents-{steps}-{seed}"
    write_latents(LatentJob(model, plan, prompts, model.guidance, seed), latents, resume=True, progress=Silent())
    job = QuantizationJob(
        model, plan, recipe_of(method, setting, budget), prompts, model.guidance, seed=seed, device="cpu", latents=latents
    )
    wall, cpu = time.monotonic(), time.process_time()
    unet = run_method(METHODS[method].method, job)
    minutes = (time.monotonic() - wall) / 60, (time.process_time() - cpu) / 60
    slug = "".join(c if c.isalnum() else "-" for c in f"{setting}-{method}-{steps}-{seed}")
    folder = work / "checkpoints" / slug
    with atomic_folder(folder, force=True) as scratch:
        write_checkpoint(job, METHODS[method].method, unet, scratch)
    captions = read_prompts(HELD_OUT_PROMPTS)
    drawn = [captions[k % len(captions)] for k in range(budget.count)]
    result = evaluate(open_evaluation(folder), drawn, seed=1000 * seed, cache=work / "fp")
    checkpoint = open_checkpoint(folder)
    return Row(
        method=method,
        setting=setting,
        steps=steps,
        seed=seed,
        budget=budget,
        metrics={name: result.metrics[name].value for name in COLUMNS},
        bits=checkpoint.manifest.average_weight_bits,
        size_bytes=weight_bytes(checkpoint),
        minutes=minutes[0],
        cpu_minutes=minutes[1],
    )


def read_rows(path: Path) -> list[Row]:
    """Rows finished so far."""
    return ROWS.validate_json(path.read_bytes()) if path.exists() else []


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file of rows, whole or not at all."""
    with atomic_file(path) as scratch:
        scratch.write_bytes(ROWS.dump_json(list(rows), indent=1) + b"\n")


def groups_of(rows: Sequence[Row]) -> dict[tuple[str, int, str], list[Row]]:
    """(setting, steps, label) -> its rows of all seeds, in the order of the tables above."""
    order = sorted(rows, key=lambda r: (list(SETTINGS).index(r.setting), r.steps, list(METHODS).index(r.method), r.seed))
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in order:
        groups.setdefault((row.setting, row.steps, row.label), []).append(row)
    return groups


def table(rows: Sequence[Row]) -> str:
    """Markdown table; spreads are standard deviations over the seeds."""
    heads = [
        "setting",
        "steps",
        "method",
        *COLUMNS.values(),
        "pictures",
        "seeds",
        "bits a weight",
        "U-Net MB",
        "minutes",
        "CPU minutes",
    ]
    lines = []
    for (setting, steps, method), group in groups_of(rows).items():
        cells = [setting, str(steps), method]
        cells += [mean_and_spread([row.metrics[name] for row in group], DIGITS.get(name, 1)) for name in COLUMNS]
        cells += [str(group[0].budget.count), str(len(group)), f"{statistics.mean(row.bits for row in group):.2f}"]
        cells.append(f"{statistics.mean(row.size_bytes for row in group) / 1e6:.2f}")
        cells += [mean_and_spread([getattr(row, name) for row in group], 1) for name in ("minutes", "cpu_minutes")]
        lines.append(cells)
    return markdown_table(heads, lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """FID-to-FP against CPU minutes: a panel for each setting and number of steps, methods in one colour everywhere, S2P as stars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    colours = dict(zip(METHODS, matplotlib.color_sequences["tab20"], strict=False)) | {"s2p": "black"}
    panels: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for (setting, steps, method), group in groups_of([row for row in rows if row.withdrawn is None]).items():
        panels.setdefault((setting, steps), {})[method] = group
    lines = -(-len(panels) // PANELS_IN_A_LINE)
    figure, grid = pyplot.subplots(
        lines, PANELS_IN_A_LINE, figsize=(4.5 * PANELS_IN_A_LINE, 3.6 * lines + 1), squeeze=False, layout="constrained"
    )
    axes, unused = grid.flat[: len(panels)], grid.flat[len(panels) :]
    for axis in unused:
        axis.remove()
    for axis, ((setting, steps), methods) in zip(axes, panels.items(), strict=True):
        for method, group in methods.items():
            values = [row.metrics["fid_to_fp"] for row in group]
            known = [value for value in values if value is not None]
            if known:
                minutes = statistics.mean(row.cpu_minutes for row in group)
                star = METHODS[method].method == "s2p"
                axis.scatter(
                    minutes,
                    statistics.mean(known),
                    90 if star else 36,
                    label=method,
                    color=colours[method],
                    marker="*" if star else "o",
                )
        axis.set(title=f"{setting}, {steps} steps", xlabel="CPU minutes", ylabel="FID-to-FP", xscale="log", yscale="log")
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_major_locator(LogLocator(subs=(1, 2, 5)))
            direction.set_major_formatter(ScalarFormatter())
            direction.set_minor_formatter(NullFormatter())
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def page(rows: Sequence[Row], budget: Budget, command: str, picture: str) -> str:
    """The page of results."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"""# S2P and its baselines on the demo model

`{command}`

Same quantized operators (all but conv_in and conv_out), average bits, plan (the model's DDIM), prompts, seeds and guidance for
every method; palettes leave activations in float. Published iteration counts of the baselines are divided by
{budget.factor:g}, their calibration has at most {budget.samples} U-Net calls, S2P makes {budget.iterations} steps, all have the
same {budget.prompts} calibration prompts
([method-baselines.md](method-baselines.md)). Minutes are those of quantizing without the FP trajectories that all share. Machine:
{machine}, one thread, other load beside: CPU minutes are the fair figure. FID of {budget.count} pictures is biased
upwards alike in every row: compare rows, not papers.

{table(rows)}

{withdrawn(rows)}![FID-to-FP against CPU minutes]({picture})
"""


def withdrawn(rows: Sequence[Row]) -> str:
    """Why some rows do not hold any more; empty when all do."""
    reasons = {row.method: row.withdrawn for row in rows if row.withdrawn is not None}
    lines = [f"- {method}: {reason}" for method, reason in sorted(reasons.items())]
    return "\n".join(["Withdrawn, to be measured again:", "", *lines, "", ""]) if lines else ""


def command_of(rows: Sequence[Row], budget: Budget, out: Path) -> str:
    """The command that makes these rows, whatever commands they came from."""
    settings = [name for name in SETTINGS if any(row.setting == name for row in rows)]
    steps = sorted({row.steps for row in rows})
    return (
        f"python benchmarks/baselines.py --work DIR --settings {' '.join(settings)} --steps {' '.join(map(str, steps))} "
        f"--count {budget.count} --prompts {budget.prompts} --seeds {1 + max((row.seed for row in rows), default=0)} "
        f"--iterations {budget.iterations} --factor {budget.factor:g} --samples {budget.samples} "
        f"--rows {out.with_suffix('.json')} --out {out}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for trajectories, checkpoints, pictures and rows")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["W4A8"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", nargs="+", type=int, default=[25])
    parser.add_argument("--count", type=int, default=256, help="pictures a row")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=200, help="calibration prompts; as many as there are when fewer")
    parser.add_argument("--iterations", type=int, default=300, help="of S2P")
    parser.add_argument("--factor", type=float, default=20.0, help="published iteration counts are divided by this")
    parser.add_argument("--samples", type=int, default=1024, help="U-Net calls baselines are calibrated on, at most")
    parser.add_argument("--rows", type=Path, help="file of finished rows; WORK/rows.json when left out")
    parser.add_argument("--out", type=Path, help="Markdown page to write; the plot lies beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    budget = Budget(
        count=options.count,
        prompts=min(options.prompts, len(read_prompts(CALIBRATION_PROMPTS))),
        iterations=options.iterations,
        factor=options.factor,
        samples=options.samples,
    )
    print(f"published iteration counts divided by {budget.factor:g}; S2P: {budget.iterations} iterations", flush=True)
    path, model = options.rows or options.work / "rows.json", open_model(None)
    wanted = [
        (method, setting, steps, seed)
        for seed in range(options.seeds)
        for steps in options.steps
        for setting in options.settings
        for method in options.methods
    ]
    for key in wanted:
        known = [row for row in read_rows(path) if row.withdrawn is None and budget.allows(row)]
        if any((row.method, row.setting, row.steps, row.seed) == key for row in known):
            continue
        row = make_row(options.work, model, *key, budget)
        # Read anew: another process may have added rows meanwhile.
        write_rows(path, [*read_rows(path), row])
        print(table([row]).splitlines()[-1], flush=True)
    rows = [row for row in read_rows(path) if budget.allows(row)]
    print(table(rows))
    if options.out:
        picture = options.out.with_suffix(".png")
        plot(rows, picture)
        write_page(options.out, page(rows, budget, command_of(rows, budget, options.out), picture.name))


if __name__ == "__main__":
    main()
