"""Models whose heads are split between ranks, as tensor parallelism does it: transformers' `tp_plan`.

Each rank's projections give its own heads, and its cache holds those. A method looks at all of them, so they are
gathered, in the ranks' order; every rank then decides the same from the same bits.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed import is_available


def gathered(heads: Tensor, projection: nn.Module) -> Tensor:
    """All heads ``[n, H, dh]``, of those ``[n, h, dh]`` that a projection made on this rank; the same where the model
    is not split."""
    mesh_dim = _split(projection)
    if mesh_dim is None or heads.shape[1] * heads.shape[2] == projection.weight.shape[0]:
        return heads
    from torch.distributed.tensor import DTensor, Replicate, Shard

    weight = projection.weight
    placements = [Shard(1) if dim == mesh_dim else Replicate() for dim in range(weight.device_mesh.ndim)]
    return DTensor.from_local(heads.contiguous(), weight.device_mesh, placements, run_check=False).full_tensor()


def averaged(values: Tensor, projection: nn.Module) -> Tensor:
    """The mean of what each rank has, where a projection is split between them."""
    mesh_dim = _split(projection)
    if mesh_dim is None:
        return values
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = projection.weight.device_mesh
    placements = [Partial("avg") if dim == mesh_dim else Replicate() for dim in range(mesh.ndim)]
    return DTensor.from_local(values, mesh, placements, run_check=False).full_tensor()


def why_not(core: nn.Module, decoder: nn.Module, reads_tower: bool) -> str | None:
    """What about the split of a model is beyond it; None where it is whole, or split by heads."""
    if not is_available() or not any(map(_is_split, core.modules())):
        return None
    for layer in decoder.layers:
        if _is_split(getattr(layer, "input_layernorm", layer)):
            return "the inputs of its layers are split"
        attention = getattr(layer, "self_attn", layer)
        for name in ("q_proj", "k_proj"):
            projection = getattr(attention, name, None)
            if projection is None or (_is_split(projection) and _split(projection) is None):
                return f"{name} of its layers is split other than by heads"
            if _is_split(projection) and projection.weight.to_local().shape[0] % attention.head_dim:
                return f"{name} of its layers is split within a head"
    if reads_tower and any(_is_split(module) for module in _others(core, decoder)):
        return "its vision tower is split, whose attention the method looks at"
    return None


def _others(core: nn.Module, decoder: nn.Module):
    inside = set(decoder.modules())
    return (module for module in core.modules() if module not in inside)


def _is_split(module: nn.Module) -> bool:
    """Whether a module's own parameters are spread over ranks, or are to be."""
    own = module.parameters(recurse=False)
    return hasattr(module, "_hf_tp_plan") or any(hasattr(parameter, "device_mesh") for parameter in own)


def _split(projection: nn.Module) -> int | None:
    """The dimension of the mesh along which a projection's outputs are split; None where they are not."""
    weight = getattr(projection, "weight", None)
    if not hasattr(weight, "device_mesh"):
        return None
    along = [dim for dim, placement in enumerate(weight.placements) if placement.is_shard()]
    return along[0] if len(along) == 1 and weight.placements[along[0]].is_shard(0) else None
