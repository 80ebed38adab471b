"""The columns of one call on their way through the sites: which token each came from, and which are visual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .prompt import Prompt


@dataclass
class Sequence:
    """The columns ``[B, q]`` of a call before a site.

    Everything is on the device, where copies from the host need not be waited for.

    Attributes:
        visual: for each row the columns of its visual tokens, ascending, as groups that are reduced together.
        counts: how many tokens each group had in the call.
        lead: of each row, how many columns of padding it begins with.
        tail: of each row, how many columns follow its last visual token; all, without one.
        source: ``[B, q]`` int64, the place that each column's token had in the call.
        sizes: ``[B, q]`` int64, how many tokens each stands for; 0 for padding.
        holes: whether any column but those is padding.
        plain: every column is a token of its own.
        prompt: what the call brought.
    """

    visual: list[list[Tensor]]
    counts: list[list[int]]
    lead: list[int]
    tail: list[int]
    source: Tensor
    sizes: Tensor
    holes: bool
    plain: bool
    prompt: Prompt

    @classmethod
    def of(cls, prompt: Prompt, width: int, device: torch.device) -> Sequence:
        """Before the first site."""
        rows, present = len(prompt.visual), prompt.present
        lead = rows * [0] if present is None else (present.cumsum(1) == 0).sum(1).tolist()
        sizes = torch.ones(rows, width, dtype=torch.int64) if present is None else present.long()
        return cls(
            visual=[[places.to(device, non_blocking=True) for places in groups] for groups in prompt.visual],
            counts=[list(map(len, groups)) for groups in prompt.visual],
            lead=lead,
            tail=[width - 1 - int(groups[-1][-1]) if groups else width for groups in prompt.visual],
            source=torch.arange(width, device=device).expand(rows, -1),
            sizes=sizes.to(device, non_blocking=True),
            holes=present is not None and int(present.sum()) + sum(lead) < present.numel(),
            plain=present is None or bool(present.all()),
            prompt=prompt,
        )

    @property
    def width(self) -> int:
        return self.source.shape[1]

    def log_sizes(self, dtype: torch.dtype) -> Tensor:
        """``[B, q]``; -inf for padding."""
        return self.sizes.to(dtype).log()

    def text(self, row: int) -> Tensor:
        """The columns of a row's tokens that are not visual."""
        text = torch.ones(self.width, dtype=torch.bool, device=self.source.device)
        text[: self.lead[row]] = False
        for places in self.visual[row]:
            text.index_fill_(0, places.to(text.device), False)
        count = self.width - self.lead[row] - sum(map(len, self.visual[row]))
        columns = (~text).to(torch.int8).argsort(stable=True)[:count]
        return columns[self.sizes[row, columns] > 0] if self.holes else columns
