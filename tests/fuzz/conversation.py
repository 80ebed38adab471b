"""A conversation with a reduced model and what its user may do to it; every logit that came out is kept."""

from __future__ import annotations

import copy
import pickle
import random

import torch
import transformers
from models import tiny
from torch import Tensor

CROP_COUNTS_WHAT_GOES = tiny.VERSION >= (5, 0)
SEQUENCES = ("input_ids", "attention_mask", "mm_token_type_ids")
WORDS = (tiny.WORDS.start, tiny.WORDS.stop)


class Conversation:
    """On one cache.

    Attributes:
        base: the prompt, up to where a crop may go back to.
        forced: ``[B, t]`` the tokens after it.
        logits: ``[B, t + 1, V]`` after the last of `base`, and after each of those.
        rows: which row of the prompt each row now is.
    """

    def __init__(self, model, prompt: dict[str, Tensor], tail: int):
        self.model, self.prompt = model, prompt
        self.base = {name: x[:, : x.shape[1] - tail] if name in SEQUENCES else x for name, x in prompt.items()}
        self.forced = prompt["input_ids"][:, prompt["input_ids"].shape[1] - tail :]
        self.positions = tiny.positions(model, self.base)
        self.rows = torch.arange(len(self.forced))
        self.cache = None

    # --- The beginning ----------------------------------------------------------------------------------------

    def prefill(self, cache, mask: Tensor | None) -> None:
        """`mask` instead of the prompt's."""
        inputs = {name: x for name, x in self.prompt.items() if name != "attention_mask"}
        inputs |= {} if mask is None else {"attention_mask": mask}
        out = self.model(**inputs, position_ids=self._positions(0), past_key_values=cache, use_cache=True)
        self.logits, self.cache = out.logits[:, -1 - self.forced.shape[1] :], out.past_key_values

    def generate(self, steps: int, use_cache: bool) -> None:
        caches = []
        hook = self.model.lm_head.register_forward_hook(lambda module, args, out: caches.append(out[:, -1]))
        try:
            out = self.model.generate(
                **self.prompt, max_new_tokens=steps, use_cache=use_cache, return_dict_in_generate=True
            )
        finally:
            hook.remove()
        # The last token was chosen, but has not passed.
        tail = self.forced.shape[1]
        self.forced = torch.cat([self.forced, out.sequences[:, -steps:-1]], dim=1)
        unknown = torch.full((len(self.forced), tail, tiny.VOCABULARY), torch.nan)
        self.logits = torch.cat([unknown, torch.stack(caches, dim=1)], dim=1)
        self.cache = out.past_key_values if use_cache else None

    def _positions(self, start: int) -> Tensor:
        """Of the tokens from `start` on of those after the base, all there are with 0."""
        last = self.positions.amax(-1, keepdim=True)
        last = last.amax(0, keepdim=True).expand_as(last) if last.ndim == 3 else last
        after = last + 1 + torch.arange(self.forced.shape[1])
        whole = torch.cat([self.positions, after], dim=-1)[..., self.rows, :]
        return whole[..., self.positions.shape[-1] + start :] if start else whole

    # --- What may happen --------------------------------------------------------------------------------------

    def say(self, rng: random.Random) -> None:
        """Some tokens in one call."""
        count, past = rng.randint(1, 4), self.forced.shape[1]
        words = torch.randint(*WORDS, (len(self.rows), count))
        self.forced = torch.cat([self.forced, words], dim=1)
        mask = torch.nn.functional.pad(self.base["attention_mask"][self.rows], (0, past + count), value=1)
        positions = self._positions(past) if past else self._positions(0)[..., -count:]
        out = self.model(input_ids=words, attention_mask=mask, position_ids=positions, past_key_values=self.cache)
        self.logits = torch.cat([self.logits, out.logits], dim=1)

    def crop(self, rng: random.Random) -> None:
        count = rng.randint(0, self.forced.shape[1])
        if count:
            self._crop(count)
            self.forced, self.logits = self.forced[:, :-count], self.logits[:, :-count]

    def crop_too_much(self, rng: random.Random) -> None:
        """Into the visual tokens: refused, and nothing changed. Only where `base` ends with one."""
        try:
            self._crop(self.forced.shape[1] + rng.randint(1, 3))
        except RuntimeError as error:
            assert "reaches into reduced visual tokens" in str(error)  # noqa: PT017
        else:
            raise AssertionError("a crop into reduced visual tokens is no error")

    def _crop(self, count: int) -> None:
        self.cache.crop(-count if CROP_COUNTS_WHAT_GOES else int(self.cache.get_seq_length()) - count)

    def copy(self, rng: random.Random) -> None:
        """Go on with a copy, after the original went elsewhere."""
        old, before = self.cache, (self.forced, self.logits)
        self.cache = copy.deepcopy(old) if rng.random() < 0.5 else pickle.loads(pickle.dumps(old))
        new, self.cache = self.cache, old
        self.say(rng)
        self.cache, (self.forced, self.logits) = new, before

    def reorder(self, rng: random.Random) -> None:
        self._take(torch.tensor(rng.sample(range(len(self.rows)), len(self.rows))), "reorder_cache")

    def select(self, rng: random.Random) -> None:
        kept = sorted(rng.sample(range(len(self.rows)), rng.randint(1, len(self.rows))))
        self._take(torch.tensor(kept), "batch_select_indices")

    def _take(self, chosen: Tensor, method: str) -> None:
        getattr(self.cache, method)(chosen)
        self.rows, self.forced, self.logits = self.rows[chosen], self.forced[chosen], self.logits[chosen]


def cache_of(kind: str, model):
    """A new one; None lets the model make it."""
    if kind == "static":
        return transformers.StaticCache(config=model.config, max_cache_len=400)
    return transformers.DynamicCache(config=model.config) if kind == "dynamic" else None
