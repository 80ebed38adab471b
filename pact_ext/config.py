"""PactConfig: the hyper-parameters of a reduction, validated, with the published presets by name."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PactConfig:
    """Hyper-parameters of one PACT reduction.

    Attributes:
        prune_ratio: share of the tokens that the importance split drops, in [0, 1] (the paper's lambda).
        dc: cutoff distance of the clustering, cosine distance in [0, 2]; centres end up more than dc apart.
        dn: normalisation of the local density, > 0.
        alpha: a dropped token is recovered when it is nearer than alpha * dc to a centre, >= 0.
        gaussian: density exp(-(d/dn)^2) (the published code) instead of exp(-d/dn) (the paper's eq. 6).
        scale: factor of the EUTI logits; None is 1/sqrt(dh), as in the published code.
        layer: index of the decoder layer whose input is reduced.
        prune: False skips the importance split: every token is clustered (clustering only).
        cluster: False skips clustering: the kept tokens pass unchanged (pruning only).
        recover: False discards every dropped token.
        merge: False keeps each centre's own hidden state instead of the mean of its cluster.
    """

    prune_ratio: float = 0.45
    dc: float = 0.21
    dn: float = 2.0
    alpha: float = 1.5
    gaussian: bool = True
    scale: float | None = None
    layer: int = 4
    prune: bool = True
    cluster: bool = True
    recover: bool = True
    merge: bool = True

    def __post_init__(self) -> None:
        self._check("prune_ratio", "in [0, 1]", lambda x: 0 <= x <= 1)
        self._check("dc", ">= 0 and finite", lambda x: 0 <= x < math.inf)
        self._check("dn", "> 0 and finite", lambda x: 0 < x < math.inf)
        self._check("alpha", ">= 0 and finite", lambda x: 0 <= x < math.inf)
        if self.scale is not None:
            self._check("scale", "finite, or None", math.isfinite)
        if not isinstance(self.layer, int) or isinstance(self.layer, bool) or self.layer < 0:
            raise ValueError(f"PactConfig: layer must be an integer >= 0, got {self.layer!r}")
        for name in ("gaussian", "prune", "cluster", "recover", "merge"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"PactConfig: {name} must be True or False, got {getattr(self, name)!r}")
        if not (self.prune or self.cluster):
            raise ValueError("PactConfig: prune and cluster are both False, which reduces nothing")

    def _check(self, name: str, wanted: str, ok) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not ok(value):
            raise ValueError(f"PactConfig: {name} must be a number {wanted}, got {value!r}")

    @classmethod
    def preset(cls, name: str, **changes) -> PactConfig:
        """The published hyper-parameters of a model by name (see `PRESETS`), with any field changed by keyword.

        >>> PactConfig.preset("qwen2-vl-7b", alpha=1.0).dc
        0.1
        """
        if name not in PRESETS:
            raise ValueError(f"PactConfig: no preset named {name!r}; there are {', '.join(sorted(PRESETS))}")
        return dataclasses.replace(PRESETS[name], **changes)

    @classmethod
    def coerce(cls, config: PactConfig | str) -> PactConfig:
        """A config as given, or the preset of that name."""
        if isinstance(config, cls):
            return config
        if isinstance(config, str):
            return cls.preset(config)
        raise TypeError(f"config must be a PactConfig or the name of a preset, got {type(config).__name__}")


PRESETS: dict[str, PactConfig] = {
    "llava-onevision-7b": PactConfig(prune_ratio=0.45, dc=0.21, dn=2.0, alpha=1.5, gaussian=True, layer=4),
    "qwen2-vl-7b": PactConfig(prune_ratio=0.20, dc=0.10, dn=2.0, alpha=1.5, gaussian=True, layer=4),
}
"""Published hyper-parameters, by model."""
