"""What an engine's classes do otherwise when a method is at work, apart from the engine's own names.

Mixed in before the engine's class. The multimodal processor writes fewer placeholders for a picture or a video, and
the model computes as many rows. What counts beforehand, to measure memory or to choose the largest picture, still
sees all the tokens: the vision tower does.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, ClassVar

from torch import Tensor

from . import settings
from .rows import Layout, Rows, Shapes


def rows_of(layout: Layout) -> Rows:
    """What the environment asks for, in a model whose pictures lie so.

    Raises:
        ValueError: what `settings.read` and `Rows` raise, and nothing asked for.
    """
    method = settings.read(os.environ)
    if method is None:
        raise ValueError(f"{settings.VARIABLE} must be set in every process of the engine, and is not in this one")
    try:
        return Rows(method, layout)
    except ValueError as error:
        raise ValueError(f"{settings.VARIABLE}: {error}") from None


class ReducedProcessor:
    """Before a multimodal processor.

    Attributes:
        layout: see `Rows`.
        embedding_items: the engine's classes of items that come as rows of the projector; they stay as they come.
    """

    layout: ClassVar[Layout] = "parts"
    embedding_items: ClassVar[type | tuple[type, ...]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rows = rows_of(self.layout)
        super().__init__(*args, **kwargs)

    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs) -> list:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [self._shorter(update, mm_items, out_mm_kwargs) for update in updates]

    def _shorter(self, update, mm_items, out_mm_kwargs):
        def replacement(item: int):
            tokens = update.replacement(item)
            if isinstance(mm_items[update.modality], self.embedding_items):
                return tokens
            return self._fewer(tokens, self._grids(out_mm_kwargs, update.modality, item))

        return dataclasses.replace(update, replacement=replacement)

    def _grids(self, out_mm_kwargs, modality: str, item: int) -> Shapes:
        """Of a picture, or of a video's frames, where `layout` is "grids"."""
        return ()

    def _fewer(self, tokens, grids: Shapes):
        """Of what takes a picture's place in the prompt, as much as the method leaves."""
        return tokens[: self.rows.count(len(tokens), grids)]


class ReducedModel:
    """Before a model.

    Attributes:
        layout: see `Rows`.
    """

    layout: ClassVar[Layout] = "parts"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:  # the engine looks for these names
        rows = rows_of(self.layout)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.rows = rows  # which no module takes before it has become one

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """One tensor ``[count, d]`` for each picture and video."""
        embeddings = super().embed_multimodal(**kwargs)
        if kwargs.get("image_embeds") is not None and kwargs.get("pixel_values") is None:
            return tuple(embeddings)
        return tuple(self.rows.reduce(rows.flatten(0, -2)) for rows in embeddings)
