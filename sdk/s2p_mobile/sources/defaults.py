"""What a model folder may say about itself: ``s2p_defaults.json``, whose paths lie in that folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from s2p_converters.core.json_object import MAX_CONFIG_BYTES, json_text
from s2p_runtime.contract import Contract, parse_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.files import inside

DEFAULTS_NAME = "s2p_defaults.json"
DEFAULTS_FORMAT = "s2p-defaults"
DEFAULTS_VERSION = 1
_AGAIN = "get it from its author again"


class DefaultsFile(Contract):
    """``s2p_defaults.json``. Whatever it leaves out is the family's, or the same for all models."""

    format: Literal["s2p-defaults"] = "s2p-defaults"
    version: int = DEFAULTS_VERSION
    name: str | None = Field(
        default=None, pattern=r"^[^/\\\x00]+$", description="of the model; that of its folder when left out"
    )
    guidance: float | None = Field(default=None, ge=0, le=100, description="classifier-free guidance")
    calibration_prompts: str | None = Field(default=None, description="prompt file to quantize with")
    held_out_prompts: str | None = Field(default=None, description="prompt file to evaluate with")
    golden_prompts: tuple[str, ...] | None = Field(default=None, min_length=1, description="recorded in every checkpoint")
    checkpoint: str | None = Field(
        default=None, description="folder of a finished S2P checkpoint; components that are the model's own may be left out"
    )


@dataclass(frozen=True)
class ModelDefaults:
    """What a model's folder says, with its paths found. None: it does not say.

    Attributes:
        name: of the model.
        guidance: classifier-free guidance, 0 to 100.
        calibration_prompts, held_out_prompts: prompt files.
        golden_prompts: prompts recorded in every checkpoint.
        checkpoint: folder of a finished checkpoint, perhaps without the components that are the model's own.
    """

    name: str | None = None
    guidance: float | None = None
    calibration_prompts: Path | None = None
    held_out_prompts: Path | None = None
    golden_prompts: tuple[str, ...] | None = None
    checkpoint: Path | None = None


def read_defaults(folder: Path) -> ModelDefaults:
    """The defaults of a model folder; all None where it has no ``s2p_defaults.json``.

    Raises:
        S2PError: not valid, too large, a newer version, a path that leaves the folder or leads to nothing.
    """
    if not (folder / DEFAULTS_NAME).is_file():
        return ModelDefaults()
    file = folder / DEFAULTS_NAME
    try:
        text = json_text(file, str(file), MAX_CONFIG_BYTES, _AGAIN)
    except (OSError, UnicodeDecodeError) as error:
        raise S2PError(f"{file} is not readable JSON ({error})", _AGAIN) from error
    stated = parse_contract(text, str(file), DefaultsFile, DEFAULTS_FORMAT, DEFAULTS_VERSION)

    def place(relative: str | None) -> Path | None:
        if relative is None:
            return None
        path = inside(folder, relative)
        if not path.exists():
            raise S2PError(f"{DEFAULTS_NAME} of {folder} names {relative}, which is not there", "get the model again")
        return path

    return ModelDefaults(
        name=stated.name,
        guidance=stated.guidance,
        calibration_prompts=place(stated.calibration_prompts),
        held_out_prompts=place(stated.held_out_prompts),
        golden_prompts=stated.golden_prompts,
        checkpoint=place(stated.checkpoint),
    )
