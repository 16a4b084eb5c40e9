"""CLIP score: how well pictures fit their prompts, with any local CLIPModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2p_mobile.judge.metrics.similarity import Pictures
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import


class ClipScorer:
    """CLIPScore (Hessel et al., 2021) with the weight 100 usual for text-to-image models: ``max(0, 100 cos(image, text))``."""

    def __init__(self, folder: Path, *, own_judge: bool = False, device: torch.device | str = "cpu") -> None:
        """
        Args:
            folder: CLIPModel, its tokenizer and ``preprocessor_config.json``, as transformers saves them.
            own_judge: the folder is a model's own ``clip/``, trained on that model's pictures; without
                ``preprocessor_config.json`` it takes them in [-1, 1] at its own size.
            device: where the model runs.

        Raises:
            S2PError: not a complete CLIP folder.
        """
        with quiet_import():
            from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
        if not (folder / "config.json").is_file():
            raise S2PError(f"{folder} holds no CLIP model (config.json is missing)", "give a folder saved by transformers")
        if not (folder / "preprocessor_config.json").is_file() and not own_judge:
            raise S2PError(
                f"{folder} lacks preprocessor_config.json, so the pictures' scaling is unknown", "add it from its origin"
            )
        try:
            with quiet_import():
                local: dict[str, Any] = {"local_files_only": True}
                self.model = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True, **local)
                self.tokenizer = CLIPTokenizer.from_pretrained(folder, **local)
                if (folder / "preprocessor_config.json").is_file():
                    self.processor = CLIPImageProcessorPil.from_pretrained(folder, **local)
                else:
                    size = self.model.config.vision_config.image_size
                    self.processor = CLIPImageProcessorPil(
                        size={"shortest_edge": size},
                        crop_size={"height": size, "width": size},
                        image_mean=[0.5] * 3,
                        image_std=[0.5] * 3,
                    )
        except Exception as error:  # transformers raises whatever its readers raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise S2PError(
                f"{folder} cannot be loaded as a CLIP model ({reason})", "give a folder saved by transformers"
            ) from error
        self.model.eval().requires_grad_(False).to(device)
        vision = self.model.config.vision_config
        shape = f"ViT {vision.num_hidden_layers} x {vision.hidden_size}, {vision.image_size} px"
        self.name = f"{'the model' + chr(39) + 's own CLIP' if own_judge else 'CLIP ' + folder.resolve().name} ({shape})"

    @torch.no_grad()
    def scores(self, pictures: Pictures, prompts: Sequence[str]) -> NDArray[np.float64]:
        """float64 [N]: score of each picture with its own prompt; a prompt over the tokenizer's length is cut."""
        text = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._text_length, return_tensors="pt"
        )
        pixels = self.processor(images=list(pictures), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        device = self.model.device
        output = self.model(
            input_ids=text["input_ids"].to(device),
            attention_mask=text["attention_mask"].to(device),
            pixel_values=pixels.to(device),
        )
        # The model returns both embeddings at unit length.
        cosine = (output.image_embeds.double() * output.text_embeds.double()).sum(dim=1).cpu()
        return np.maximum(100.0 * cosine.numpy(), 0.0)

    @property
    def _text_length(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)
