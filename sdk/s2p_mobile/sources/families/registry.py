"""The installed families, and which one a model belongs to."""

from __future__ import annotations

from s2p_mobile.sources.families.family import Configs, Family
from s2p_runtime.errors import S2PError
from s2p_runtime.registry import Registry

_BUILT_IN = {
    "sd1": "s2p_mobile.sources.families.stable_diffusion:SD1",
    "sd2": "s2p_mobile.sources.families.stable_diffusion:SD2",
    "sdxl": "s2p_mobile.sources.families.stable_diffusion:SDXL",
}
FAMILIES: Registry[Family] = Registry("family", "s2p_mobile.families", _BUILT_IN)


def families_in_order() -> list[Family]:
    """Every installed family in the order in which they are asked: those of plug-ins by name, which may be more particular, then the
    built-in ones."""
    entries = FAMILIES.entries
    return [entries[name] for name in sorted(set(entries) - set(_BUILT_IN))] + [entries[name] for name in _BUILT_IN]


def recognise(name: str, configs: Configs) -> Family:
    """The family of a model: the first of :func:`families_in_order` that says so.

    Args:
        name: of the model, for the message.

    Raises:
        S2PError: no family knows it.
    """
    families = families_in_order()
    for family in families:
        if family.matches(configs):
            return family
    text = configs.get("text_encoder", {})
    kind, act = (text.get("architectures") or ["unknown"])[0], text.get("hidden_act")
    raise S2PError(
        f"{name} belongs to no known family (its text encoder is a {kind} with hidden_act {act!r})",
        f"known are {', '.join(family.name for family in families)}",
    )
