"""How Apple's Swift packages read a prompt, and what of a model they cannot know.

Source: ``BPETokenizer.swift``, the same in apple/ml-stable-diffusion and apple/coreai-models.
"""

from __future__ import annotations

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.timesteps import of_checkpoint

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def misframed(checkpoint: Checkpoint, package: str) -> str | None:
    """Why prompts of a model cannot be framed by a package, which knows two tokens by their words; None: they can.

    Args:
        package: its name in messages.

    Raises:
        S2PError: the checkpoint's vocabulary is unreadable.
    """
    spec = checkpoint.manifest.tokenizer
    vocabulary = of_checkpoint(checkpoint, spec.vocab, "a vocabulary")
    for token, expected in ((_BOS, spec.bos_id), (_EOS, spec.eos_id)):
        if vocabulary.get(token) != expected:
            return f"frames a prompt with token {expected}, {package} with {token}"
    return None


def prompt_notes(checkpoint: Checkpoint, package: str) -> list[str]:
    """What a package reads otherwise in every prompt, or in some."""
    spec, notes = checkpoint.manifest.tokenizer, []
    if spec.pad_id != spec.eos_id:
        notes.append(f"{package} pads prompts with {_EOS}, this model was trained with token {spec.pad_id}")
    frame = {spec.bos_id, spec.eos_id, spec.pad_id}
    if learned := [token.content for token in spec.added_tokens if token.id not in frame]:
        notes.append(f"{package} knows no added tokens and reads {learned[0]} letter by letter")
    return notes
