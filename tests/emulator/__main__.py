"""Builds the development module and the emulated operators: `python -m emulator` in tests/."""

from . import build, operators

print(build.build())
print(operators.build())
