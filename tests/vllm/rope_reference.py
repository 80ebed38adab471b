"""What Hugging Face's Qwen models answer to what a method has left of a prompt, every token at its own position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from qwen import MERGE
from torch import Tensor

Kept = Callable[[Tensor, list[tuple[int, int]]], Tensor]


class Prompt(NamedTuple):
    """What the decoder reads of each token: embeddings ``[n, d]``, positions ``[3, n]``, and of visual tokens (bool
    ``[n]``) the features of deeper layers ``[layers, n, d]``."""

    embeddings: Tensor
    positions: Tensor
    visual: Tensor
    deeper: Tensor

    def of(self, tokens: Tensor) -> Prompt:
        return Prompt(self.embeddings[tokens], self.positions[:, tokens], self.visual[tokens], self.deeper[:, tokens])


class RopeReference:
    """A checkpoint by transformers. `kept` tells which of a picture's rows, in grids of these shapes, stay; a video is
    one picture of several grids, but in Qwen3-VL, where each of its frames is a picture."""

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        self.kept = kept
        self.frames_apart = self.model.config.model_type == "qwen3_vl"

    @torch.no_grad()
    def prompt(self, request: dict) -> tuple[list[int], Prompt]:
        """The ids, with a placeholder for every row that stays, and what stays."""
        given, core = self._processed(request), self.model.model
        ids = given["input_ids"]
        embeddings, stays = core.get_input_embeddings()(ids)[0], torch.ones(ids.shape[1], dtype=torch.bool)
        deeper = torch.zeros(0, *embeddings.shape)
        for kind, token in (("image", core.config.image_token_id), ("video", core.config.video_token_id)):
            grids = given.get(f"{kind}_grid_thw")
            if grids is None:
                continue
            pixels = given["pixel_values" if kind == "image" else "pixel_values_videos"]
            found, places = getattr(core, f"get_{kind}_features")(pixels, grids), (ids[0] == token).nonzero().flatten()
            embeddings[places] = torch.cat(list(found.pooler_output))
            layers = getattr(found, "deepstack_features", [])
            deeper = deeper if len(deeper) else torch.zeros(len(layers), *embeddings.shape)
            for layer, features in zip(deeper, layers, strict=True):
                layer[places] = torch.cat(list(features))
            stays[places] = False
            stays[places[self._kept_of(found.pooler_output, grids.tolist())]] = True
        prompt = Prompt(embeddings, self._positions(given), given["mm_token_type_ids"][0] > 0, deeper)
        return ids[0, stays].tolist(), prompt.of(stays)

    @torch.no_grad()
    def answer(self, prompt: Prompt, tokens: int) -> list[int]:
        """The greedy one, each token by the whole sequence anew."""
        embeddings, positions, visual, deeper = prompt
        answer: list[int] = []
        for _ in range(tokens):
            deep = {"visual_pos_masks": visual[None], "deepstack_visual_embeds": list(deeper[:, prompt.visual])}
            hidden = self.model.model.language_model(
                inputs_embeds=embeddings[None],
                position_ids=positions[:, None],
                use_cache=False,
                **(deep if len(deeper) else {}),
            )
            answer.append(int(self.model.lm_head(hidden.last_hidden_state[0, -1]).argmax()))
            embeddings = torch.cat([embeddings, self.model.get_input_embeddings()(torch.tensor(answer[-1:]))])
            positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)  # a prompt ends in text
            visual = torch.cat([visual, torch.tensor([False])])
        return answer

    def _processed(self, request: dict):
        data = {name: request[name] for name in ("images", "videos") if request.get(name)}
        facts = [{k: v for k, v in facts.items() if k != "do_sample_frames"} for facts in request.get("metadata", [])]
        frames = {"video_metadata": facts, "do_sample_frames": False} if facts else {}
        return self.processor(
            text=[request["prompt"]], **data, **frames, return_tensors="pt", return_mm_token_type_ids=True
        )

    def _kept_of(self, pictures: list[Tensor], grids: list[list[int]]) -> Tensor:
        """Which of the rows of all pictures stay."""
        kept, first = [], 0
        for rows, (frames, height, width) in zip(pictures, grids, strict=True):
            shapes = [(height // MERGE, width // MERGE)] * (1 if self.frames_apart else frames)
            for piece in rows.chunk(frames) if self.frames_apart else [rows]:
                kept.append(self.kept(piece, shapes) + first)
                first += len(piece)
        return torch.cat(kept)

    def _positions(self, given) -> Tensor:
        """``[3, n]`` of all tokens."""
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        grids = {name: torch.as_tensor(given[name]) for name in names if name in given}
        if not grids:
            return torch.arange(given["input_ids"].shape[1]).expand(3, -1)
        return self.model.model.get_rope_index(given["input_ids"], given["mm_token_type_ids"], **grids)[0][:, 0]
