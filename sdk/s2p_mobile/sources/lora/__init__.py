"""LoRA and its relatives (LoHa, LoKr, DoRA, full differences) fused into a model's weights.

``spellings`` knows how files name a layer, ``keys`` how they name a part of an update, ``kinds`` the formulas, ``settings`` what a
trainer wrote beside the numbers, ``reading`` accounts for every key, ``fusing`` writes the changed model.
"""

from s2p_mobile.sources.lora.fusing import fuse
from s2p_mobile.sources.lora.given import ADAPTER_CONFIG, parse_lora
from s2p_mobile.sources.lora.spellings import COMPONENTS

__all__ = ["ADAPTER_CONFIG", "COMPONENTS", "fuse", "parse_lora"]
