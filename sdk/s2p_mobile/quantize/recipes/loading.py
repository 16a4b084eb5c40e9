"""Finding a recipe by name or by file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import ValidationError

from s2p_mobile.quantize.recipes import builtin
from s2p_mobile.quantize.recipes.recipe import Recipe
from s2p_runtime.contract import first_problem
from s2p_runtime.errors import S2PError
from s2p_runtime.registry import Registry

_SUFFIXES = (".yaml", ".yml")

RecipeSource = Path | str | Callable[[], str]
"""A YAML file, or what gives a recipe's YAML text when it is called."""

RECIPES: Registry[RecipeSource] = Registry(
    "recipe", "s2p_mobile.recipes", {name: f"{builtin.__name__}:{name}" for name in builtin.NAMES}
)


def load_recipe(name_or_file: str) -> Recipe:
    """A recipe by name, or a recipe file (.yaml).

    Raises:
        S2PError: unknown name (lists what exists), unreadable file, invalid field.
    """
    if name_or_file.endswith(_SUFFIXES):
        return _parse(_read(Path(name_or_file)), name_or_file)
    try:
        source = RECIPES.get(name_or_file)
    except S2PError as error:
        raise S2PError(error.problem, f"{error.remedy}, or give a .yaml file", error.field) from error
    try:
        text = source() if callable(source) else _read(Path(source))
    except S2PError:
        raise
    except Exception as error:  # whatever a plug-in's own code raises
        raise S2PError(
            f"recipe {name_or_file!r} cannot be made ({type(error).__name__}: {error})", "mend its plug-in"
        ) from error
    return _parse(text, name_or_file)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(RECIPES.names)
        raise S2PError(f"recipe file {path} cannot be read ({error})", f"give a YAML file or one of {known}") from error


def _parse(text: str, source: str) -> Recipe:
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise S2PError(f"recipe {source} is not YAML ({str(error).splitlines()[0]})", "mend the file") from error
    except ValidationError as error:
        raise S2PError(f"recipe {source} is invalid ({first_problem(error)})", "mend the file") from error
