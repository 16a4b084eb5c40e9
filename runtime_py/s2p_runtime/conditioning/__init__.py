"""What a prompt tells the U-Net, and how."""

from s2p_runtime.conditioning.choice import bundle_tokenizers, components_of, conditioner_of, encode_prompt
from s2p_runtime.conditioning.protocol import Conditioner, Conditions, RunComponent
from s2p_runtime.conditioning.tokens import TokenIds, load_tokenizers, token_ids, tokenizer_specs, tokens_dropped

__all__ = [
    "Conditioner",
    "Conditions",
    "RunComponent",
    "TokenIds",
    "bundle_tokenizers",
    "components_of",
    "conditioner_of",
    "encode_prompt",
    "load_tokenizers",
    "token_ids",
    "tokenizer_specs",
    "tokens_dropped",
]
