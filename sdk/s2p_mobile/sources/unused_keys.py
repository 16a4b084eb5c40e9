"""Keys that a picture does not depend on. Whatever a file has besides, and nothing uses, is refused by name."""

from __future__ import annotations

import re

_UNUSED = (
    (r"(.*\.)?model_ema\..*", "running averages of the weights beside them; diffusers takes the others too"),
    (r"(.*\.)?position_ids", "the numbers 0, 1, 2 and so on"),
    (r"(.*\.)?attn_mask", "the causal mask, which the text encoder makes itself"),
    (r"(.*\.)?logit_scale", "of CLIP's training"),
    (
        r"(.*\.)?text_projection(\.weight)?",
        "where a model is told hidden states; where it is told the pooled text, this is used",
    ),
    (r"(.*\.)?(vision_model|visual_projection)(\..*)?", "CLIP's other half, which looks at pictures"),
    (r"first_stage_model\.(encoder|quant_conv)\..*", "the VAE's encoder where it is not whole: pictures are only decoded"),
    (r"first_stage_model\.loss\..*", "of the VAE's training"),
    (
        r"betas|alphas_cumprod(_prev)?|(sqrt|posterior|log)_\w+|logvar|lvlb_weights|denoiser\.(log_)?sigmas",
        "tables of the schedule",
    ),
    (
        r"(optimizer_states|lr_schedulers|callbacks|loops|global_step|epoch|hyper_parameters|hparams_name|pytorch-lightning_version)"
        r"(\..*)?",
        "of training",
    ),
    (r"(safety_checker|safety_model|feature_extractor)\..*", "looks at finished pictures"),
    (r"v_pred|ztsnr|scale_factor", "read as what they say, and no weights"),
)
"""Pattern of the whole key, and why it may be left out."""


def is_unused(key: str) -> bool:
    """Whether a picture is the same without this key, once all that a model does use has been taken."""
    return any(re.fullmatch(pattern, key) for pattern, _ in _UNUSED)
