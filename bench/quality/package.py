"""The trained model as a folder that `from_pretrained` loads: float16 weights, tokenizer, processor, chat template."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .scenes import PATCH, SIDE
from .words import ID, SPECIAL

try:  # from transformers 5 on, so named, and without a warning that torchvision is missing
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

TEMPLATE = (
    "<bos>{% for message in messages %}{{ ' ' + message['role'] + ' : ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ ' <eos>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' assistant :' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token; words have spaces between them."""
    words = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        **names,
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def processor() -> transformers.LlavaProcessor:
    size = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return transformers.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def save(model: transformers.LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes everything that `AutoModelForImageTextToText` and `AutoProcessor` need."""
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=ID["<bos>"], eos_token_id=ID["<eos>"], pad_token_id=ID["<pad>"], do_sample=False, max_new_tokens=6
    )
    model.to(torch.float16).save_pretrained(folder)
    processor().save_pretrained(folder)
