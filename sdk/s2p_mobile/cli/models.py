"""``s2p-mobile models``"""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models")(models)


def models() -> None:
    """List the model families and what a model folder must hold, recipes, methods, estimators and schedulers."""
    from s2p_converters.core.plan import SCHEDULER_NAMES
    from s2p_mobile.quantize.methods import method_names
    from s2p_mobile.quantize.recipes import load_recipe, recipe_names
    from s2p_mobile.quantize.sensitivity import estimator_names
    from s2p_mobile.sources.families import FAMILIES

    typer.echo("demo  built-in text-to-emoji Stable Diffusion, 64x64 pixels; used wherever MODEL is left out")
    typer.echo("      the word stands for it unless a file or folder of that name is in the current folder")
    for family in FAMILIES.entries.values():
        typer.echo(f"{family.name:<5} {family.title}\n      needs: {family.needs}")
        typer.echo(f"      defaults: guidance {family.guidance:g}, {family.steps} steps, recipe {family.recipe}")
    typer.echo("\nrecipes:")
    for name in recipe_names():
        typer.echo(f"  {name:<12} {load_recipe(name).description}")
    typer.echo(f"methods: {', '.join(method_names())}")
    typer.echo(f"estimators: {', '.join(estimator_names())}")
    typer.echo(f"schedulers: {', '.join(SCHEDULER_NAMES)}")
