"""What a model reduced by any method must compute, from the stock model at full length: it only masks.

A `Recorder` notes what a method selected at each of its sites. The replay runs the stock model over the whole sequence,
without a cache, and at each site hides the keys of the tokens that were not kept, writes new states to the places of
those that were, and adds the log of their sizes. No token ever leaves the sequence.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from models import tiny
from models.oracle import _own_positions
from pact_ext.methods import Method, Selection, View


class Recorder(Method):
    """A method, and all it has selected.

    Attributes:
        found: (site, view, selection), in the order of the calls.
    """

    def __init__(self, method: Method) -> None:
        self.method, self.found = method, []
        self.name = getattr(method, "name", "")
        self.needs = method.needs | {"row"}
        self.encoder_layers = method.encoder_layers

    def sites(self, layers: int) -> tuple[int, ...]:
        return self.method.sites(layers)

    def looks(self, layers: int) -> tuple[int, ...]:
        return self.method.looks(layers)

    def select(self, view: View) -> Selection:
        self.found.append((view.site, view, self.method.select(view)))
        return self.found[-1][-1]


@dataclass(frozen=True)
class Pairs(Method):
    """Merges neighbours at some sites, each time by the sizes that they have: what a later site must not forget."""

    layers: tuple[int, ...] = (3, 5)

    def sites(self, layers: int) -> tuple[int, ...]:
        return self.layers

    def select(self, view: View) -> Selection:
        n = len(view)
        kept, labels = torch.arange(0, n, 2), torch.arange(n) // 2
        weights = view.sizes.to(view.hidden.dtype)
        sums = torch.zeros(len(kept), view.hidden.shape[1], dtype=view.hidden.dtype)
        sums.index_add_(0, labels, view.hidden * weights[:, None])
        sizes = torch.zeros_like(kept).index_add_(0, labels, view.sizes)
        return Selection(kept, labels, sums / sizes[:, None], sizes)


def groups_of(inputs: dict[str, Tensor], apart: bool = False) -> list[list[Tensor]]:
    """The places of each row's visual tokens: as one group, or each picture's by itself."""
    visual = torch.isin(inputs["input_ids"], torch.tensor([tiny.IMAGE, tiny.VIDEO])) & inputs["attention_mask"].bool()
    rows = [row.nonzero().flatten() for row in visual]
    if not apart:
        return [[row] if len(row) else [] for row in rows]
    counts = tiny.image_tokens(inputs["input_ids"])
    return [list(row.split(count)) if len(row) else [] for row, count in zip(rows, counts, strict=True)]


class _Replay:
    """Pre-hooks on the decoder's layers. `groups` and `found` are those of one call after another."""

    def __init__(self, model, sites: tuple[int, ...], calls: list[tuple[list[list[Tensor]], list]]) -> None:
        self.layers, self.sites, self.calls = list(tiny.decoder(model).layers), sites, calls

    @contextlib.contextmanager
    def hooks(self, attention_mask: Tensor):
        self.present, self.sizes = attention_mask.bool().clone(), torch.ones(attention_mask.shape, dtype=torch.float64)
        self.alive = [[list(row) for row in groups] for groups, _ in self.calls]
        handles = [
            layer.register_forward_pre_hook(self.before, with_kwargs=True) for layer in self.layers[self.sites[0] :]
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def before(self, layer, args, kwargs):
        hidden, *rest = args
        number = next(i for i, other in enumerate(self.layers) if other is layer)
        if number in self.sites:
            hidden = self.select(self.sites.index(number), hidden.clone())
        return (hidden, *rest), {**kwargs, "attention_mask": self.bias(hidden)}

    def select(self, site: int, hidden: Tensor) -> Tensor:
        for alive, (_, found) in zip(self.alive, self.calls, strict=True):
            chosen = iter(selection for where, _, selection in found if where == site)
            for row, groups in enumerate(alive):
                for group, places in enumerate(groups):
                    one = next(chosen)
                    self.present[row, places] = False
                    alive[row][group] = kept = places[one.kept]
                    self.present[row, kept] = True
                    if one.hidden is not None:
                        hidden[row, kept] = one.hidden
                    if one.sizes is not None:
                        self.sizes[row, kept] = one.sizes.double()
        return hidden

    def bias(self, hidden: Tensor) -> Tensor:
        n = hidden.shape[1]
        seen = self.present[:, None, :] & torch.ones(n, n, dtype=torch.bool).tril() | torch.eye(n, dtype=torch.bool)
        return torch.where(seen, self.sizes.log()[:, None, :], -torch.inf)[:, None].to(hidden.dtype)


@torch.no_grad()
def replayed_logits(model, inputs, sites, calls, forced: Tensor) -> Tensor:
    """Logits ``[B, steps, V]`` of the stock model that only masks, going on with the tokens ``[B, steps]``.

    Args:
        inputs: the whole conversation so far.
        calls: for each call that brought images the groups of its visual tokens, and what a `Recorder` found.
    """
    replay, ids, mask, logits = _Replay(model, sites, calls), inputs["input_ids"], inputs["attention_mask"], []
    for step in range(forced.shape[1]):
        whole = {**inputs, "input_ids": ids, "attention_mask": mask}
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"]
            whole["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, ids.shape[1] - types.shape[1]))
        if not tiny.has_grids(inputs):
            whole["position_ids"] = tiny.positions(model, whole)
        with replay.hooks(mask), _own_positions(model):
            logits.append(model(**whole, use_cache=False).logits[:, -1])
        ids = torch.cat([ids, forced[:, step, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(logits, dim=1)
