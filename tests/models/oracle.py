"""What a reduced model must compute, from the stock model at full length: it only masks.

No token ever leaves the sequence and there is no cache: each step is a forward over everything so far. At the input of
the reduced layer, the merged states are written at their centres' places; from there on an additive mask hides the
keys of the tokens that are gone, and adds the log of their sizes to those of the merged ones.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from models import pictures, tiny
from pact_ext import PactConfig, reference


@dataclass(frozen=True)
class Row:
    """What became of one row's visual tokens. Positions count from the start of the padded row, ascending.

    Attributes:
        visual: ``[n]`` positions of the visual tokens.
        centers: ``[c]`` positions of those that stay.
        sizes: ``[c]`` how many tokens each stands for.
        labels: ``[n]`` the place in `centers` each visual token went to; -1 when it was discarded.
        removed: positions whose keys are hidden.
    """

    visual: Tensor
    centers: Tensor
    sizes: Tensor
    labels: Tensor
    removed: Tensor


# --- Keys and queries ---------------------------------------------------------------------------------------


def keys_and_queries(layer, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and queries before rotary embedding, and keys after it, all ``[B, N, heads, dh]``, with the layer's own
    modules and its module's own rotary function."""
    attention = layer.self_attn
    x = layer.input_layernorm(hidden)
    keys = attention.k_proj(x).unflatten(-1, (-1, attention.head_dim))
    queries = attention.q_proj(x).unflatten(-1, (-1, attention.head_dim))
    if hasattr(attention, "q_norm"):
        keys, queries = attention.k_norm(keys), attention.q_norm(queries)

    code = sys.modules[type(attention).__module__]
    if hasattr(code, "apply_multimodal_rotary_pos_emb"):  # Qwen2-VL, Qwen2.5-VL and GLM in transformers 4
        sections = attention.rope_scaling["mrope_section"]
        _, rotated = code.apply_multimodal_rotary_pos_emb(queries, keys, cos, sin, sections, unsqueeze_dim=2)
    else:
        _, rotated = code.apply_rotary_pos_emb(queries, keys, cos, sin, unsqueeze_dim=2)
    return keys, queries, rotated


# --- The reduction ------------------------------------------------------------------------------------------


def _reduce(hidden: Tensor, keys: Tensor, queries: Tensor, rotated: Tensor, config: PactConfig):
    """Sizes, centres and labels of one group of tokens, by the reference in float64."""
    hidden, keys, queries, rotated = hidden.double(), keys.double(), queries.double(), rotated.double()
    if config.cluster:
        _, sizes, centers, labels = reference.reduce(
            hidden,
            keys,
            queries,
            rotated,
            prune_ratio=config.prune_ratio if config.prune else 0.0,
            dc=config.dc,
            dn=config.dn,
            alpha=config.alpha if config.recover else 0.0,
            scale=config.scale,
            gaussian=config.gaussian,
        )
        return sizes, centers, labels
    centers, dropped = reference.split(reference.euti_scores(hidden, keys, queries, config.scale), config.prune_ratio)
    labels = torch.zeros(len(hidden), dtype=torch.int64)
    labels[centers], labels[dropped] = torch.arange(len(centers)), -1
    return torch.ones_like(centers), centers, labels


def _decide(layer, hidden: Tensor, cos: Tensor, sin: Tensor, visual: Tensor, config, apart) -> list[Row]:
    keys, queries, rotated = keys_and_queries(layer, hidden, cos, sin)
    rows = []
    for b in range(len(hidden)):
        positions = visual[b].nonzero().flatten()
        found = {"centers": [], "sizes": [], "labels": []}
        count = 0
        for group in positions.split([len(positions)] if apart is None else apart[b]):
            if not len(group):
                continue
            sizes, centers, labels = _reduce(*(x[b, group] for x in (hidden, keys, queries, rotated)), config)
            found["centers"].append(group[centers])
            found["sizes"].append(sizes)
            found["labels"].append(torch.where(labels < 0, -1, labels + count))
            count += len(centers)
        none = torch.zeros(0, dtype=torch.int64)
        found = {name: torch.cat([none, *parts]) for name, parts in found.items()}
        removed = positions[~torch.isin(positions, found["centers"])]
        rows.append(Row(positions, removed=removed, **found))
    return rows


# --- The model that only masks ------------------------------------------------------------------------------


