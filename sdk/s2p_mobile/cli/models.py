"""``s2p-mobile models``"""

from __future__ import annotations

import typer

from s2p_mobile.cli.console import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models")(models)


def models() -> None:
    """List the model families and what a model folder must hold, targets, recipes, methods, estimators and schedulers."""
    from s2p_converters.core.plan import SCHEDULERS
    from s2p_converters.targets.registry import TARGETS
    from s2p_mobile.quantize.methods import METHODS
    from s2p_mobile.quantize.recipes import RECIPES, load_recipe
    from s2p_mobile.quantize.sensitivity import ESTIMATORS
    from s2p_mobile.sources.families import FAMILIES

    typer.echo("demo  built-in text-to-emoji Stable Diffusion, 64x64 pixels; used wherever MODEL is left out")
    typer.echo("      the word stands for it unless a file or folder of that name is in the current folder")
    for family in FAMILIES.entries.values():
        typer.echo(f"{family.name:<5} {family.title}\n      needs: {family.needs}")
        typer.echo(f"      defaults: guidance {family.guidance:g}, {family.steps} steps, recipe {family.recipe}")
    typer.echo("\ntargets:")
    for name, target in TARGETS.entries.items():
        typer.echo(f"  {name:<12} {target.title}")
    typer.echo("\nrecipes:")
    for name in RECIPES.entries:
        typer.echo(f"  {name:<12} {load_recipe(name).description}")
    typer.echo("\nmethods:")
    for name, method in METHODS.entries.items():
        typer.echo(f"  {name:<12} {method.title}")
    typer.echo("\nsensitivity estimators:")
    for name, estimator in ESTIMATORS.entries.items():
        typer.echo(f"  {name:<12} {estimator.title}")
    typer.echo(f"\nschedulers: {', '.join(SCHEDULERS.entries)}")
    for registry in (FAMILIES, TARGETS, RECIPES, METHODS, ESTIMATORS, SCHEDULERS):
        for reason in registry.broken.values():
            say(f"note: left out: {reason}", "-")
