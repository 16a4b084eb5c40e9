"""``s2p-mobile sensitivity``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2p_mobile.cli.console import TerminalProgress, say
from s2p_mobile.cli.options import ForceOption, LoraOption, SeedOption, SizeOption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sensitivity")(sensitivity)


def sensitivity(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="JSON file to write; with --compare one per estimator beside it.")
    ],
    model: Annotated[str | None, typer.Argument(help="Diffusers folder; the demo model when left out.")] = None,
    estimator: Annotated[str, typer.Option(help="How it is measured, see s2p-mobile models.")] = "fisher",
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure with every estimator, print agreement, draw a plot.")
    ] = False,
    bits: Annotated[int, typer.Option(min=2, max=8, help="Bit-width at which estimators are compared.")] = 4,
    size: SizeOption = None,
    lora: LoraOption = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts, one a line; built-in ones when left out.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler; the model's own when left out.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 25,
    count: Annotated[
        int | None, typer.Option(min=1, help="U-Net calls to look at; the estimator's own number when left out.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; the family's when left out.")] = None,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="Where the U-Net runs: auto, cpu, cuda or mps.")] = "auto",
    split_shortcuts: Annotated[
        bool,
        typer.Option(
            "--split-shortcuts/--whole-shortcuts",
            help="As the recipe that the result is for: both halves of a shortcut's input apart, or together.",
        ),
    ] = True,
    force: ForceOption = False,
) -> None:
    """Measure how much each layer's weight rounding hurts."""
    from s2p_converters.core.plan import plan_for
    from s2p_mobile.quantize.jobs import job_prompts
    from s2p_mobile.quantize.sensitivity import ESTIMATORS, comparison_lines, measure, write_sensitivity
    from s2p_mobile.quantize.sensitivity import compare as compare_estimators
    from s2p_mobile.quantize.sensitivity.measure import TRAJECTORIES
    from s2p_mobile.quantize.sensitivity.plot import plot_comparison
    from s2p_mobile.quantize.workers import choose_device
    from s2p_mobile.sources.model import open_model
    from s2p_mobile.sources.picture_size import PictureSize
    from s2p_runtime.files import refuse_existing

    names = list(ESTIMATORS.entries) if compare else [ESTIMATORS.get(estimator).name]
    targets = {name: out.with_name(f"{out.stem}-{name}{out.suffix}") if compare else out for name in names}
    for target in targets.values():
        refuse_existing(target, force)
    source = open_model(model, None if size is None else PictureSize.parse(size), lora or ())
    texts = job_prompts(source, prompts)[:TRAJECTORIES]
    scale = source.choose_guidance(guidance)
    plan = plan_for(source.folder / "scheduler", scheduler, steps)
    results = []
    for name, target in targets.items():
        result = measure(
            source, plan, texts, scale, name, count=count, seed=seed, progress=TerminalProgress(),
            device=choose_device(device), split_shortcuts=split_shortcuts,
        )  # fmt: skip
        write_sensitivity(target, result, force=force)
        values = result.at(bits)
        first = sorted(values, key=lambda layer: -values[layer])[:6]
        say(f"{name}: {target}; most sensitive at {bits} bits: {', '.join(first)}")
        results.append(result)
    if compare:
        for line in comparison_lines(compare_estimators(results, bits)):
            say(line)
        plot_comparison(results, bits, out.with_suffix(".png"), force=force)
        say(f"plot: {out.with_suffix('.png')}")
