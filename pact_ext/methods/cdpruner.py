"""CDPruner: relevant tokens that differ from each other (Zhang et al., NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from .. import ops
from ..reference.pact import working
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class CDPruner(Method):
    """Greedy MAP of a determinantal point process over the tokens, whose kernel weighs cosines by relevance.

    Relevance r is the mean cosine with the text, over the tokens then (r - min + 1e-6) / (max - min). The public code
    takes it from CLIP's two towers, for LLaVA; here, for every model alike, it compares what the projector gives with
    the embeddings of all the row's text tokens.

    Attributes:
        keep: share of the tokens, or their number; the default is 64 of 576.
        negate: relevance falls with the cosine, as in the public code, whose authors found CLIP's to point that way;
            the paper's equation has it rise.
        theta: in [0, 1), weight of relevance against diversity: exp(theta / (2 (1 - theta)) * r) takes the place of r.
            None: r itself.
    """

    name = "cdpruner"
    source = "Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity, NeurIPS 2025"
    needs = frozenset({"text"})

    keep: float | int = 0.111
    negate: bool = False
    theta: float | None = None

    def __post_init__(self) -> None:
        self.check_keep()
        self.check("negate", "True or False", isinstance(self.negate, bool))
        ok = isinstance(self.theta, int | float) and not isinstance(self.theta, bool) and 0 <= self.theta < 1
        self.check("theta", "None or a number in [0, 1)", self.theta is None or ok)

    def sites(self, layers: int) -> tuple[int, ...]:
        return (0,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        relevance = self.relevance(view.hidden, view.text).float()
        return Selection(ops.dpp_select(view.hidden.float(), relevance, self.count(len(view))).sort().values)

    def relevance(self, hidden: Tensor, text: Tensor) -> Tensor:
        """Of each token, ``[n]``; 1 for all where it does not tell them apart."""
        if not len(text):
            raise ValueError("CDPruner: the row must have text tokens, got none")
        cosine = normalize(working(hidden), dim=1) @ normalize(working(text), dim=1).mean(dim=0)
        relevance = -cosine if self.negate else cosine
        low, spread = relevance.min(), relevance.max() - relevance.min()
        relevance = ((relevance - low + 1e-6) / spread).where(spread > 0, relevance.new_ones(()))
        return relevance if self.theta is None else (self.theta / (2 * (1 - self.theta)) * relevance).exp()
