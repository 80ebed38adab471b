"""A small vision-language model, trained from scratch on pictures made by a program: 3.6 M parameters, no download.

For testing an integration on a model that has learned something, and for looking at what a reduction does to it. The
card beside its weights (`FOLDER / "README.md"`) says what it can do, and what its numbers do not say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

FOLDER = Path(__file__).parent / "model"
"""What `AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained` take."""
SCENES = Path(__file__).parent / "scenes"


class Question(NamedTuple):
    """What is asked of a picture, and the right answer; `before` is the turn before it: its question and answer."""

    kind: str
    text: str
    answer: str
    before: tuple[str, str] | None = None

    @property
    def said(self) -> str:
        """What the user says, of two turns both."""
        return self.text if self.before is None else f"{self.before[0]} ... {self.text}"


class Example(NamedTuple):
    """A picture of 128 x 128 pixels that the model was not trained on, and questions of different kinds."""

    image: Image
    questions: list[Question]

    def turns(self, question: Question) -> list[dict]:
        """One question as `processor.apply_chat_template` takes it."""
        said = [question.text] if question.before is None else [*question.before, question.text]
        turns = [
            {"role": ("user", "assistant")[i % 2], "content": [{"type": "text", "text": text}]}
            for i, text in enumerate(said)
        ]
        turns[0]["content"].insert(0, {"type": "image", "image": self.image})
        return turns


def load(*, dtype: torch.dtype = torch.float32) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model, in eval mode on the CPU, and its processor.

    A LLaVA of stock transformers: a CLIP tower of 6 layers, 256 visual tokens, a Qwen2 decoder of 6 layers with 6
    query heads on 3. Its words are those of its questions, with spaces between them and before the question mark.

    Raises:
        ImportError: transformers 4.57 or newer is missing, which the extra `pact-ext[models]` brings.
    """
    from ..models.loading import load as load_folder

    return load_folder(FOLDER, device="cpu", dtype=dtype)


def examples() -> list[Example]:
    """A few pictures and questions.

    Raises:
        ImportError: Pillow is missing, which the extra `pact-ext[models]` brings.
    """
    from PIL import Image

    found = []
    for number, questions in enumerate(json.loads((SCENES / "questions.json").read_text())):
        with Image.open(SCENES / f"{number}.png") as image:
            image.load()
        asked = [Question(*rest, before and tuple(before)) for *rest, before in questions]
        found.append(Example(image, asked))
    return found
