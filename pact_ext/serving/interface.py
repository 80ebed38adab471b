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
from .rows import Rows


def rows_of(square: bool) -> Rows:
    """What the environment asks for, in a model whose pictures are a square or not.

    Raises:
        ValueError: what `settings.read` and `Rows` raise, and nothing asked for.
    """
    method = settings.read(os.environ)
    if method is None:
        raise ValueError(f"{settings.VARIABLE} must be set in every process of the engine, and is not in this one")
    try:
        return Rows(method, square)
    except ValueError as error:
        raise ValueError(f"{settings.VARIABLE}: {error}") from None


class ReducedProcessor:
    """Before a multimodal processor.

    Attributes:
        square: see `Rows`.
        embedding_items: the engine's class of items that come as rows of the projector; they stay as they come.
    """

    square: ClassVar[bool] = False
    embedding_items: ClassVar[type]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rows = rows_of(self.square)
        super().__init__(*args, **kwargs)

    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs) -> list:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [self._shorter(update, mm_items) for update in updates]

    def _shorter(self, update, mm_items):
        def replacement(item: int) -> list[int]:
            placeholders = update.replacement(item)
            if isinstance(mm_items[update.modality], self.embedding_items):
                return placeholders
            return placeholders[: self.rows.count(len(placeholders))]

        return dataclasses.replace(update, replacement=replacement)


class ReducedModel:
    """Before a model.

    Attributes:
        square: see `Rows`.
    """

    square: ClassVar[bool] = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:  # the engine looks for these names
        rows = rows_of(self.square)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.rows = rows  # which no module takes before it has become one

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """One tensor ``[count, d]`` for each picture and video."""
        embeddings = super().embed_multimodal(**kwargs)
        if kwargs.get("image_embeds") is not None and kwargs.get("pixel_values") is None:
            return tuple(embeddings)
        return tuple(self.rows.reduce(rows.flatten(0, -2)) for rows in embeddings)
