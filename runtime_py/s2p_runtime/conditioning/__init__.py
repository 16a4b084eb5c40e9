"""What a prompt tells the U-Net, and how."""

from s2p_runtime.conditioning.choice import bundle_tokenizer, components_of, conditioner_of, encode_prompt
from s2p_runtime.conditioning.protocol import Conditioner, Conditions, RunComponent

__all__ = [
    "Conditioner",
    "Conditions",
    "RunComponent",
    "bundle_tokenizer",
    "components_of",
    "conditioner_of",
    "encode_prompt",
]
