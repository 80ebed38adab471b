"""Which logits a call keeps. It asks for tokens of its prompt; the model's head cuts columns."""

from __future__ import annotations

import torch
from torch import Tensor

from .compaction import Compaction
from .sequence import Sequence

PADDING = -2


def keep_tokens(kept: int | Tensor | None, compaction: Compaction, before: Sequence) -> None:
    """Make `logits_to_keep` mean the same tokens after a reduction as before it.

    A tensor is rewritten in place. A number can stay as it is: the last column stands for the whole prompt whatever it
    was, and more of them have to be the last tokens.

    Raises:
        RuntimeError: a token of them is not there any more, or not in the same column of every row.
    """
    if isinstance(kept, Tensor):
        kept.copy_(_columns(kept.cpu(), compaction, before))
    elif kept is not None and max(1, min(before.tail)) < kept < before.width:
        _columns(torch.arange(before.width - kept, before.width), compaction, before)


def _columns(places: Tensor, compaction: Compaction, before: Sequence) -> Tensor:
    """The columns of the tokens at `places`, ``[k]`` for all rows or ``[B, k]``, in the same shape."""
    (rows, count), tokens = compaction.source.shape, before.width
    if places.dtype == torch.bool or not places.ndim or places.shape[:-1] not in ((), (rows,)):
        raise RuntimeError(
            "pact_ext: logits_to_keep must be a number, or hold indices for all rows or for each, got "
            f"{list(places.shape)} of {places.dtype}"
        )
    if not bool(((places >= -tokens) & (places < tokens)).all()):
        raise RuntimeError(f"pact_ext: logits_to_keep must be in {-tokens} to {tokens - 1}, got {places.tolist()}")
    source = compaction.source.cpu()
    filled = (compaction.sequence.sizes > 0).cpu()
    column_of = torch.full((rows, tokens + 1), -1)
    column_of.scatter_(1, torch.where(filled, source, tokens), torch.arange(count).expand(rows, -1))
    column_of = column_of[:, :tokens]
    column_of[(before.sizes == 0).cpu()] = PADDING
    found = column_of.gather(1, (places % tokens).expand(rows, -1))
    if (found == -1).any():
        row, which = (found == -1).nonzero()[0].tolist()
        place = int((places % tokens).expand(rows, -1)[row, which])
        raise RuntimeError(
            f"pact_ext: logits_to_keep asks for the token at {place}, which is pruned or merged in row {row}; "
            "handle.columns tells whose the logits are that remain"
        )
    if places.ndim == 2:
        return found.clamp(min=0)
    columns = found.amax(0)
    if ((found != columns) & (found != PADDING)).any():
        raise RuntimeError(
            "pact_ext: logits_to_keep asks for tokens that the reduction left in different columns of the rows; keep "
            "all logits, and handle.columns tells whose they are"
        )
    return columns.clamp(min=0)
