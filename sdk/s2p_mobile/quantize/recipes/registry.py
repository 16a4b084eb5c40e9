"""Finding a recipe by name or by file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import ValidationError

from s2p_mobile.quantize.recipes.recipe import Recipe
from s2p_runtime.contract import first_problem
from s2p_runtime.errors import S2PError

_SUFFIXES = (".yaml", ".yml")


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    folder = files("s2p_mobile.quantize.recipes") / "builtin"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """A built-in recipe by name, or a recipe file (.yaml).

    Raises:
        S2PError: unknown name (lists what exists), unreadable file, invalid field.
    """
    if name_or_file.endswith(_SUFFIXES):
        path = Path(name_or_file)
        try:
            return _parse(path.read_text(encoding="utf-8"), name_or_file)
        except (OSError, UnicodeDecodeError) as error:
            raise S2PError(f"recipe file {path} cannot be read ({error})", f"give a YAML file or one of {_known()}") from error
    if name_or_file not in recipe_names():
        raise S2PError(f"unknown recipe {name_or_file!r}", f"built-in recipes are {_known()}, or give a .yaml file")
    built_in = files("s2p_mobile.quantize.recipes") / "builtin" / f"{name_or_file}.yaml"
    return _parse(built_in.read_text(encoding="utf-8"), name_or_file)


def _known() -> str:
    return ", ".join(recipe_names())


def _parse(text: str, source: str) -> Recipe:
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise S2PError(f"recipe {source} is not YAML ({str(error).splitlines()[0]})", "mend the file") from error
    except ValidationError as error:
        raise S2PError(f"recipe {source} is invalid ({first_problem(error)})", "mend the file") from error
