"""Models whose position ids are columns of three numbers (M-RoPE): time, row, column.

A row that stays keeps its own column, and text counts on as behind the whole picture. What stays is known once the
vision tower has run; the engine lays out positions when a request comes, before. So text has its own at once, a
placeholder a mark that says where its picture begins, and every row brings its place in the picture in further columns
of its features. `ReducedRopeModel.recompute_mrope_positions`, which the engine calls before the decoder, joins the two.
It may see the same rows again: after a request was set aside, or for a drafter that looks ahead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import ops
from . import settings
from .interface import ReducedModel, ReducedProcessor
from .rows import Layout, Shapes

_COLUMNS, _RADIX = 6, 128  # three numbers in two digits each, which eight bits of a bfloat16 hold exactly
_UNKNOWN = -1


class Shape(NamedTuple):
    """A picture's, or a video's, tokens: so many frames of rows and columns; `pace`: positions from frame to frame."""

    frames: int
    rows: int
    columns: int
    pace: float = 1.0

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [(self.rows, self.columns)] * self.frames

    @property
    def extent(self) -> int:
        """How much further the text behind it is than the text before."""
        return max(int((self.frames - 1) * self.pace), self.rows - 1, self.columns - 1) + 1

    def places(self) -> Tensor:
        """int64 ``[frames * rows * columns, 3]``, from its beginning."""
        time = (torch.arange(self.frames, dtype=torch.float64) * self.pace).long()
        return torch.cartesian_prod(time, torch.arange(self.rows), torch.arange(self.columns)).view(-1, 3)


class Span(NamedTuple):
    """Placeholders of a prompt that follow each other: `count` from the `first` on."""

    first: int
    count: int
    extent: int


def lay_out(n: int, spans: Iterable[Span]) -> tuple[Tensor, int]:
    """Position ids int64 ``[3, n]`` of a prompt's tokens, those of placeholders a mark; and by how much those of the
    answer are ahead of the number of tokens before them."""
    positions = torch.empty(3, n, dtype=torch.int64)
    at = ahead = 0
    for first, count, extent in spans:
        positions[:, at:first] = torch.arange(at, first) + ahead
        at = first + count
        positions[:, first:at] = torch.tensor([[first + ahead], [_UNKNOWN], [_UNKNOWN]])
        ahead += extent - count
    positions[:, at:] = torch.arange(at, n) + ahead
    return positions, ahead


def with_places(rows: Tensor, places: Tensor) -> Tensor:
    """Rows ``[k, d]`` and their places ``[k, 3]`` in one tensor of the rows' dtype."""
    return torch.cat([rows, (places // _RADIX).to(rows), (places % _RADIX).to(rows)], dim=1)


def without_places(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What `with_places` has joined."""
    high, low = rows[:, -_COLUMNS:].long().split(3, dim=1)
    return rows[:, :-_COLUMNS], high * _RADIX + low


def put_places(positions: Tensor, placeholders: Tensor, places: Tensor) -> Tensor:
    """Position ids with those of some placeholders ``[k]`` put in by their places ``[k, 3]``, whether they are marks
    still or have been put in before."""
    before, places = positions[:, placeholders], places.T.to(positions.device)
    begin = torch.where(before[1] == _UNKNOWN, before[0], before[0] - places[0])
    positions = positions.clone()
    positions[:, placeholders] = begin + places
    return positions


class ReducedGridProcessor(ReducedProcessor):
    """Before a multimodal processor whose pictures come with their grids.

    Attributes:
        frames_apart: a video's frames have text between them, and each is a picture of its own.
    """

    layout: ClassVar[Layout] = "grids"
    frames_apart: ClassVar[bool] = False

    def _grids(self, out_mm_kwargs, modality: str, item: int) -> list[tuple[int, int]]:
        merge = self.info.get_hf_config().vision_config.spatial_merge_size
        shape = _shape(modality, _data(out_mm_kwargs[modality][item]), merge)
        return shape.grids[:1] if self.frames_apart else shape.grids

    def _fewer(self, tokens, grids: Shapes):
        if isinstance(tokens, list):
            return super()._fewer(tokens, grids)
        video, full = self.info.get_hf_config().video_token_id, []
        for token, run in groupby(tokens.full):
            frame = list(run)
            full += super()._fewer(frame, grids) if token == video else frame
        return dataclasses.replace(tokens, full=full)


def _data(item: Any) -> dict[str, Any]:
    """What the engine wraps, by name."""
    return {name: element.data for name, element in item.items()}


def _shape(modality: str, item: dict[str, Any], merge: int, tokens_per_second: float = 1.0) -> Shape:
    frames, rows, columns = item[f"{modality}_grid_thw"].tolist()
    seconds = item.get("second_per_grid_ts") if modality == "video" else None
    pace = 1.0 if modality == "image" else tokens_per_second * (1.0 if seconds is None else float(seconds))
    return Shape(frames, rows // merge, columns // merge, pace)


class ReducedRopeModel(ReducedModel):
    """Before a model of Qwen2-VL's interface.

    Attributes:
        frames_apart: as of `ReducedGridProcessor`.
    """

    layout: ClassVar[Layout] = "grids"
    frames_apart: ClassVar[bool] = False
    supports_multimodal_pruning: ClassVar[bool] = True  # else the engine would not ask for positions

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        multimodal = vllm_config.model_config.multimodal_config
        if multimodal.video_pruning_rate:
            raise ValueError(
                f"{settings.VARIABLE}: --video-pruning-rate takes tokens away as well, got "
                f"{multimodal.video_pruning_rate}: ask for one of the two"
            )
        if vllm_config.compilation_config.cudagraph_mm_encoder:
            raise ValueError(
                f"{settings.VARIABLE}: cudagraph_mm_encoder runs the vision tower without what comes behind it; "
                "leave it off"
            )
        multimodal.is_multimodal_pruning_enabled = _yes
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """One tensor ``[count, d + 6]`` for each picture and video: the rows that stay, with their places."""
        found: list[Tensor] = []
        for name, fields in self._parse_and_validate_multimodal_inputs(**kwargs).items():
            modality = name.removesuffix("s")  # Qwen2-VL's are plural
            embed = self._process_image_input if modality == "image" else self._process_video_input
            seconds = fields.get("second_per_grid_ts")
            for i, rows in enumerate(embed(fields)):
                item = {f"{modality}_grid_thw": fields[f"{modality}_grid_thw"][i]}
                if seconds is not None:
                    item["second_per_grid_ts"] = seconds[i]
                whole = fields["type"].endswith("embeds")  # rows that the request brought stay as they are
                found.append(self._with_places(rows, self._shape(modality, item), whole))
        return tuple(found)

    def _with_places(self, rows: Tensor, shape: Shape, whole: bool) -> Tensor:
        pieces, shape = (shape.frames, shape._replace(frames=1)) if self.frames_apart else (1, shape)
        places = shape.places().to(rows.device, non_blocking=True)
        if whole:
            return with_places(rows, places.repeat(pieces, 1))
        return torch.cat([self._those_that_stay(piece, places, shape.grids) for piece in rows.chunk(pieces)])

    def _those_that_stay(self, rows: Tensor, places: Tensor, grids: list[tuple[int, int]]) -> Tensor:
        """Behind the features there may be those of deeper layers, which go where their tokens go."""
        width = getattr(self, "visual_dim", rows.shape[1])
        features, deeper = rows[:, :width], rows[:, width:]
        selection = self.rows.choose(features, grids)
        if selection.hidden is None:
            kept = rows[selection.kept]
        elif not deeper.shape[1]:
            kept = selection.hidden
        else:
            means, _ = ops.segment_mean(deeper, selection.labels, len(selection.kept))
            kept = torch.cat([selection.hidden, means], dim=1)
        return with_places(kept, places[selection.kept])

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Position ids ``[3, n]`` as far as they are known when a request comes, and `lay_out`'s other number."""
        return lay_out(len(input_tokens), self._spans(input_tokens, mm_features))

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """The rows without their places, the position ids with those put in, and how far those of the answer are ahead.

        The rows are those of the first placeholders from `num_computed_tokens` on. A prompt that ends in a picture is
        answered as from behind the last token that stays, as the picture's extent is no longer known.
        """
        if multimodal_embeddings:
            rows, places = zip(*map(without_places, multimodal_embeddings), strict=True)
            placeholders = self._is_placeholder(torch.as_tensor(input_ids)[num_computed_tokens:]).nonzero().flatten()
            placeholders = (placeholders + num_computed_tokens)[: sum(map(len, places))].to(mrope_positions.device)
            mrope_positions = put_places(mrope_positions, placeholders, torch.cat(places))
        else:
            rows = ()
        return list(rows), mrope_positions, int(mrope_positions.max()) + 1 - mrope_positions.shape[1]

    def _is_placeholder(self, ids: Tensor) -> Tensor:
        return (ids == self.config.image_token_id) | (ids == self.config.video_token_id)

    def _shape(self, modality: str, item: dict[str, Any]) -> Shape:
        vision = self.config.vision_config
        return _shape(modality, item, vision.spatial_merge_size, getattr(vision, "tokens_per_second", 1.0))

    def _spans(self, input_tokens: list[int], mm_features: list[Any]) -> Iterator[Span]:
        ids = (self.config.image_token_id, self.config.video_token_id)
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            shape = self._shape(feature.modality, _data(feature.data))
            shape = shape._replace(frames=1) if self.frames_apart else shape
            begin, end = feature.mm_position.offset, feature.mm_position.offset + feature.mm_position.length
            for placeholder, run in groupby(range(begin, end), key=lambda at: input_tokens[at] in ids):
                if placeholder:
                    first, *others = run
                    yield Span(first, 1 + len(others), shape.extent)


def _yes() -> bool:
    """In the place of a setting's question, so that it stays with a setting that is sent to another process."""
    return True
