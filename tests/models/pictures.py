"""Pictures for the tiny models, as the processor of each family would leave them."""

from __future__ import annotations

import torch
from torch import Tensor

_TILES = ([(4, 8), (4, 4)], [(8, 4)])
_GRIDS = ([(4, 6), (3, 5)], [(5, 6)])
SIZES = {
    "llava": ([(5, 5), (5, 5)], [(5, 5)]),
    "llava_next": ([(6, 3), (3, 6)], [(6, 4)]),
    "llava_onevision": ([(6, 3), (3, 6)], [(6, 4)]),
    "internvl": _TILES,
    "qwen2_vl": _GRIDS,
    "qwen2_5_vl": _GRIDS,
    "qwen3_vl": _GRIDS,
    "qwen3_vl_moe": _GRIDS,
    "glm4v": _GRIDS,
    "glm4v_moe": _GRIDS,
    "idefics3": _TILES,
    "smolvlm": _TILES,
    "aya_vision": _TILES,
}
"""Rows and columns, in tokens before anything a family adds, of the images in the first and second row of a batch."""

GRIDS = [family for family, sizes in SIZES.items() if sizes is _GRIDS]
TILED = ("idefics3", "smolvlm", "aya_vision")
"""Families with a tile that shows the whole image after those of its parts, when there are several."""


class Image:
    """One image as its family's processor would leave it: pixels, how many tokens, and its size where one is given."""

    def __init__(self, pixels: Tensor, tokens: int, size: tuple[int, ...] | None = None):
        self.pixels, self.tokens, self.size = pixels, tokens, size


def _cells(rows: int, columns: int, width: int, generator: torch.Generator) -> Tensor:
    """``[rows, columns, width]``: a third of the cells alone of their kind, the others near one of four kinds, which
    run along the rows, so that like tokens are near each other in the sequence too."""
    kinds = torch.randn(4, width, generator=generator, dtype=torch.float64)
    start = torch.randint(4, (rows, 1), generator=generator)
    kind = (start + torch.arange(columns) // 3) % 4
    noise = torch.randn(rows, columns, width, generator=generator, dtype=torch.float64)
    alone = torch.rand(rows, columns, 1, generator=generator) < 1 / 3
    return torch.where(alone, noise, kinds[kind] + 0.1 * noise)


def _canvas(rows: int, columns: int, patch: int, generator: torch.Generator) -> Tensor:
    """``[3, rows * patch, columns * patch]``."""
    cells = _cells(rows, columns, 3 * patch * patch, generator).unflatten(-1, (3, patch, patch))
    return cells.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _tiles(canvas: Tensor, size: int) -> Tensor:
    """``[tiles, 3, size, size]``, row by row."""
    return canvas.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(0, 1)


def picture(family: str, rows: int, columns: int, generator: torch.Generator) -> Image:
    if family == "llava":
        return Image(_canvas(rows, columns, 4, generator)[None], rows * columns)
    if family == "internvl" or family in TILED:  # tiles of 4 x 4 tokens of 8 x 8 pixels
        tiles = _tiles(_canvas(rows, columns, 8, generator), 32)
        if family in TILED and len(tiles) > 1:
            tiles = torch.cat([tiles, _canvas(4, 4, 8, generator)[None]])
        return Image(tiles, 16 * len(tiles))
    if family in ("llava_next", "llava_onevision"):
        # One tile of 3 x 3 tokens that shows all, then the padded image in such tiles; a newline ends each row.
        height, width = 3 * -(-rows // 3), 3 * -(-columns // 3)
        tiles = [_tiles(_canvas(3, 3, 4, generator), 12), _tiles(_canvas(height, width, 4, generator), 12)]
        pixels = torch.cat(tiles)
        pixels = torch.cat([pixels, pixels.new_zeros(5 - len(pixels), *pixels.shape[1:])])  # as the processors pad
        return Image(pixels[None], 9 + rows * (columns + 1), (4 * rows, 4 * columns))
    # Qwen and GLM: rows of flattened patches (channels, time, height, width), those that merge into a token together.
    cells = _cells(rows, columns, 4 * 3 * 2 * 4 * 4, generator)
    return Image(cells.reshape(rows * columns * 4, -1), rows * columns, (1, 2 * rows, 2 * columns))


def as_inputs(family: str, rows: list[list[Image]], dtype: torch.dtype) -> dict[str, Tensor]:
    images = [image for row in rows for image in row]
    if not images:
        return {}
    pixels = torch.cat([image.pixels for image in images])
    if family in ("idefics3", "smolvlm"):  # [B, tiles, ...], each row's tiles and then zeros
        own = [torch.cat([pixels[:0], *(image.pixels for image in row)]) for row in rows]
        pixels = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    found = {"pixel_values": pixels.to(dtype)}
    if images[0].size is not None:
        name = "image_grid_thw" if family in GRIDS else "image_sizes"
        found[name] = torch.tensor([image.size for image in images])
    return found


def split(family: str, inputs: dict[str, Tensor], tokens: list[int]) -> list[Image]:
    """The images back out of the inputs that hold them, given how many tokens each has."""
    sizes = inputs.get("image_grid_thw", inputs.get("image_sizes"))
    taken, images = 0, []
    for index, own in enumerate(tokens):
        count = {"internvl": own // 16}.get(family, 4 * own if family in GRIDS else 1)
        size = None if sizes is None else tuple(sizes[index].tolist())
        images.append(Image(inputs["pixel_values"][taken : taken + count], own, size))
        taken += count
    return images
