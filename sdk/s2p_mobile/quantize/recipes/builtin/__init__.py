"""Built-in recipes: the YAML files of this folder, as attributes by name."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def __getattr__(name: str) -> Path:
    """The file of a recipe."""
    if name not in NAMES:
        raise AttributeError(name)
    return _FOLDER / f"{name}.yaml"
