"""Options of all installed targets as options of a command: one each by its name, with a help that says whose it is."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from s2p_converters.targets.protocol import Target


def target_parameters(targets: Iterable[Target[Any]], taken: Collection[str]) -> list[inspect.Parameter]:
    """A parameter for each option, which is None when it is not given.

    Args:
        targets: installed ones.
        taken: names that the command uses itself.
    """
    owners: dict[str, list[Target[Any]]] = {}
    targets = list(targets)
    for target in targets:
        for name in target.options.model_fields:
            if name not in taken:
                owners.setdefault(name, []).append(target)
    return [_parameter(name, those, len(those) == len(targets)) for name, those in owners.items()]


def given_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those parameters that were given."""
    return {name: value for name, value in values.items() if value is not None and value != []}


def _parameter(name: str, targets: list[Target[Any]], of_all: bool) -> inspect.Parameter:
    from s2p_converters.targets.options import is_hidden, is_repeated, metavar

    fields = {target.title: target.options.model_fields[name] for target in targets}
    first = next(iter(fields.values()))
    kind: Any = str
    words = [f"--{name.replace('_', '-')}"]
    if all(field.annotation is bool for field in fields.values()):
        kind, words = bool, [f"{words[0]}/--no-{words[0][2:]}"]
    elif is_repeated(first):
        kind = list[str]
    shared = of_all and all(field.description == first.description for field in fields.values())
    texts = [_help(first)] if shared else [f"{title}: {_help(field)}" for title, field in fields.items()]
    option = typer.Option(
        *words,
        help=" ".join(f"{text[:1].upper()}{text[1:]}." for text in texts),
        metavar=None if kind is bool else metavar(first) or "WORD",
        hidden=all(map(is_hidden, fields.values())),
        show_default=False,
    )
    annotation: Any = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(field: FieldInfo) -> str:
    """Description, choices and default of one target's option."""
    from s2p_converters.targets.options import choices, is_repeated

    text = (field.description or "").rstrip(".")
    if known := choices(field):
        return f"{text} [{', '.join(f'{choice} (default)' if choice == field.default else choice for choice in known)}]"
    if is_repeated(field) or isinstance(field.default, bool):
        return text
    return f"{text} [default {field.default}]"
