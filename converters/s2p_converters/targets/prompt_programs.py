"""What a bundle's programs make of a prompt, as golden runs record it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_converters.core.checkpoint import Checkpoint
from s2p_runtime.bundle import PictureSize, size_ids
from s2p_runtime.conditions import encode_ids

Array32 = NDArray[np.float32]
EncodeText = Callable[[NDArray[np.int32]], Array32]
"""int32 [1, N] -> float32 [1, N, D]"""


@dataclass(frozen=True)
class PromptPrograms:
    """SDXL's programs around the U-Net.

    Attributes:
        encode: token ids [1, N] for each text encoder -> hidden states [1, N, D], pooled text [1, P].
        time_table: pooled text [B, P], time ids [B, 6] -> [B, T, K].
    """

    encode: Callable[[NDArray[np.int32], NDArray[np.int32]], tuple[Array32, Array32]]
    time_table: Callable[[Array32, Array32], Array32]


def condition_tensors(
    checkpoint: Checkpoint,
    programs: EncodeText | PromptPrograms,
    token_ids: NDArray[np.int32],
    size: PictureSize | None = None,
) -> dict[str, NDArray[Any]]:
    """``text_embeddings`` [B, N, D] and, with SDXL, ``pooled_text`` [B, P], ``time_ids`` [B, 6], ``time_table`` [B, T, K].

    Args:
        token_ids: [B, N], unconditional first.
        size: of the picture; None: the checkpoint's own.
    """
    if not isinstance(programs, PromptPrograms):
        return {"text_embeddings": np.concatenate([programs(row[None]) for row in token_ids])}
    manifest = checkpoint.manifest
    assert manifest.conditioning is not None
    hidden, pooled = encode_ids(manifest.conditioning, manifest.tokenizer.eos_id, programs.encode, token_ids)
    ids = manifest.conditioning.time_ids if size is None else size_ids(size.width, size.height)
    time_ids = np.tile(np.array([ids], np.float32), (len(token_ids), 1))
    table = programs.time_table(pooled, time_ids)
    return {"text_embeddings": hidden, "pooled_text": pooled, "time_ids": time_ids, "time_table": table}


def table_input(time_table: NDArray[Any] | None) -> tuple[torch.Tensor, ...]:
    """A recorded time table as further input of a float64 reference; none where there is none."""
    return () if time_table is None else (torch.from_numpy(time_table).double(),)
