"""Taking a measured sensitivity instead of measuring again."""

from __future__ import annotations

from pathlib import Path

from s2p_converters.core.graph import layer_specs
from s2p_mobile.quantize.bits import quantized_specs, ranking_bits
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.sensitivity.result import Sensitivity, read_sensitivity
from s2p_runtime.errors import S2PError


def sensitivity_for(job: QuantizationJob, source: Sensitivity | str | Path) -> Sensitivity:
    """A result that was measured for this job's model, plan, guidance and recipe, read from its file unless it is at hand.

    Prompts and seed of the measurement may be others.

    Raises:
        S2PError: the file is not valid, it belongs to something else (the message says to what), or the recipe ranks no layers.
    """
    rule = job.recipe.mixed
    if rule is None:
        raise S2PError(f"recipe {job.recipe.name} ranks no layers", "leave `sensitivity` out", "sensitivity")
    found = source if isinstance(source, Sensitivity) else read_sensitivity(Path(source))
    path = "the sensitivity" if isinstance(source, Sensitivity) else str(source)
    if found.unet_sha256 != job.model.unet_sha256:
        raise S2PError(f"{path} was measured on another U-Net ({found.model})", "measure this one with s2p-mobile sensitivity")
    pairs = (
        ("estimator", found.estimator, rule.ranking),
        ("scheduler", found.scheduler, job.plan.scheduler),
        ("steps", found.steps, job.plan.steps),
        ("guidance", found.guidance, job.guidance),
        ("embedded guidance", found.embedded_guidance, job.model.embedded_guidance),
        ("weight scale search", found.search, job.recipe.weights.search),
    )
    for what, is_, wanted in pairs:
        if is_ != wanted:
            raise S2PError(
                f"{path} was measured with {what} {is_}, this job has {wanted}", "measure again with s2p-mobile sensitivity"
            )
    if missing := sorted(set(ranking_bits(job.recipe)) - set(found.bits)):
        raise S2PError(
            f"{path} has no values at {', '.join(map(str, missing))} bits, which recipe {job.recipe.name} needs",
            "measure again with s2p-mobile sensitivity",
            "sensitivity",
        )
    names = {layer.name for layer in found.layers}
    for spec in quantized_specs(layer_specs(job.structure), job.recipe):
        if spec.name not in names:
            raise S2PError(
                f"{path} has no layer {spec.name}",
                f"measure this model again with `split_shortcuts={job.recipe.split_shortcuts}`",
                "sensitivity",
            )
    return found
