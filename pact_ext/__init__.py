"""pact_ext: kernels for visual-token reduction (PACT), as torch.ops.pact.* and a thin Python layer."""

from . import ops
from ._version import __version__
from .config import PRESETS, PactConfig
from .models import apply, handle_of, remove
from .plot import plot_tokens
from .reduction import Reduction, reduce

__all__ = [
    "PRESETS",
    "PactConfig",
    "Reduction",
    "__version__",
    "apply",
    "handle_of",
    "ops",
    "plot_tokens",
    "reduce",
    "remove",
]
