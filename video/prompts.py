"""Prompts as text states: tokenised with a look at the length, encoded once, remembered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .clip import VideoWarning
from .errors import VideoError


class PromptWarning(VideoWarning):
    """A prompt of which the model will not read everything."""


class PromptEncoder:
    """A CLIP tokenizer and text model as one function from prompts to text states.

    States are float32 and are kept per prompt, so that a prompt is encoded once however often it is asked for.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self._states: dict[str, Tensor] = {}

    @property
    def max_tokens(self) -> int:
        """Tokens the text encoder takes, the start and end tokens included (77 in Stable Diffusion)."""
        return min(int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings))

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Text states [n, L, D] of n prompts, on the text encoder's device; the last hidden layer, as in Rombach 2022.

        Warns with `PromptWarning`, naming the words, where a prompt is longer than the encoder reads.
        """
        if isinstance(prompts, str) or not all(isinstance(p, str) for p in prompts) or not prompts:
            raise VideoError(f"prompts: expected a sequence of one or more texts, found {prompts!r}")
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._states:
                self._states[prompt] = self._encode(prompt)
        return torch.stack([self._states[p] for p in prompts]).to(self.text_encoder.device)

    def cut_words(self, prompt: str) -> str:
        """The end of the prompt that does not fit, "" where all of it does."""
        ids = self.tokenizer(prompt, verbose=False).input_ids
        room = self.max_tokens - 1  # the end token needs a place
        return "" if len(ids) <= self.max_tokens else str(self.tokenizer.decode(ids[room:-1])).strip()

    def _encode(self, prompt: str) -> Tensor:
        if cut := self.cut_words(prompt):
            warnings.warn(
                f"the text encoder reads {self.max_tokens} tokens of a prompt (start and end included); this is not "
                f"read: {cut!r} (of {prompt!r})",
                PromptWarning,
                stacklevel=4,
            )
        inputs = self.tokenizer(
            [prompt], padding="max_length", max_length=self.max_tokens, truncation=True, return_tensors="pt"
        )
        device = self.text_encoder.device
        # Stable Diffusion's own encoders read the padding too; only a config that says so masks it.
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = inputs.attention_mask.to(device) if masked else None
        return self.text_encoder(inputs.input_ids.to(device), attention_mask=mask)[0][0].float()
