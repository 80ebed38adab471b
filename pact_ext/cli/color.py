"""OKLab, a colour space in which equal distances look about equally large (B. Ottosson, 2020)."""

import torch
from torch import Tensor

_TO_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(srgb: Tensor) -> Tensor:
    """sRGB in [0, 1] to OKLab, both ``[..., 3]``: lightness in [0, 1], then the green-red and blue-yellow axes."""
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return (linear @ _TO_CONES.T).clamp(min=0) ** (1 / 3) @ _TO_LAB.T
