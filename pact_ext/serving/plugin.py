"""vLLM's entry point, group `vllm.general_plugins`: run in every process of an engine before all else."""

from __future__ import annotations

import os

from . import settings

VERSIONS = ("0.32",)
"""The versions of vLLM whose interface is known: their first two numbers."""
SERVED = {
    "LlavaForConditionalGeneration": "pact_ext.serving.llava:ReducedLlava",
    "LlavaNextForConditionalGeneration": "pact_ext.serving.llava:ReducedLlavaNext",
    "LlavaOnevisionForConditionalGeneration": "pact_ext.serving.llava:ReducedLlavaOnevision",
    "Qwen2VLForConditionalGeneration": "pact_ext.serving.qwen:ReducedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "pact_ext.serving.qwen:ReducedQwen25VL",
    "Qwen3VLForConditionalGeneration": "pact_ext.serving.qwen:ReducedQwen3VL",
}
"""The class of every architecture."""


def register() -> None:
    """Puts the reduced models in the place of vLLM's, when PACT_VLLM asks for it; else vLLM stays as it is.

    Every other multimodal architecture becomes an error that names it: to serve it whole would be to ignore the budget.

    Raises:
        ValueError: what `settings.read` raises.
        RuntimeError: a version of vLLM that is not known.
    """
    method = settings.read(os.environ)
    if method is None:
        return
    import vllm

    check_version(vllm.__version__)
    from vllm.logger import init_logger
    from vllm.model_executor.models import registry

    for architecture in (*registry._MULTIMODAL_MODELS, *registry._TRANSFORMERS_BACKEND_MODELS):
        if "MultiModal" in architecture or architecture in registry._MULTIMODAL_MODELS:
            registry.ModelRegistry.register_model(architecture, f"pact_ext.serving.refused:{architecture}")
    for architecture, model in SERVED.items():
        registry.ModelRegistry.register_model(architecture, model)
    init_logger("vllm.plugins.pact_ext").info(
        "%s: pictures and videos keep the tokens of %s", settings.VARIABLE, method
    )


def check_version(version: str) -> None:
    """Raises RuntimeError, naming it, for a version whose interface is not known."""
    if ".".join(version.split(".")[:2]) not in VERSIONS:
        raise RuntimeError(
            f"{settings.VARIABLE}: pact_ext knows vLLM {', '.join(f'{known}.*' for known in VERSIONS)}, this is "
            f"{version}. Install one of those, or unset {settings.VARIABLE} to serve without reduction"
        )
