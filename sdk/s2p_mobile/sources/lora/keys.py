"""Keys of a LoRA file: the layer as the file spells it, and which part of its update the tensor is."""

from __future__ import annotations

import re
from pathlib import Path

from s2p_runtime.errors import S2PError

_ADAPTER = r"(?:\.[^.]+)?"
"""peft's name of the adapter, which it leaves out of saved files."""
_FACTORS = (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1_a", "lokr_w1_b", "lokr_w1", "lokr_w2_a",
    "lokr_w2_b", "lokr_w2", "lokr_t2",
)  # fmt: skip
_ROLES = {
    # kohya; peft; diffusers before peft (lora.down, processor.to_q_lora.down, lora_linear_layer.down).
    "down": rf"(?:\.lora_down|\.lora_A{_ADAPTER}|[._]lora\.down|\.lora_linear_layer\.down)\.weight",
    "up": rf"(?:\.lora_up|\.lora_B{_ADAPTER}|[._]lora\.up|\.lora_linear_layer\.up)\.weight",
    "up_bias": rf"(?:\.lora_up|\.lora_B{_ADAPTER})\.bias",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "dora_scale": r"\.dora_scale",
    "magnitude": rf"\.lora_magnitude_vector(?:\.weight|{_ADAPTER}\.weight|{_ADAPTER})",
    "diff": r"\.(?:diff|w_norm)",
    "diff_b": r"\.(?:diff_b|b_norm)",
    **{factor: rf"\.{factor}{_ADAPTER}" for factor in _FACTORS},
}
_KEY = re.compile("(?P<stem>.+?)(?:" + "|".join(f"(?P<{role}>{pattern})" for role, pattern in _ROLES.items()) + ")")

_AS_EMBEDDING = "give a file of that embedding with `embedding`"
_OTHERWISE = "get it as LoRA, LoHa, LoKr or DoRA"
_REFUSED = (
    (r"bundle_emb\.", "a text embedding that OneTrainer bundled", f"{_AS_EMBEDDING} and the LoRA without it"),
    (r"string_to_param|^emb_params$|^clip_[lg]$", "a text embedding and no LoRA", _AS_EMBEDDING),
    (r"\.on_input$|\.ia3_l\b", "a part of IA3, which is not supported", _OTHERWISE),
    (r"\.oft_|\.boft_", "a part of OFT, which is not supported", _OTHERWISE),
    (r"\.[ab][12]\.weight$", "a part of GLoRA, which is not supported", _OTHERWISE),
    (r"\.vera_|^base_model\.vera_", "a part of VeRA, which is not supported", _OTHERWISE),
    (r"\.lora_embedding_[AB]\b", "a LoRA of a token embedding, which is not supported", _OTHERWISE),
    (r"^lora_controlnet$", "a part of a Control-LoRA, which is not supported", "give a LoRA that changes the model itself"),
)


def parse_key(path: Path, key: str) -> tuple[str, str]:
    """Layer as the file spells it, and role: a name of ``kinds``.

    Raises:
        S2PError: no part of an update that is known here.
    """
    match = _KEY.fullmatch(key)
    if match is None or match.lastgroup is None:
        layouts = "use a file in the layout of peft, diffusers, kohya or LyCORIS"
        raise S2PError(f"{path} has {key}, which is no part of a LoRA, LoHa, LoKr, DoRA or full difference", layouts, "lora")
    # What peft saves of a network alone, and some scripts after the network's name.
    return match["stem"].replace("base_model.model.", ""), match.lastgroup


def refuse_kinds(path: Path, keys: list[str]) -> None:
    """Raise :class:`S2PError` for a file of a kind that is known and not supported: its name, and what to do."""
    for pattern, what, remedy in _REFUSED:
        if found := [key for key in keys if re.search(pattern, key)]:
            raise S2PError(f"{path} has {found[0]}, {what}", remedy, "lora")
