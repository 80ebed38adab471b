"""pact_ext: kernels for visual-token reduction (PACT), as torch.ops.pact.* and a thin Python layer."""

from . import _library
from ._version import __version__
from .config import PRESETS, PactConfig
from .models import apply

__all__ = ["PRESETS", "PactConfig", "Reduction", "__version__", "apply", "ops", "plot_tokens", "reduce"]

try:
    from . import ops
    from .drawing.plot import plot_tokens
    from .reduction import Reduction, reduce
except ImportError as error:  # told on first use, and by the command line
    __getattr__ = _library.stand_in(error, __all__)
