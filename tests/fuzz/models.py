"""A random conversation with a random reduced model, held to the full-length model that only masks."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field

import torch
from models import oracle, tiny
from models.replay import Pairs, Recorder, groups_of, replayed_logits
from torch import Tensor

import pact_ext
from fuzz.conversation import SEQUENCES, Conversation, cache_of
from pact_ext import PactConfig, methods

LAYERS = 5
# Of logits, and of the keys that float32 decisions are taken from, by the model's dtype.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-5}
ROUTES = [("sdpa", "auto"), ("sdpa", "fused"), ("sdpa", "dense"), ("eager", "auto"), ("eager", "dense")]
STARTS = ("without a cache", "generate", "generate", "dynamic", "static", "none")
ACTIONS = ("say", "say", "crop", "crop", "crop_too_much", "copy", "reorder", "select", "another", "off")

build = functools.cache(tiny.build)


@dataclass
class Case:
    """Everything that is chosen before the model runs; what happens then goes on from `seed`. A `method` is in place of
    `config`."""

    seed: int
    variant: str
    implementation: str
    attention: str
    config: PactConfig
    method: methods.Method | None
    per_image: bool
    counts: list[int]
    padding: str
    mask: str
    start: str
    actions: list[str] = field(default_factory=list)


def _config(rng: random.Random, first: int) -> PactConfig:
    switches = {name: rng.random() < 0.85 for name in ("prune", "cluster", "recover", "merge")}
    switches["prune"] |= not switches["cluster"]
    return PactConfig(
        prune_ratio=rng.choice([0.0, 1.0, 0.4, rng.random()]),
        dc=rng.choice([0.0, 2.0, 0.25, rng.uniform(0.05, 1)]),
        dn=rng.choice([2.0, rng.uniform(0.1, 3)]),
        alpha=rng.choice([0.0, 1.5, rng.uniform(0, 3)]),
        gaussian=rng.random() < 0.5,
        scale=rng.choice([None, None, 1.0, rng.uniform(-1, 3)]),
        layer=rng.randint(first, LAYERS - 1),
        **switches,
    )


def _method(rng: random.Random, first: int, n: int) -> methods.Method | None:
    layer, keep = rng.randint(first, LAYERS - 1), rng.choice([1.0, rng.uniform(0.01, 1), rng.randint(1, n)])
    pyramid = methods.PyramidDrop(keep=rng.uniform(0.2, 1), stages=rng.randint(2, LAYERS))
    return rng.choice(
        [
            *(None, None, None),
            methods.FastV(layer=max(1, layer), keep=keep, rows=rng.choice(["last", "all", "prefix"])),
            methods.Random(keep=keep, layer=layer),
            methods.VTW(layer=layer),
            methods.Pact(PactConfig(layer=layer, dc=rng.choice([0.1, 0.3, 1.0])), keep=keep),
            Pairs(tuple(sorted(rng.sample(range(first, LAYERS), rng.randint(1, LAYERS - first))))),
            pyramid if pyramid.sites(LAYERS)[0] >= max(first, 1) else None,
        ]
    )


def draw(seed: int) -> Case:
    rng = random.Random(seed)
    variant = rng.choice(tiny.VARIANTS)
    implementation, attention = rng.choice(ROUTES)
    first = 3 if variant.startswith("qwen3_vl") else 0  # where visual features go on being added
    config, method = _config(rng, first), _method(rng, first, 30)
    counts = [rng.choice([0, 1, 1, 2, 3]) for _ in range(rng.randint(1, 3))]
    actions = [*(rng.choice(ACTIONS) for _ in range(rng.randint(1, 5))), "say"]  # which shows what they did
    return Case(
        seed,
        variant,
        implementation,
        attention,
        config,
        method,
        per_image=rng.random() < 0.4,
        counts=counts,
        padding=rng.choice(["left", "left", "right"]),
        mask=rng.choice(["given", "bool", "none"]),
        # Without a cache every step reduces anew, by what text there is then: PACT looks at none.
        start=rng.choice(
            ["generate", "generate", "dynamic", "static", "none", *["without a cache"] * (method is None)]
        ),
        actions=actions,
    )


def _padded_right(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    shifts = [int((row == 0).sum()) for row in inputs["attention_mask"]]
    moved = {name: inputs[name] for name in SEQUENCES if name in inputs}
    moved = {name: torch.stack([row.roll(-s) for row, s in zip(x, shifts, strict=True)]) for name, x in moved.items()}
    return {**inputs, **moved}


def _tail(ids: Tensor) -> int:
    """How many columns after the last visual token of any row may go."""
    visual = (ids == tiny.IMAGE).any(dim=0).nonzero()
    return ids.shape[1] - 1 - int(visual.max()) if len(visual) else 5


def _converse(case: Case, model, handle, inputs: dict[str, Tensor], stock: Tensor) -> Conversation:
    rng = random.Random(case.seed + 1)
    right = case.padding == "right" and not bool(inputs["attention_mask"].all())
    whole = _tail(inputs["input_ids"])
    tail = 0 if right else rng.randint(0, whole)
    if right or case.variant in tiny.OTHERS:  # text beside an image belongs to it there
        whole = -1
    talk = Conversation(model, inputs, tail)
    if case.start in ("generate", "without a cache") and not right:
        talk.generate(rng.randint(2, 5), use_cache=case.start == "generate")
    else:
        plain = case.mask == "none" and bool(inputs["attention_mask"].all())
        mask = None if plain else inputs["attention_mask"].to(torch.bool if case.mask == "bool" else torch.long)
        talk.prefill(cache_of(case.start, model), mask)
    images = bool((inputs["input_ids"] == tiny.IMAGE).any())
    for action in case.actions if talk.cache is not None else ():
        if action == "off":
            with handle.off():
                assert torch.equal(model(**inputs).logits, stock), "off() is not the model as it was"
        elif action == "another":
            model(**tiny.inputs(model, 1, seed=rng.randrange(9)), use_cache=True)
        elif action == "say" or (case.start != "static" and (action != "crop_too_much" or (images and tail == whole))):
            getattr(talk, action)(rng)
    return talk


def _expected(case: Case, model, talk: Conversation) -> tuple[Tensor, list]:
    """Logits of the rows that are left, and what became of the visual tokens of all rows."""
    batch, steps = len(case.counts), talk.forced.shape[1] + 1
    forced = torch.full((batch, steps), tiny.WORDS.start)
    forced[talk.rows, : steps - 1] = talk.forced
    apart = tiny.image_tokens(talk.base["input_ids"]) if case.per_image else None
    logits, _, rows = oracle.masked_logits(
        model, talk.base, case.config.layer, case.config, steps, forced=forced, apart=apart
    )
    return logits[talk.rows], rows


def _replayed(case: Case, model, talk: Conversation, recorder: Recorder) -> tuple[Tensor, None]:
    """Logits of the rows that are left, by what was selected."""
    batch, steps = len(case.counts), talk.forced.shape[1] + 1
    forced = torch.full((batch, steps), tiny.WORDS.start)
    forced[talk.rows, : steps - 1] = talk.forced
    groups, sites = groups_of(talk.base, case.per_image), recorder.sites(LAYERS)
    found = recorder.found[: sum(map(len, groups)) * len(sites)]  # what came later was another conversation
    return replayed_logits(model, talk.base, sites, [(groups, found)], forced)[talk.rows], None


def _in_doubt(case: Case, model, talk: Conversation, rows: list) -> bool:
    """Whether the reduction is another one when the keys move by what float32 rounds off."""
    exact = oracle.keys_and_queries

    def moved(*arguments):
        return [x * (1 + ROUNDING[model.dtype] * torch.randn_like(x)) for x in exact(*arguments)]

    oracle.keys_and_queries = moved
    try:
        for _ in range(8):
            _, others = _expected(case, model, talk)
            pairs = [
                pair
                for a, b in zip(rows, others, strict=True)
                for pair in ((a.labels, b.labels), (a.centers, b.centers))
            ]
            if not all(torch.equal(*pair) for pair in pairs):
                return True
    finally:
        oracle.keys_and_queries = exact
    return False


@torch.no_grad()
def judge(case: Case) -> str:
    """What became of it, in a word. Raises AssertionError."""
    torch.manual_seed(case.seed)
    torch.set_num_threads(1)
    # Eager attention and the routers of experts compute in float32, whatever the model.
    dtype = torch.float32 if case.implementation == "eager" or case.variant.endswith("moe") else torch.float64
    model = build(case.variant, dtype=dtype, attn_implementation=case.implementation, layers=LAYERS)
    inputs = tiny.inputs(model, len(case.counts), case.seed % 1000, counts=case.counts)
    inputs = _padded_right(inputs) if case.padding == "right" else inputs
    stock = model(**inputs).logits
    recorder = case.method and Recorder(case.method)
    with pact_ext.apply(model, recorder or case.config, per_image=case.per_image, attention=case.attention) as handle:
        talk = _converse(case, model, handle, inputs, stock)
    assert torch.equal(model(**inputs).logits, stock), "remove() does not give the model back"
    assert pact_ext.handle_of(model) is None

    expected, rows = _replayed(case, model, talk, recorder) if recorder else _expected(case, model, talk)
    known = ~talk.logits[0, :, 0].isnan()  # generate shows the last of the prompt alone
    # The first is of padding in other rows, or of a visual token that may be gone.
    known[0] &= case.padding == "left" and not (talk.base["input_ids"][:, -1] == tiny.IMAGE).any()
    off = (talk.logits - expected)[:, known].abs().max().item() if known.any() else 0.0
    if off <= TOLERANCE[dtype]:
        return "answered"
    if rows is not None and _in_doubt(case, model, talk, rows):
        return "in doubt"
    raise AssertionError(f"logits are off by {off:.3g}")


def prepare() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
