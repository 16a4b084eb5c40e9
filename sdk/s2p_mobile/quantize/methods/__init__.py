"""Quantization methods by name."""

from dataclasses import replace

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.methods.method import Method
from s2p_mobile.quantize.recipes import Recipe
from s2p_runtime.errors import S2PError
from s2p_runtime.registry import Registry

__all__ = ["METHODS", "Method", "QuantizationJob", "QuantizedUNet", "recipe_for", "require_resumable", "run_method"]

_HERE = "s2p_mobile.quantize.methods"

METHODS: Registry[Method] = Registry(
    "method",
    "s2p_mobile.methods",
    {
        "s2p": f"{_HERE}.s2p:S2P",
        "adaround": f"{_HERE}.starting_points:ADAROUND",
        "gptq": f"{_HERE}.starting_points:GPTQ",
        "rtn": f"{_HERE}.rtn:RTN",
        "q-diffusion": f"{_HERE}.baselines.q_diffusion:Q_DIFFUSION",
        "pcr": f"{_HERE}.baselines.pcr:PCR",
        "ptq4dm": f"{_HERE}.baselines.ptq4dm:PTQ4DM",
        "palettize": f"{_HERE}.baselines.palettize:PALETTIZE",
        "int4-blocks": f"{_HERE}.baselines.coreml_presets:INT4_BLOCKS",
        "grouped-palettes": f"{_HERE}.baselines.coreml_presets:GROUPED_PALETTES",
    },
)


def run_method(name: str, job: QuantizationJob) -> QuantizedUNet:
    """Quantize with a method by name.

    Raises:
        S2PError: unknown method (lists what exists), or one that keeps nothing and shall go on.
    """
    if job.resume:
        require_resumable(name)
    return METHODS.get(name).run(replace(job, recipe=recipe_for(name, job.recipe)))


def require_resumable(name: str) -> None:
    """Raise :class:`S2PError` when a method keeps nothing that an interrupted run could go on with, or is unknown."""
    if not METHODS.get(name).keeps_work:
        raise S2PError(f"method {name} keeps nothing that a run could go on with", "leave `resume` out", "resume")


def recipe_for(name: str, recipe: Recipe) -> Recipe:
    """What a method makes of a recipe: the recipe, with whole shortcuts where the method never splits them.

    Raises:
        S2PError: unknown method (lists what exists).
    """
    if METHODS.get(name).splits_shortcuts:
        return recipe
    return recipe.model_copy(update={"split_shortcuts": False})
