"""vLLM's LLaVA models with fewer tokens. Imported by vLLM alone, by the names in `plugin.SERVED`.

All have positions of one dimension, which vLLM counts through: a token behind a picture is as far from its text as
there are tokens left. Sizes of merged tokens cannot reach attention.
"""

from vllm.model_executor.models import llava, llava_next, llava_onevision
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import EmbeddingItems

from .interface import ReducedModel, ReducedProcessor


def _llava_info(context) -> llava.LlavaProcessingInfo:
    """Of LLaVA-1.5, and not of Pixtral, which has the same architecture's name."""
    tower = context.get_hf_config().vision_config.model_type
    if tower == "pixtral":
        raise ValueError(
            "PACT_VLLM: LlavaForConditionalGeneration with a Pixtral tower is not served with fewer tokens"
        )
    return llava.LlavaProcessingInfo(context)


class LlavaProcessor(ReducedProcessor, llava.LlavaMultiModalProcessor):
    layout = "square"
    embedding_items = EmbeddingItems


class LlavaNextProcessor(ReducedProcessor, llava_next.LlavaNextMultiModalProcessor):
    embedding_items = EmbeddingItems


class LlavaOnevisionProcessor(ReducedProcessor, llava_onevision.LlavaOnevisionMultiModalProcessor):
    embedding_items = EmbeddingItems


@MULTIMODAL_REGISTRY.register_processor(LlavaProcessor, info=_llava_info, dummy_inputs=llava.LlavaDummyInputsBuilder)
class ReducedLlava(ReducedModel, llava.LlavaForConditionalGeneration):
    layout = "square"


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextProcessor, info=llava_next.LlavaNextProcessingInfo, dummy_inputs=llava.LlavaDummyInputsBuilder
)
class ReducedLlavaNext(ReducedModel, llava_next.LlavaNextForConditionalGeneration):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    LlavaOnevisionProcessor,
    info=llava_onevision.LlavaOnevisionProcessingInfo,
    dummy_inputs=llava_onevision.LlavaOnevisionDummyInputsBuilder,
)
class ReducedLlavaOnevision(ReducedModel, llava_onevision.LlavaOnevisionForConditionalGeneration):
    pass
