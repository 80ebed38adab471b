"""Small local checkpoints with their processors, as a hub would serve them. Nothing is downloaded.

    AutoModelForImageTextToText.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)

LLaVA-1.5 and LLaVA-NeXT only: the processors of the other families hold a video processor, which needs torchvision.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

try:  # from transformers 5 on, so named, and without a warning that torchvision is missing
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
    from transformers import LlavaNextImageProcessorPil as LlavaNextImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor, LlavaNextImageProcessor

SIDE, PATCH = 56, 7  # pixels: a picture is a tile of 8 x 8 tokens
LAYERS = 6
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def llava(folder: Path, *, dtype: torch.dtype = torch.float32, heads: int = 4) -> Path:
    """LLaVA-1.5: a picture is its centre square, 8 x 8 = 64 tokens."""
    config = transformers.LlavaConfig(**towers(heads), image_seq_length=(SIDE // PATCH) ** 2, **_ids())
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=_square())
    return _save_family(folder, config, transformers.LlavaForConditionalGeneration, "LlavaProcessor", pictures, dtype)


def llava_next(folder: Path, *, dtype: torch.dtype = torch.float32, heads: int = 4) -> Path:
    """LLaVA-NeXT: the whole picture in 8 x 8 tokens, then tiles of as many with a newline after each row."""
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = transformers.LlavaNextConfig(**towers(heads), image_grid_pinpoints=pinpoints, **_ids())
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=_square(), image_grid_pinpoints=pinpoints
    )
    return _save_family(
        folder, config, transformers.LlavaNextForConditionalGeneration, "LlavaNextProcessor", pictures, dtype
    )


CHECKPOINTS = {"llava": llava, "llava_next": llava_next}
"""Every checkpoint there is, by the `model_type` of its configuration."""


def _square() -> dict[str, int]:
    return {"height": SIDE, "width": SIDE}


def _ids() -> dict:
    return {"image_token_index": 256 + SPECIAL.index("<image>"), "tie_word_embeddings": False}


def towers(heads: int) -> dict:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = transformers.LlamaConfig(
        vocab_size=256 + len(SPECIAL),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        bos_token_id=256 + SPECIAL.index("<s>"),
        eos_token_id=256 + SPECIAL.index("</s>"),
        pad_token_id=256 + SPECIAL.index("<pad>"),
    )
    return {"vision_config": vision, "text_config": text}


def tokenizer(special: list[str] = SPECIAL, image: str = "<image>") -> PreTrainedTokenizerFast:
    """A token for every byte, so that any prompt comes out as it went in, and the special ones from 256 on."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    known.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known.decoder = decoders.ByteLevel()
    known.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    bos = known.token_to_id("<s>")
    known.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=known,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens={"image_token": image},
    )


def _randomise(model: torch.nn.Module) -> None:
    """Weights at which neighbouring patches, and so their tokens, differ. Seeded by name."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter.numel() / parameter.shape[0]
        if "position_embedding" in name:
            noise *= 0.1  # small: like patches should become like tokens
        elif parameter.ndim > 1 and not name.endswith("embed_tokens.weight"):
            noise *= 1.3 / fan_in**0.5
        elif parameter.ndim == 1 and name.endswith("weight"):  # of a norm
            noise = 1 + 0.1 * noise
        elif parameter.ndim == 1 and not name.endswith("newline"):
            noise *= 0.1
        parameter.copy_(noise)


@torch.no_grad()
def save(folder: Path, model: torch.nn.Module, processor, dtype: torch.dtype) -> Path:
    """A model, its weights drawn anew, and its processor."""
    _randomise(model)
    model.lm_head.weight[256:] = 0  # a special token is never the likeliest: generation goes on until it is stopped
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _save_family(folder: Path, config, model_class: type, processor_class: str, pictures, dtype: torch.dtype) -> Path:
    processor = getattr(transformers, processor_class)(
        image_processor=pictures,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # the vision tower's class token
        image_token="<image>",
        chat_template=TEMPLATE,
    )
    return save(folder, model_class(config).eval(), processor, dtype)
