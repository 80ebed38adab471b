"""Which of a prompt's tokens show which image or video."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .callers import copies_of_rows, given_to_generate

if TYPE_CHECKING:
    from .families import Family
    from .families.family import ImageTokens


def visual_tokens(core: nn.Module, family: Family, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, N]`` bool on the CPU: the tokens of images, and those of videos."""
    ids = ids.cpu()
    visual = torch.isin(ids, torch.tensor(family.visual_token_ids(core.config)))
    videos = visual & family.in_videos(core.config, ids)
    return visual & ~videos, videos


def pictures(core: nn.Module, family: Family, given: Mapping, caller: str) -> list[list[Tensor]]:
    """For each row the places of every image's and every video's tokens, ascending, on the CPU.

    All frames of a video are one picture. Features go to the tokens in order, whatever the mask hides and whatever
    stands between them, so only the number that each picture has says where it ends.

    Args:
        given: the arguments of a call of `core`.
        caller: named in errors.

    Raises:
        ValueError: the tokens are not as many as the pictures have.
    """
    rows = [[] for _ in given["input_ids"]]
    for kind, tokens in zip(("image", "video"), visual_tokens(core, family, given["input_ids"]), strict=True):
        if tokens.any():
            counts = family.image_counts if kind == "image" else family.video_counts
            for row, found in zip(rows, deal(tokens, counts(core, given), kind, caller), strict=True):
                row += found
    for index, row in enumerate(rows):
        row.sort(key=lambda places: int(places[0]))
        if any(before[-1] > after[0] for before, after in itertools.pairwise(row)):
            raise ValueError(f"{caller}: one picture's tokens must not stand inside another's, got that in row {index}")
    return rows


class Picture(NamedTuple):
    """An image or a video of a row.

    Attributes:
        places: of its tokens, ascending, on the CPU.
        number: of an image among those that the vision tower sees; None for a video.
        tokens: of an image, what the family says of them.
    """

    places: Tensor
    number: int | None
    tokens: ImageTokens | None


def pictures_of_rows(core: nn.Module, family: Family, given: Mapping, caller: str) -> list[list[Picture]]:
    """The pictures of each row of a call, in order.

    `generate` of transformers 5 hands on features, and every row several times, for beams: the pictures' sizes are
    among what it was given itself, once.

    Raises:
        RuntimeError: features came from elsewhere, without the sizes of their pictures.
        ValueError: as `pictures`.
    """
    copies, to_generate = 1, given_to_generate() if given.get("mm_encoder_outputs") is not None else {}
    if to_generate:
        copies = copies_of_rows(len(given["input_ids"]))
        given = {**to_generate, "input_ids": given["input_ids"][::copies]}
    given = {name: value for name, value in given.items() if value is not None}
    is_image, _ = visual_tokens(core, family, given["input_ids"])
    try:
        images = enumerate(family.images(core, given) if is_image.any() else [])
    except KeyError as error:
        raise RuntimeError(
            f"{caller}: {error} must be given beside features, to tell which tokens are which part of a picture"
        ) from None
    rows = [
        [Picture(places, *(next(images) if is_image[row, places[0]] else (None, None))) for places in found]
        for row, found in enumerate(pictures(core, family, given, caller))
    ]
    return [row for row in rows for _ in range(copies)]


def deal(tokens: Tensor, counts: list[int], kind: str, caller: str) -> list[list[Tensor]]:
    """The places ``[count]`` of each picture's tokens, by row.

    Args:
        tokens: ``[B, N]`` bool, the tokens of all pictures of this kind.
        counts: how many of them each picture has, row by row.
    """
    left, rows = list(counts), []
    for row, flags in enumerate(tokens):
        places, mine = flags.nonzero().flatten(), []
        while left and sum(mine) < len(places):
            mine.append(left.pop(0))
        if sum(mine) != len(places):
            raise ValueError(
                f"{caller}: the {kind} tokens of row {row} must be those of its {kind}s, got {len(places)} tokens and "
                f"{kind}s of {mine}"
            )
        rows.append(list(places.split(mine)))
    if left:
        raise ValueError(
            f"{caller}: input_ids must hold the tokens of all {len(counts)} {kind}s, got none for the last {len(left)}"
        )
    return rows


def encoded(given: Mapping, kind: str) -> list[int] | None:
    """How many features a call brings of each "image" or "video", which `generate` of transformers 5 has encoded."""
    outputs = given.get("mm_encoder_outputs")
    output = outputs.get(kind) if isinstance(outputs, Mapping) else None
    return None if output is None else [len(features) for features in output.pooler_output]


def runs(flags: Tensor) -> list[list[tuple[int, int]]]:
    """Start and end of every run of True, in each row of ``[B, N]``."""
    edges = F.pad(flags.cpu().int(), (1, 1)).diff()
    places = [[(row == edge).nonzero().flatten().tolist() for edge in (1, -1)] for row in edges]
    return [list(zip(*ends, strict=True)) for ends in places]
