"""vLLM's Qwen models with fewer tokens. Imported by vLLM alone, by the names in `plugin.SERVED`.

Every token that stays keeps its position; sizes of merged tokens cannot reach attention.
"""

from vllm.model_executor.models import qwen2_5_vl, qwen2_vl, qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.platforms import current_platform
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from .rope import ReducedGridProcessor, ReducedRopeModel


class RopeModel(ReducedRopeModel):
    """The runner has a request's positions on the host, and rows on the device: this waits, and says so."""

    def recompute_mrope_positions(self, *args, **kwargs):
        with gpu_sync_allowed():
            return super().recompute_mrope_positions(*args, **kwargs)


class Qwen2VLProcessor(ReducedGridProcessor, qwen2_vl.Qwen2VLMultiModalProcessor):
    embedding_items = (EmbeddingItems, DictEmbeddingItems)


class Qwen25VLProcessor(ReducedGridProcessor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    embedding_items = (EmbeddingItems, DictEmbeddingItems)


class Qwen3VLProcessor(ReducedGridProcessor, qwen3_vl.Qwen3VLMultiModalProcessor):
    embedding_items = (EmbeddingItems, DictEmbeddingItems)
    frames_apart = True


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=qwen2_vl.Qwen2VLProcessingInfo, dummy_inputs=qwen2_vl.Qwen2VLDummyInputsBuilder
)
class ReducedQwen2VL(RopeModel, qwen2_vl.Qwen2VLForConditionalGeneration):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25VLProcessor, info=qwen2_5_vl.Qwen2_5_VLProcessingInfo, dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder
)
class ReducedQwen25VL(RopeModel, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=qwen3_vl.Qwen3VLProcessingInfo, dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder
)
class ReducedQwen3VL(RopeModel, qwen3_vl.Qwen3VLForConditionalGeneration):
    frames_apart = True


def _ask_on_a_cpu() -> None:
    """vLLM's runner for GPUs asks a model whether it brings positions once it is loaded; that for CPUs forgets to."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    gather = CPUModelRunner._gather_mm_embeddings

    def asked(self, *args, **kwargs):
        self.is_multimodal_pruning_enabled = self.model_config.multimodal_config.is_multimodal_pruning_enabled()
        return gather(self, *args, **kwargs)

    CPUModelRunner._gather_mm_embeddings = asked


if current_platform.is_cpu():
    _ask_on_a_cpu()
