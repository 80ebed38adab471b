"""Which layer to reduce at: how far apart the keys of the visual tokens are in each (section 3.4, fig. 4 of the paper).

In the first layers the keys are nearly alike, which leaves nothing to tell tokens apart by; every later layer saves
less. So the earliest layer whose keys are far enough apart is the one to take.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import ops
from ..config import PactConfig
from .families import core_of, family_of
from .masks import padding
from .prompt import read


@torch.no_grad()
def layer_distances(model: nn.Module, inputs: Mapping) -> Tensor:
    """The largest cosine distance between two visual tokens' keys, before rotary embedding, in every decoder layer.

    Runs one prefill of the model as it is. Tokens of different rows are not compared; of several rows, the largest
    counts.

    Args:
        model: a Hugging Face model of a family that `pact_ext.apply` knows, not reduced.
        inputs: the processor's output that the model is called with.

    Returns:
        ``[layers]`` float32 in [0, 2], on the CPU.

    Raises:
        ValueError: an unknown family, inputs without ids, or none of them a visual token.
        RuntimeError: the model is reduced.
    """
    core = core_of(model)
    family = family_of(core, "pact_ext.layer_distances")
    if inputs.get("input_ids") is None:
        raise ValueError(f"pact_ext.layer_distances: inputs must hold input_ids, got {', '.join(inputs)}")
    length = inputs["input_ids"].shape[1]
    present = padding(inputs.get("attention_mask"), 0, length)
    rows = [torch.cat(groups) if groups else None for groups in read(core, family, inputs, present, False).visual]
    if all(row is None for row in rows):
        raise ValueError("pact_ext.layer_distances: inputs must hold visual tokens, got none")
    found = []

    def measure(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] != length:
            raise RuntimeError("pact_ext.layer_distances: the model must not be reduced; remove() the handle first")
        largest = []
        for row, places in enumerate(rows):
            if places is not None:
                keys = family.keys(layer, hidden[row, places.to(hidden.device)])
                keys = keys.float() if keys.dtype == torch.float64 else keys
                largest.append(ops.max_distance(keys).float())
        found.append(torch.stack(largest).max())

    hooks = [layer.register_forward_pre_hook(measure, with_kwargs=True) for layer in family.decoder(core).layers]
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([distance.cpu() for distance in found])


def default_threshold(config: PactConfig) -> float:
    """The farthest that two tokens of one cluster can be from each other, ``2 dc (2 - dc)``.

    The paper says "large enough" and gives no number. In a layer that passes this one, there are tokens that no
    clustering with this dc could put together.
    """
    return 2 * config.dc * (2 - config.dc) if config.dc < 1 else 2.0


def recommend(distances: Tensor, threshold: float, first: int = 0) -> int | None:
    """The earliest layer, from `first` on, whose distance is above the threshold for the median image.

    Args:
        distances: ``[images, layers]``, a row of `layer_distances` for each image.
        first: the lowest layer that the family can be reduced at.

    Returns:
        The layer's index; None when there is none.
    """
    passing = (median(distances)[first:] > threshold).nonzero()
    return first + int(passing[0]) if len(passing) else None


def median(distances: Tensor) -> Tensor:
    """``[layers]``: of every layer the median over the images, between the middle two of an even number."""
    return distances.double().quantile(0.5, dim=0)
