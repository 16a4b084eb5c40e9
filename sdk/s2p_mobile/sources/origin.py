"""What a person knows a folder by: one that was written for a file or for a pickled folder is spoken of by that name."""

from __future__ import annotations

from pathlib import Path

_NAME = ".s2p-made-from"


def mark_origin(folder: Path, text: str) -> None:
    """Write into a model's scratch folder what it was made from, for :func:`title`."""
    place = folder / _NAME
    place.unlink(missing_ok=True)  # a folder with LoRA links to the files of the one before
    place.write_text(text, encoding="utf-8")


def file_title(path: Path) -> str:
    """A file of a model's folder or of one of its components, as messages name it."""
    known = title(path.parent)
    return str(path) if known == str(path.parent) else f"{path.name} of {known}"


def title(folder: Path) -> str:
    """A model's folder, or one of its components, as messages name it."""
    if (folder / _NAME).is_file():
        return (folder / _NAME).read_text(encoding="utf-8")
    above = folder.parent / _NAME
    return f"the {folder.name} of {above.read_text(encoding='utf-8')}" if above.is_file() else str(folder)
