"""pact_ext: kernels for visual-token reduction (PACT), as torch.ops.pact.* and a thin Python layer."""

from . import _library
from ._version import __version__
from .config import PRESETS, PactConfig
from .models import apply, handle_of, remove

__all__ = [
    "PRESETS",
    "PactConfig",
    "Reduction",
    "__version__",
    "apply",
    "handle_of",
    "methods",
    "ops",
    "plot_tokens",
    "reduce",
    "reduce_packed",
    "remove",
]

try:
    from . import methods, ops
    from .drawing.plot import plot_tokens
    from .reduction import Reduction, reduce, reduce_packed
except ImportError:
    if not _library.in_command_line():  # which comes up all the same, has its help, and says what is wrong in one line
        raise
