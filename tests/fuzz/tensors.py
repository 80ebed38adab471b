"""Random tensors: values that arithmetic stumbles over, behind layouts that indexing stumbles over."""

from __future__ import annotations

import random

import torch
from torch import Tensor

EDGES = (1, 2, 3, 8, 16, 17, 32, 48, 64, 65, 96, 127, 128, 129, 191, 192, 193)


def size(rng: random.Random, most: int) -> int:
    """In [1, most]: the small ones, the edges of tiles and any."""
    if rng.random() < 0.4:
        return rng.choice([edge for edge in EDGES if edge <= most])
    return min(most, int(2 ** rng.uniform(0, most.bit_length())))


# --- Values -------------------------------------------------------------------------------------------------------


def _clustered(x: Tensor, rng: random.Random) -> Tensor:
    return x[torch.arange(len(x)) % rng.randint(1, len(x))] + rng.choice([0.0, 0.01, 0.4]) * x


def _some_rows_zero(x: Tensor, rng: random.Random) -> Tensor:
    return x * (torch.rand(len(x), *[1] * (x.ndim - 1)) < 0.7)


def _antipodal(x: Tensor, rng: random.Random) -> Tensor:
    return x[torch.arange(len(x)) // 3] * torch.tensor([1.0, -1.0])[torch.randint(2, (len(x), *[1] * (x.ndim - 1)))]


def _scaled(x: Tensor, rng: random.Random) -> Tensor:
    """Duplicates of every size a float32 has."""
    return _clustered(x, rng) * 2.0 ** torch.randint(-120, 120, (len(x), *[1] * (x.ndim - 1)))


VALUES = {
    "normal": lambda x, rng: x,
    "clustered": _clustered,
    "integers": lambda x, rng: x.round(),
    "ones": lambda x, rng: torch.ones_like(x),
    "zeros": lambda x, rng: torch.zeros_like(x),
    "zero rows": _some_rows_zero,
    "antipodal": _antipodal,
    "scaled": _scaled,
    "one hot": lambda x, rng: (x == x.flatten(1).max(1).values.view(-1, *[1] * (x.ndim - 1))).double(),
    "large": lambda x, rng: x * 1e18,
    "huge": lambda x, rng: x * 3e38,
    "tiny": lambda x, rng: x * 1e-30,
    "subnormal": lambda x, rng: x * 1e-41,
}


def values(rng: random.Random, *shape: int) -> Tensor:
    """float64, finite in float32."""
    kind = rng.choice(["normal", "clustered", "clustered", *VALUES])
    x = VALUES[kind](torch.randn(shape, dtype=torch.float64), rng)
    largest = torch.finfo(torch.float32).max
    return x.clamp(-largest, largest)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """To the dtype; what is larger than it holds becomes the largest that it holds."""
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


# --- Layouts ------------------------------------------------------------------------------------------------------


def _sliced(x: Tensor, rng: random.Random) -> Tensor:
    step, start = rng.randint(1, 3), rng.randint(0, 2)
    axis = rng.randrange(x.ndim)
    wide = torch.full([(step * s + start if a == axis else s + 1) for a, s in enumerate(x.shape)], -7).to(x)
    view = wide[tuple(slice(start, None, step) if a == axis else slice(s) for a, s in enumerate(x.shape))]
    return view.copy_(x)


def _transposed(x: Tensor, rng: random.Random) -> Tensor:
    order = rng.sample(range(x.ndim), x.ndim)
    back = [order.index(axis) for axis in range(x.ndim)]
    return x.permute(order).contiguous().permute(back)


def _expanded(x: Tensor, rng: random.Random) -> Tensor:
    axis = rng.randrange(x.ndim)
    return x.narrow(axis, 0, 1).expand_as(x)


def _overlapping(x: Tensor, rng: random.Random) -> Tensor:
    """Windows over one line of numbers."""
    line = x.flatten()
    strides = [rng.randint(0, max(0, (len(line) - 1) // (x.ndim * max(1, s - 1)))) for s in x.shape]
    return line.as_strided(x.shape, strides)


def _misaligned(x: Tensor, rng: random.Random) -> Tensor:
    """At an address that is no multiple of the size of an element."""
    offset = rng.randint(1, 15)
    numbers = plain(x).flatten()
    buffer = bytearray(bytes(offset) + numbers.view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(buffer, dtype=x.dtype, offset=offset).view(x.shape)


def _negative(x: Tensor, rng: random.Random) -> Tensor:
    """A view that torch negates as it is read."""
    pair = torch.stack([torch.zeros_like(x), -x], dim=-1)
    return torch.view_as_complex(pair).conj().imag


LAYOUTS = (_sliced, _transposed, _expanded, _overlapping, _misaligned, _negative)


def laid_out(rng: random.Random, x: Tensor) -> Tensor:
    """The same values (but for layouts that repeat some of them) behind other strides."""
    layout = rng.choice(LAYOUTS)
    none = layout is _negative and x.dtype not in (torch.float32, torch.float16)
    none |= layout is _misaligned and x.device.type != "cpu"
    return x if none or rng.random() < 0.3 else layout(x, rng)


def plain(x: Tensor) -> Tensor:
    """A contiguous copy."""
    return x.resolve_neg().clone(memory_format=torch.contiguous_format)
