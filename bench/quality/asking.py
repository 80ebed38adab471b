"""The small model asked about scenes, as it is and reduced."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import pact_ext

from .batches import HEAD, PLACES
from .questions import Question
from .scenes import Scene
from .words import ID, WORDS, ids_of

LONGEST = 4  # tokens of an answer: three letters, and the end


class Asked(NamedTuple):
    """A question of a scene, by the scene's number."""

    scene: int
    question: Question


@dataclass(frozen=True)
class Answers:
    """To questions, in order.

    Attributes:
        texts: as the model words them.
        first: ``[questions, V]`` log-probabilities of each answer's first word, on the CPU.
        visual: visual tokens in each layer, the mean over the questions.
        seconds: of the prefills, one for each batch, from the decoder's input to the first word.
    """

    texts: list[str]
    first: Tensor
    visual: list[float]
    seconds: list[float]

    def right(self, asked: Sequence[Asked]) -> np.ndarray:
        """``[questions]`` bool."""
        return np.array([text == one.question.answer for text, one in zip(self.texts, asked, strict=True)])

    def share_of_time(self, other: Answers) -> float:
        """The time of a prefill next to the other's, medians over the batches that both were asked."""
        count = min(len(self.seconds), len(other.seconds))
        return float(np.median(self.seconds[:count]) / np.median(other.seconds[:count]))


def prompt(question: Question) -> list[int]:
    """Ids, as the chat template makes them."""
    ids = [*HEAD, *[ID["<image>"]] * PLACES]
    if question.before is not None:
        ids += ids_of(f"{question.before.text} assistant : {question.before.answer} <eos> user :")
    return ids + ids_of(f"{question.text} assistant :")


def inputs(scenes: Sequence[Scene], asked: Sequence[Asked], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """A batch padded on the left, on a device."""
    rows = [prompt(one.question) for one in asked]
    longest = max(map(len, rows))
    ids = torch.tensor([[ID["<pad>"]] * (longest - len(row)) + row for row in rows])
    images = torch.from_numpy(np.stack([scenes[one.scene].image for one in asked])).to(device)
    return {
        "input_ids": ids.to(device),
        "attention_mask": (ids != ID["<pad>"]).long().to(device),
        "pixel_values": (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5,
    }


@torch.inference_mode()
def answers(model, scenes: Sequence[Scene], asked: Sequence[Asked], method=None, batch: int = 32) -> Answers:
    """What a model answers, on the device it is on, reduced by a method or as it is.

    Methods that draw at random draw by the row of a batch: another size of batches is another draw.
    """
    texts, first, visual, seconds = [], [], [], []
    reduced = contextlib.nullcontext() if method is None else pact_ext.apply(model, method)
    with reduced as handle, _timed(model.get_decoder(), seconds):
        for some in _batches(asked, batch):
            given = inputs(scenes, some, model.device)
            out = model.generate(
                **given, max_new_tokens=LONGEST, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            first.append(out.logits[0].float().log_softmax(dim=-1).cpu())
            found = out.sequences[:, given["input_ids"].shape[1] :].tolist()
            texts += [" ".join(WORDS[i] for i in ids[: (*ids, ID["<eos>"]).index(ID["<eos>"])]) for ids in found]
            layers = model.config.text_config.num_hidden_layers
            each = layers * [PLACES * len(some)] if handle is None else handle.report().visual_by_layer
            visual.append(np.array(each))
    return Answers(texts, torch.cat(first), list(sum(visual) / len(asked)), seconds)


def _batches(asked: Sequence[Asked], size: int) -> Iterable[Sequence[Asked]]:
    return (asked[start : start + size] for start in range(0, len(asked), size))


@contextlib.contextmanager
def _timed(decoder: torch.nn.Module, seconds: list[float]):
    """Notes how long the decoder takes for each call with more than one token a row."""
    started: list[float] = []

    def now(embeds: Tensor) -> float:
        if embeds.is_cuda:
            torch.cuda.synchronize(embeds.device)
        return time.perf_counter()

    def before(module, args, kwargs) -> None:
        started.append(now(kwargs["inputs_embeds"]))

    def after(module, args, kwargs, output) -> None:
        took = now(kwargs["inputs_embeds"]) - started.pop()
        if kwargs["inputs_embeds"].shape[1] > 1:
            seconds.append(took)

    hooks = [
        decoder.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        decoder.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
