"""What Hugging Face answers to a prompt whose pictures are rows that a method has left, at positions without gaps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor

Rows = Callable[[Tensor], Tensor]


class Reference:
    """A checkpoint by transformers. `rows` makes of a picture's rows, or a video's, those that stay."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        self.rows = rows

    @torch.no_grad()
    def prompt(self, request: dict) -> tuple[list[int], Tensor]:
        """The ids, with a placeholder for every row, and the embeddings ``[n, d]``."""
        given = [x for x in request.get("images", []) if isinstance(x, Tensor)]
        pictures = given or [self.rows(rows) for rows in self._pictures(request)]
        videos = [self.rows(rows) for rows in self._videos(request)]
        config, ids, parts = self.model.config, [], []
        for token in self.processor.tokenizer(request["prompt"])["input_ids"]:
            if token == config.image_token_index:
                rows = pictures.pop(0)
            elif token == getattr(config, "video_token_index", None):
                rows = videos.pop(0)
            else:
                rows = self.model.get_input_embeddings()(torch.tensor([token]))
            ids += [token] * len(rows)
            parts.append(rows)
        assert not pictures
        assert not videos
        return ids, torch.cat(parts)

    @torch.no_grad()
    def answer(self, embeddings: Tensor, tokens: int) -> list[int]:
        """The greedy one."""
        ids = self.model.generate(
            inputs_embeds=embeddings[None],
            attention_mask=torch.ones(1, len(embeddings), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
        return ids[0].tolist()

    def _pictures(self, request: dict) -> list[Tensor]:
        if not request.get("images"):
            return []
        inputs = self.processor.image_processor(request["images"], return_tensors="pt")
        inputs.pop("batch_num_images", None)
        features = self.model.model.get_image_features(**inputs)
        return list(getattr(features, "pooler_output", features))

    def _videos(self, request: dict) -> list[Tensor]:
        if not request.get("videos"):
            return []
        inputs = self.processor.video_processor(request["videos"], return_tensors="pt", do_sample_frames=False)
        features = self.model.model.get_video_features(pixel_values=inputs["pixel_values_videos"])
        newline = self.model.model.image_newline[None]
        return [torch.cat([rows.flatten(0, -2), newline]) for rows in getattr(features, "pooler_output", features)]
