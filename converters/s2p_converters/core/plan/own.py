"""A model's own scheduler, as the pipeline that diffusers opens from its folder has it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2p_converters.core.json_object import read_object
from s2p_converters.core.plan.registry import scheduler_classes
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

with quiet_import():
    import diffusers

CONFIG_NAME = "scheduler_config.json"
INDEX_NAME = "model_index.json"
_EDM_SETTING = "sigma_data"
"""What schedulers with the preconditioning of Karras et al. 2022 (arXiv 2206.00364, table 1) are told, and no other."""
PIPELINES_CHANGE = {"steps_offset": 1, "clip_sample": False}
"""Settings that pipelines of diffusers change where they are not so; which pipelines do is for diffusers to say."""


@dataclass(frozen=True)
class OwnScheduler:
    """A model's own scheduler, not built yet.

    Attributes:
        kind: the class; None where nothing names one.
        settings: its configuration with what the model's pipeline changes in it; other samplers are built on it.
        supplied: what the pipeline sets beyond the configuration.
    """

    kind: Any
    settings: Mapping[str, Any]
    supplied: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the class."""
        return str(getattr(self.kind, "__name__", None))

    def build(self) -> Any:
        """The scheduler.

        Raises:
            S2PError: diffusers refuses the configuration, or it was written by another class. diffusers would go by the index and
                say nothing, whatever was meant by whoever changed one of both files.
        """
        written = self.settings.get("_class_name")
        if written not in (None, self.name):
            raise S2PError(
                f"model_index.json names the scheduler {self.name} but {CONFIG_NAME} is one of {written}",
                f"write the one that is meant into both (diffusers goes by {INDEX_NAME}), or choose a `scheduler`",
                "scheduler",
            )
        return build(self.kind, {**self.settings, **self.supplied})


def own_scheduler(folder: Path) -> OwnScheduler:
    """What ``DiffusionPipeline.from_pretrained`` makes of a model's ``scheduler`` folder.

    The class is the one that ``model_index.json`` beside the folder names. A folder without such a neighbour, as in a checkpoint,
    is of its configuration's class.

    Raises:
        S2PError: no readable configuration, a class that is not part of diffusers, or one with EDM's preconditioning.
    """
    config = read_config(folder / CONFIG_NAME)
    index = read_config(folder.parent / INDEX_NAME) if (folder.parent / INDEX_NAME).is_file() else {}
    kind = _class(folder, index.get("scheduler") or [diffusers.__name__, config.get("_class_name")])
    if _EDM_SETTING in config or (kind is not None and _EDM_SETTING in inspect.signature(kind.__init__).parameters):
        title = config.get("_class_name") or getattr(kind, "__name__", _EDM_SETTING)
        raise S2PError(
            f"{folder.resolve()} has {title}: the model was trained for EDM's preconditioning, which is not supported",
            "give another model; another `scheduler` would draw noise with this one",
            "scheduler",
        )
    changes = _changes(str(index.get("_class_name")), kind, config)
    given = {name: changes[name] for name in changes if name in config}
    supplied = {name: changes[name] for name in changes if name not in config}
    return OwnScheduler(kind, {**config, **given}, supplied)


def _class(folder: Path, entry: Any) -> Any:
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, entry)
    known = scheduler_classes()
    if name is None or name in known:
        return known.get(name)
    if library != diffusers.__name__ or name not in dir(diffusers):
        title = name if library == diffusers.__name__ else f"{library}.{name}"
        raise S2PError(
            f"the model's scheduler {title} is not supported: it is no class of diffusers",
            f"name one of diffusers in {INDEX_NAME}",
        )
    return getattr(diffusers, name)


def _changes(pipeline: str, kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the class of a pipeline changes in its scheduler: StableDiffusionPipeline and its relatives do.

    ``clip_sample`` is left as it is where the configuration asks for it: somebody wanted it.
    """
    accepted = {} if kind is None else inspect.signature(kind.__init__).parameters
    effective = {name: config.get(name, accepted[name].default) for name in PIPELINES_CHANGE if name in accepted}
    unlike = {name for name, value in effective.items() if value != PIPELINES_CHANGE[name]}
    if config.get("clip_sample"):
        unlike.discard("clip_sample")
    if not unlike or pipeline not in dir(diffusers):
        return {}
    with quiet_import():
        made = getattr(diffusers, pipeline)
        parameters = inspect.signature(made.__init__).parameters
        components = {
            name: None for name, each in parameters.items() if name != "self" and each.default is inspect.Parameter.empty
        }
        if "scheduler" not in components:
            return {}
        pipeline_scheduler = made(**{**components, "scheduler": build(kind, dict(config))}).scheduler
    return {name: pipeline_scheduler.config[name] for name in unlike if pipeline_scheduler.config[name] != effective[name]}


def build(kind: Any, config: Mapping[str, Any]) -> Any:
    """A scheduler from a configuration, perhaps of another class, as diffusers' ``from_config`` reads it.

    Raises:
        S2PError: a package is missing, or diffusers refuses the configuration.
    """
    try:
        with quiet_import():
            return kind.from_config(dict(config))
    except ImportError as error:
        package = "scipy" if "scipy" in str(error) else "what its message names"
        raise S2PError(
            f"{kind.__name__} needs a package that is not installed ({_reason(error)})",
            f"install {package}, or choose another `scheduler`",
            "scheduler",
        ) from error
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise S2PError(
            f"{kind.__name__} refuses the model's scheduler configuration ({_reason(error)})", f"correct {CONFIG_NAME}"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0]


def read_config(path: Path) -> dict[str, Any]:
    """A scheduler's configuration.

    Raises:
        S2PError: missing, unreadable, not an object.
    """
    return read_object(path, "a scheduler configuration", "give a model folder in diffusers layout", "get the model again")
