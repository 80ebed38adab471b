"""python -m pact_ext.cli: the same as the pact-ext command."""

import sys

from . import main

sys.exit(main())
