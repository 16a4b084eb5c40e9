"""Options of a target as a pydantic model: fields, defaults, choices and descriptions, from which the command line's come too."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from s2p_runtime.bundle import parse_size
from s2p_runtime.errors import S2PError


class TargetOptions(BaseModel):
    """What every target can be asked for. Targets add fields of their own: each has a default and a description.

    A field is a ``Literal`` of words, a number, a word, a bool, or a tuple for options that may be repeated. Its ``title`` stands in
    messages. ``json_schema_extra`` may hold ``choices`` (names known at run time only), ``metavar``, for what only experiments need
    ``hidden``, and for what changes the programs of the U-Net and no other ``unet_only``. Wrong values end in one :class:`S2PError`
    that names the field. Names that the command ``convert`` has already (``target``, ``out``, ``archive``, ``cache``, ``no_cache``,
    ``force``, ``json``) are not offered there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[tuple[int, int], ...] = Field(
        (),
        description="also draw pictures of this size in pixels; may be repeated, weights are shared",
        # The parts of the VAE are made for every size: their ports say which.
        json_schema_extra={"metavar": "WxH", "unet_only": True},
    )
    chunks: int = Field(
        1,
        ge=1,
        description="split the U-Net into so many programs, for phones that cannot hold the whole",
        json_schema_extra={"metavar": "N", "unet_only": True},
    )

    image_to_image: bool = Field(
        False,
        description="also carry the VAE encoder, so that apps may start from a picture",
        json_schema_extra={"unet_only": True},
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _option_error(type(self), error) from None

    @field_validator("size", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        """(width, height), or words like ``512x768``, one or several."""
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list | tuple):
            return value
        try:
            return tuple(parse_size(each) if isinstance(each, str) else each for each in several)
        except S2PError as error:
            raise S2PError(error.problem, error.remedy, "size") from error

    @field_validator("*", mode="after")
    @classmethod
    def _one_of_the_choices(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[info.field_name]
        known = choices(field)
        if known and value not in known:
            raise _unknown(info.field_name, field, value, known)
        return value

    def beside_the_unet(self) -> dict[str, Any]:
        """What was asked for of the programs beside the U-Net's, JSON-able."""
        aside = {name for name, field in type(self).model_fields.items() if _extra(field, "unet_only", False)}
        return self.model_dump(mode="json", exclude=aside)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The values that a field may have, in words; empty where these are not listed."""
    listed = _extra(field, "choices", ())
    found = get_args(field.annotation) if get_origin(field.annotation) is Literal else listed
    return tuple(str(choice) for choice in found)


def metavar(field: FieldInfo) -> str | None:
    """How a value of the field is shown in help."""
    found: str | None = _extra(field, "metavar", None)
    return found


def is_hidden(field: FieldInfo) -> bool:
    """Whether help does not show the field."""
    return bool(_extra(field, "hidden", False))


def is_repeated(field: FieldInfo) -> bool:
    """Whether the option may be given several times."""
    return get_origin(field.annotation) in (tuple, list)


def _extra(field: FieldInfo, key: str, default: Any) -> Any:
    extra = field.json_schema_extra
    return extra.get(key, default) if isinstance(extra, dict) else default


def _unknown(name: str, field: FieldInfo, value: object, known: tuple[str, ...]) -> S2PError:
    return S2PError(f"unknown {field.title or name.replace('_', ' ')} {value!r}", f"choose from {', '.join(known)}", name)


def _option_error(model: type[TargetOptions], error: ValidationError) -> S2PError:
    """The first problem of a validation, in a line."""
    problem = error.errors()[0]
    name = str(problem["loc"][0]) if problem["loc"] else model.__name__
    field, value = model.model_fields.get(name), problem["input"]
    if field is None:
        return S2PError(
            f"`{name}` is no option here", f"there are {', '.join(f'`{known}`' for known in model.model_fields)}", name
        )
    if known := choices(field):
        return _unknown(name, field, value, known)
    if problem["type"] == "greater_than_equal":
        return S2PError(f"`{name}={value}` is out of range", f"give {problem['ctx']['ge']} or more", name)
    wanted = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
    return S2PError(f"`{name}={value}` is not valid", f"{wanted.replace('input should be', 'give')}", name)