class _Masking:
    """Pre-hooks on the decoder layers from `first` on, for one forward after another of a growing sequence."""

    def __init__(self, model, first: int, config, visual: Tensor, options: dict):
        self.decoder = tiny.decoder(model)
        self.three_axes = model.config.model_type in pictures.GRIDS
        self.first, self.config, self.visual, self.options = first, config, visual, options
        self.rows: list[Row] | None = None  # decided in the first forward

    @contextlib.contextmanager
    def hooks(self, attention_mask: Tensor):
        self.attention_mask = attention_mask
        layers = list(self.decoder.layers)[self.first :]
        handles = [layer.register_forward_pre_hook(self.before, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def before(self, layer, args, kwargs):
        hidden, *rest = args
        if layer is self.decoder.layers[self.first]:
            if self.rows is None:
                self.rows = _decide(
                    layer, hidden, *kwargs["position_embeddings"], self.visual, self.config, self.options["apart"]
                )
            hidden = self.merged(hidden)
            self.mask = self.bias(hidden)
            self.embeddings = kwargs["position_embeddings"]
            if self.options["renumber"]:
                place = (self.present().cumsum(-1) - 1).clamp(min=0)
                place = place.expand(3, -1, -1) if self.three_axes else place
                self.embeddings = self.decoder.rotary_emb(hidden, place)
        kwargs = {**kwargs, "attention_mask": self.mask, "position_embeddings": self.embeddings}
        return (hidden, *rest), kwargs

    def merged(self, hidden: Tensor) -> Tensor:
        """The means of the clusters at their centres' places."""
        hidden = hidden.clone()
        if self.config.cluster and self.config.merge:
            for b, row in enumerate(self.rows):
                if len(row.visual):
                    mean, _ = reference.segment_mean(hidden[b, row.visual].double(), row.labels, len(row.centers))
                    hidden[b, row.centers] = mean.to(hidden.dtype)
        return hidden

    def present(self) -> Tensor:
        """``[B, N]``, whether a position's key is seen by those after it."""
        present = self.attention_mask.bool().clone()
        for b, row in enumerate(self.rows):
            present[b, row.removed[self.options["extra"] :]] = False
        return present

    def bias(self, hidden: Tensor) -> Tensor:
        """``[B, 1, N, N]``: what is added to the logits of attention."""
        present = self.present()
        log_size = torch.zeros(present.shape, dtype=torch.float64)
        if self.options["log_sizes"]:
            for b, row in enumerate(self.rows):
                log_size[b, row.centers] = row.sizes.double().log()
        n = present.shape[1]
        seen = present[:, None, :] & torch.ones(n, n, dtype=torch.bool).tril()
        # Padding and removed tokens see at least themselves. Nobody reads what comes of it, and nothing is NaN.
        seen |= torch.eye(n, dtype=torch.bool)
        return torch.where(seen, log_size[:, None, :], -torch.inf)[:, None].to(hidden.dtype)


@contextlib.contextmanager
def _own_positions(model):
    """Qwen models keep an offset of the positions from one call to the next: leave theirs as it was."""
    core = model.model
    kept = getattr(core, "rope_deltas", None)
    if hasattr(core, "rope_deltas"):
        core.rope_deltas = None
    try:
        yield
    finally:
        if hasattr(core, "rope_deltas"):
            core.rope_deltas = kept


@torch.no_grad()
def masked_logits(
    model,
    inputs: dict[str, Tensor],
    layer: int,
    config: PactConfig,
    steps: int,
    *,
    log_sizes: bool = True,
    renumber: bool = False,
    extra: int = 0,
    apart: list[list[int]] | None = None,
    forced: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Row]]:
    """Greedy decoding after a reduction of the prompt's visual tokens at the input of decoder layer `layer`
    (`config.layer` is not looked at). The model must be a stock one: `pact_ext` not applied.

    Args:
        apart: how many tokens each image or video of each row has, which are then reduced by themselves.
        forced: ``[B, steps]`` tokens to go on with in place of the most likely ones.
        log_sizes: False adds no log size,
        renumber: True counts positions from `layer` on anew without the removed tokens, the axes of multimodal RoPE
            alike,
        extra: that many removed tokens stay, as they are: three mistakes that a comparison must notice.

    Returns:
        logits ``[B, steps, V]``, tokens ``[B, steps]`` and what became of each row's visual tokens.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    visual = torch.isin(ids, torch.tensor([tiny.IMAGE, tiny.VIDEO])) & mask.bool()
    options = {"log_sizes": log_sizes, "renumber": renumber, "extra": extra, "apart": apart}
    masking = _Masking(model, layer, config, visual, options)
    logits, tokens = [], []
    for step in range(steps):
        whole = {**inputs, "input_ids": ids, "attention_mask": mask}
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"]
            whole["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, ids.shape[1] - types.shape[1]))
        if not tiny.has_grids(inputs):  # what `generate` does; by itself a forward counts the padding too
            whole["position_ids"] = tiny.positions(model, whole)
        with masking.hooks(mask), _own_positions(model):
            logits.append(model(**whole, use_cache=False).logits[:, -1])
        tokens.append(logits[-1].argmax(-1) if forced is None else forced[:, step])
        ids = torch.cat([ids, tokens[-1][:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(logits, dim=1), torch.stack(tokens, dim=1), masking.rows
