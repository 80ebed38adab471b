"""PACT as a model of lmms-eval: ``lmms_eval --model pact_hf --model_args pretrained=...,config=llava-onevision-7b``.

One of lmms-eval's own models does the work, prompts and decoding included; all that changes is that `pact_ext.apply`
reduces the visual tokens inside it, and that the log says by how much. lmms-eval finds it as an entry point.
"""

from __future__ import annotations

import dataclasses

from torch import nn

from ..config import PactConfig
from ..methods import coerce
from . import apply

try:
    from lmms_eval.api.model import lmms
    from loguru import logger
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("lmms_eval", "loguru"):
        raise
    raise ImportError(
        "pact_ext.models.lmms_eval needs lmms-eval 0.6 or newer: pip install lmms-eval", name=error.name
    ) from None

BASES = {
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "internvl": "internvl_hf",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
}
"""lmms-eval's model for each `model_type` of a checkpoint's configuration."""


class PactHf(lmms):
    """One of lmms-eval's models, reduced. An instance is one of that model's class, with `Reporting` mixed in.

    Args:
        base: the name of lmms-eval's model; by default the one in `BASES` for the checkpoint `pretrained`.
        config: a `PactConfig`, or the name of a preset.
        method: another method by its name, ``fastv:keep=0.25;layer=3``, in place of `config` and its fields.
        reduce: False for the baseline: the same model and the same prompts, with nothing reduced.
        per_image, attention: as in `pact_ext.apply`.
        model_args: fields of `PactConfig` change `config`; all others go to the base.

    Raises:
        ValueError: a base or a configuration that does not exist, a switch that is no boolean, or a base that runs no
            Hugging Face model.
    """

    is_simple = False

    def __new__(
        cls,
        base: str | None = None,
        config: PactConfig | str = "llava-onevision-7b",
        method: str | None = None,
        reduce: bool = True,
        per_image: bool = False,
        attention: str = "auto",
        **model_args,
    ) -> lmms:
        from lmms_eval.models import get_model

        for name, value in (("reduce", reduce), ("per_image", per_image)):
            if not isinstance(value, bool):
                raise ValueError(f"pact_hf: {name} must be True or False, got {value!r}")
        fields = [field.name for field in dataclasses.fields(PactConfig) if field.name in model_args]
        if method is not None and fields:
            raise ValueError(f"pact_hf: {fields[0]} must be left out with method, which has its own arguments")
        config = dataclasses.replace(PactConfig.coerce(config), **{name: model_args.pop(name) for name in fields})
        chosen = coerce(config if method is None else method)
        base = base or _base_of(model_args.get("pretrained"))
        found = get_model(base, force_simple=cls.is_simple)
        evaluated = type(f"Pact{found.__name__}", (Reporting, found), {"__module__": __name__})(**model_args)
        model = getattr(evaluated, "model", None)
        if not isinstance(model, nn.Module):
            raise ValueError(f"pact_hf: base must run a Hugging Face model of its own, got {base!r}, which has none")
        handle = apply(model, chosen, per_image=per_image, attention=attention) if reduce else None
        evaluated.calls = Calls(model, handle)
        logger.info(
            f"pact_hf: {base} reduced with {config if method is None else chosen}"
            if reduce
            else f"pact_hf: {base}, not reduced"
        )
        return evaluated


class PactHfSimple(PactHf):
    """The same over the base's simple model, which ``--force_simple`` asks for."""

    is_simple = True


def manifest():
    """The entry point: what lmms-eval's registry learns. Imported here, because that registry imports this module."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="pact_hf",
        simple_class_path=f"{__name__}.PactHfSimple",
        chat_class_path=f"{__name__}.PactHf",
    )


class Reporting:
    """Mixed into a model of lmms-eval: the log says what the reduction did.

    Attributes:
        calls: what the model was called for.
    """

    calls: Calls | None = None

    def generate_until(self, requests):
        answers = super().generate_until(requests)
        self._log()
        return answers

    def generate_until_multi_round(self, requests):
        answers = super().generate_until_multi_round(requests)
        self._log()
        return answers

    def clean(self) -> None:
        """Frees the model, of which the handle holds a reference."""
        if self.calls is not None and self.calls.handle is not None:
            self.calls.handle.remove()
        self.calls = None
        super().clean()

    def _log(self) -> None:
        rank = f"rank {self.rank} of {self.world_size}: " if self.world_size > 1 else ""
        logger.info(f"pact_hf: {rank}{self.calls}")
        if self.calls.failed:
            logger.error(f"pact_hf: {rank}{self.calls.failed} calls of the model failed; their answers may be empty")


class Calls:
    """The calls of a model so far.

    Attributes:
        handle: of the reduction; None for the baseline.
        reduced: visual tokens before and after, of every prompt that had any.
        failed: calls that raised an exception. Some of lmms-eval's models log it and go on.
    """

    def __init__(self, model: nn.Module, handle) -> None:
        self.handle = handle
        self.reduced: list[tuple[int, int]] = []
        self.failed = 0
        self._last = None if handle is None else handle.last
        model.register_forward_hook(self._after, always_call=True)

    def _after(self, module: nn.Module, args: tuple, output) -> None:
        if output is None:
            self.failed += 1
        elif self.handle is not None and self.handle.last is not self._last:
            self._last = self.handle.last
            report = self.handle.report()
            self.reduced += [pair for pair in zip(report.visual_in, report.visual_out, strict=True) if pair[0]]

    def __str__(self) -> str:
        if self.handle is None:
            return "baseline, nothing was reduced"
        count = len(self.reduced)
        if not count:
            return "no prompt had visual tokens"
        before, after = (sum(column) / count for column in zip(*self.reduced, strict=True))
        share = sum(1 - after / before for before, after in self.reduced) / count
        return (
            f"{count} prompts with {before:.1f} visual tokens on average, {after:.1f} after; mean reduction {share:.1%}"
        )


def _base_of(pretrained: str | None) -> str:
    if pretrained is None:
        raise ValueError("pact_hf: base or pretrained must be given, got neither")
    from transformers import AutoConfig

    model_type = AutoConfig.from_pretrained(pretrained).model_type
    if model_type not in BASES:
        raise ValueError(
            f"pact_hf: pretrained must be a checkpoint of a known type ({', '.join(sorted(BASES))}) unless base is "
            f"given, got {pretrained!r} of type {model_type!r}"
        )
    return BASES[model_type]
