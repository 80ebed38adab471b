"""Every method at about the same budget: for `bench.model --methods`, and for the small model's answers.

Methods that act once keep the share, each at the layer of its paper or where PACT acts; those that act at several
layers come down to it; those whose count the data decides are set to come near. VTW keeps nothing, whatever the budget.
LLaMA-VID and DyRate have no weights here, and are left out.
"""

from __future__ import annotations

from .model_case import LAYER, Case

KEEP = 0.25


def methods_at(keep: float, layer: int = LAYER, later: tuple[int, int, int] = (2, 4, 6)) -> dict[str, str]:
    """By what a table calls them, what `pact_ext.apply` is given.

    Args:
        keep: share of the visual tokens, below 1.
        layer: where PACT acts, and the clusterings that it is compared with.
        later: where SparseVLM does.
    """
    share = f"keep={keep:.6f}"
    core = max(1, round(72 * keep / KEEP))
    stages = ",".join(map(str, later))
    steps = f"{keep ** (1 / 3):.6f},{keep ** (2 / 3):.6f},{keep:.6f}"
    return {
        "random": f"random:{share}",
        "downsample": f"downsample:{share}",
        "downsample, picks": f"downsample:{share};pool=False",
        "pact": f"pact:{share};layer={layer}",
        "pact, last row's scores": f"pact:{share};layer={layer};scores=received-last",
        "fastv": f"fastv:{share}",
        "fastv, all rows": f"fastv:{share};rows=all",
        "vtw": "vtw",
        "tome": f"tome:{share};like={layer}",
        "prumerge": f"prumerge:{share}",
        "prumerge+": f"prumerge+:{share}",
        "hired": f"hired:{share}",
        "visionzip": f"visionzip:{share}",
        "entropyprune": f"entropyprune:clusters={core + core // 3 + 1};core={core};per_cluster=10",
        "trim": f"trim:{share}",
        "sparsevlm": f"sparsevlm:layers=({stages});keep=({steps})",
        "pyramiddrop": f"pyramiddrop:keep={keep ** (1 / 3):.6f}",
        "kmeans": f"kmeans:{share};layer={layer}",
        "dpc": f"dpc:{share};layer={layer}",
        "dbscan": f"dbscan:eps=0.1;layer={layer}",
        "agglomerative": f"agglomerative:{share};linkage=average;layer={layer}",
        "divprune": f"divprune:{share}",
        "cdpruner": f"cdpruner:{share}",
        "dart": f"dart:{share}",
    }


METHOD_CASES = (Case("stock"), *(Case(name, method) for name, method in methods_at(KEEP).items()))
