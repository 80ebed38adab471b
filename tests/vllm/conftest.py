"""These run in an environment that has vLLM (`make vllm`), and in no other."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tiny checkpoints of tests/models

spec = importlib.util.find_spec("vllm")
if spec is None or spec.origin is None:  # this folder itself, which has no __init__.py
    collect_ignore_glob = ["test_*.py"]
