"""The trained model as a folder that `from_pretrained` loads: float16 weights, tokenizer, processor, chat template.

`python -m bench.quality.package .quality/both.pt pact_ext/small` makes what the package holds, pictures beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from . import checkpoint
from .curves import exam
from .model import build
from .questions import KINDS
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
    """Writes everything that `AutoModelForImageTextToText` and `AutoProcessor` need, of transformers 4 and 5."""
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=ID["<bos>"], eos_token_id=ID["<eos>"], pad_token_id=ID["<pad>"], do_sample=False, max_new_tokens=6
    )
    model.to(torch.float16).save_pretrained(folder)
    processor().save_pretrained(folder)
    # transformers 5 leaves a word out of the tower's names, and reads them with it too; 4 does not without.
    weights = load_file(folder / "model.safetensors")
    named = {
        re.sub(r"vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", key): weights[key] for key in weights
    }
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    # What transformers 5 writes of a tokenizer, 4 does not read: its class, and special tokens without their names.
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described |= {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"image_token": "<image>"}}
    described.pop("backend", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def save_examples(folder: Path, count: int = 6) -> None:
    """The first held-out scenes that can be asked at least eight of the nine kinds, a question of each."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, asked = exam(200)
    rows: list[list] = []
    for number, one in enumerate(scenes):
        own = [each.question for each in asked if each.scene == number]
        if len(own) < len(KINDS) - 1 or len(rows) == count:
            continue
        Image.fromarray(one.image).save(folder / f"{len(rows)}.png", optimize=True)
        before = [each.before and (each.before.text, each.before.answer) for each in own]
        rows.append([(each.kind, each.text, each.answer, said) for each, said in zip(own, before, strict=True)])
    (folder / "questions.json").write_text(json.dumps(rows, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.quality.package", description=first, epilog=rest)
    parser.add_argument("checkpoint", type=Path, help="both.pt of bench.quality.train")
    parser.add_argument("folder", type=Path, help="in which model/ and scenes/ are written")
    options = parser.parse_args(argv)
    state = checkpoint.read(options.checkpoint)
    if state is None:
        parser.error(f"there is no {options.checkpoint}")
    model = build()
    model.load_state_dict(state["model"])
    save(model, options.folder / "model")
    save_examples(options.folder / "scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
