"""Every method at about the same budget, for `bench.model --methods`: a quarter of the visual tokens.

Methods that act once keep a quarter, each at the layer of its paper; those that act at several layers come down to it;
those whose count the data decides are set to come near. LLaMA-VID and DyRate have no weights here, and are left out.
"""

from __future__ import annotations

from .model_case import Case

KEEP = 0.25

METHODS = (
    f"random:keep={KEEP}",
    f"downsample:keep={KEEP}",
    f"downsample:keep={KEEP};pool=False",
    f"pact:keep={KEEP}",
    f"pact:keep={KEEP};scores=received-last",
    f"fastv:keep={KEEP}",
    f"fastv:keep={KEEP};rows=all",
    "vtw",
    f"tome:keep={KEEP}",
    f"prumerge:keep={KEEP}",
    f"prumerge+:keep={KEEP}",
    f"hired:keep={KEEP}",
    f"visionzip:keep={KEEP}",
    "entropyprune:clusters=96;core=72;per_cluster=10",
    f"trim:keep={KEEP}",
    f"sparsevlm:layers=(2,4,6);keep=(0.5,0.35,{KEEP})",
    f"pyramiddrop:keep={KEEP ** (1 / 3):.3f}",
    f"kmeans:keep={KEEP}",
    f"dpc:keep={KEEP}",
    "dbscan:eps=0.1",
    f"agglomerative:keep={KEEP};linkage=average",
    f"divprune:keep={KEEP}",
    f"cdpruner:keep={KEEP}",
    f"dart:keep={KEEP}",
)

METHOD_CASES = (Case("stock"), *(Case(text, text) for text in METHODS))
