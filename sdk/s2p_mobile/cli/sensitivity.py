"""``s2p-mobile sensitivity``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import s2p_mobile
from s2p_mobile.cli.console import say
from s2p_mobile.cli.options import (
    AllowPickleOption,
    DeviceOption,
    EmbeddingOption,
    ForceOption,
    GuidanceOption,
    LoraOption,
    ModelArgument,
    SchedulerOption,
    SeedOption,
    SizeOption,
    StepsOption,
)

if TYPE_CHECKING:
    from s2p_mobile.sources.model import Model

_SHOWN = 6


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sensitivity")(sensitivity)


def sensitivity(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="JSON file to write; with --compare one per estimator beside it.")
    ],
    model: ModelArgument = None,
    estimator: Annotated[str, typer.Option(help="How it is measured, see s2p-mobile models.")] = "fisher",
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure with every estimator, print agreement, draw a plot.")
    ] = False,
    bits: Annotated[int, typer.Option(min=2, max=8, help="Bit-width at which layers are shown and estimators compared.")] = 4,
    size: SizeOption = None,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    allow_pickle: AllowPickleOption = False,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts, one a line; the model's own when left out.")
    ] = None,
    scheduler: SchedulerOption = None,
    steps: StepsOption = None,
    calls: Annotated[
        int | None,
        typer.Option("--calls", "--count", min=1, help="U-Net calls to look at; the estimator's own number when left out."),
    ] = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
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
    from s2p_mobile.quantize.sensitivity import ESTIMATORS, comparison_lines
    from s2p_mobile.quantize.sensitivity.plot import require_plots
    from s2p_runtime.files import refuse_existing

    if compare:
        require_plots()
    names = list(ESTIMATORS.entries) if compare else [estimator]
    files = {name: out.with_name(f"{out.stem}-{name}{out.suffix}") if compare else out for name in names}
    plot = out.with_suffix(".png")
    for file in (*files.values(), *([plot] if compare else [])):
        refuse_existing(file, force)
    given: dict[str, Any] = {
        "size": size, "lora": lora or (), "embedding": embedding or (), "allow_pickle": allow_pickle,
    }  # fmt: skip
    source: Model | str | None = model
    if compare:  # opened once for all of them
        source, given = s2p_mobile.load(model, progress=True, **given), {}
    results = []
    for name, file in files.items():
        result = s2p_mobile.sensitivity(
            source, out=file, estimator=name, prompts=prompts, calls=calls, split_shortcuts=split_shortcuts, scheduler=scheduler,
            steps=steps, guidance=guidance, device=device, seed=seed, force=force, progress=True, **given,
        )  # fmt: skip
        values = result.at(bits)
        first = sorted(values, key=lambda layer: -values[layer])[:_SHOWN]
        say(f"{name}: {file}; most sensitive at {bits} bits: {', '.join(first)}")
        results.append(result)
    if compare:
        for line in comparison_lines(s2p_mobile.compare_sensitivity(results, bits=bits, plot=plot, force=force)):
            say(line)
        say(f"plot: {plot}")
