"""A stand-in for lmms-eval, which brings too many packages to be a test's requirement.

It mirrors what a plugin meets in lmms-eval 0.6 and 0.7: the registry that reads entry points and checks classes, the
base class with its string of arguments and its `clean`, and `llava_hf`, whose two versions load a checkpoint, answer
pictures, and go on after an exception with an empty answer.
"""

from __future__ import annotations

from pathlib import Path

FILES = {
    "loguru.py": """
        import logging

        logger = logging.getLogger("loguru")
    """,
    "lmms_eval/__init__.py": "",
    "lmms_eval/api/__init__.py": "",
    "lmms_eval/api/model.py": """
        import abc
        import gc

        from torch import nn


        class lmms(abc.ABC):
            is_simple = True

            def __init__(self):
                self._rank = 0
                self._world_size = 1
                self.task_dict = {}

            @abc.abstractmethod
            def loglikelihood(self, requests): ...

            @abc.abstractmethod
            def generate_until(self, requests): ...

            @abc.abstractmethod
            def generate_until_multi_round(self, requests): ...

            @classmethod
            def create_from_arg_string(cls, arg_string, additional_config=None):
                args = dict(arg.split("=", 1) for arg in arg_string.split(","))
                args = {name: _value(text) for name, text in args.items()}
                return cls(**args, **{k: v for k, v in (additional_config or {}).items() if v is not None})

            @property
            def rank(self):
                return self._rank

            @property
            def world_size(self):
                return self._world_size

            def clean(self):
                for name in list(vars(self)):
                    if isinstance(getattr(self, name), nn.Module):
                        delattr(self, name)
                gc.collect()


        def _value(text):
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            if text.isnumeric():
                return int(text)
            try:
                return float(text)
            except ValueError:
                return text
    """,
    "lmms_eval/models/__init__.py": """
        from lmms_eval.models.registry_v2 import ModelManifest, ModelRegistryV2

        MODEL_REGISTRY_V2 = ModelRegistryV2()
        MODEL_REGISTRY_V2.register_manifest(
            ModelManifest(
                "llava_hf", "lmms_eval.models.simple.llava_hf.LlavaHf", "lmms_eval.models.chat.llava_hf.LlavaHf"
            )
        )
        MODEL_REGISTRY_V2.register_manifest(ModelManifest("remote", "lmms_eval.models.simple.llava_hf.Remote"))
        MODEL_REGISTRY_V2.load_entrypoint_manifests(overwrite=True)


        def get_model(model_name, force_simple=False):
            return MODEL_REGISTRY_V2.get_model_class(model_name, force_simple=force_simple)
    """,
    "lmms_eval/models/registry_v2.py": """
        import importlib
        from collections.abc import Iterable
        from dataclasses import dataclass
        from importlib.metadata import entry_points


        @dataclass(frozen=True)
        class ModelManifest:
            model_id: str
            simple_class_path: str | None = None
            chat_class_path: str | None = None
            aliases: tuple[str, ...] = ()


        class ModelRegistryV2:
            def __init__(self):
                self._manifests = {}

            def register_manifest(self, manifest, *, overwrite=False):
                if manifest.model_id in self._manifests and not overwrite:
                    raise ValueError(f"Conflicting {manifest.model_id}")
                self._manifests[manifest.model_id] = manifest

            def load_entrypoint_manifests(self, group="lmms_eval.models", *, overwrite=False):
                for entry_point in entry_points().select(group=group):
                    payload = entry_point.load()
                    if callable(payload):
                        payload = payload()
                    payload = [payload] if isinstance(payload, ModelManifest) else payload
                    if not isinstance(payload, Iterable) or not all(isinstance(x, ModelManifest) for x in payload):
                        raise TypeError("Entry point payload must be ModelManifest, iterable or callable")
                    for manifest in payload:
                        self.register_manifest(manifest, overwrite=overwrite)

            def get_manifest(self, model_name):
                if model_name not in self._manifests:
                    raise ValueError(f"Model '{model_name}' not found in available models")
                return self._manifests[model_name]

            def get_model_class(self, model_name, force_simple=False):
                from lmms_eval.api.model import lmms

                manifest = self.get_manifest(model_name)
                simple = (force_simple and manifest.simple_class_path) or not manifest.chat_class_path
                module, name = (manifest.simple_class_path if simple else manifest.chat_class_path).rsplit(".", 1)
                cls = getattr(importlib.import_module(module), name)
                if not (isinstance(cls, type) and issubclass(cls, lmms)):
                    raise TypeError(f"Model class '{module}.{name}' is not a subclass of lmms")
                if cls.is_simple != bool(simple):
                    raise TypeError(f"Model '{model_name}' and {name}.is_simple disagree")
                return cls
    """,
    "lmms_eval/models/simple/__init__.py": "",
    "lmms_eval/models/simple/llava_hf.py": """
        from lmms_eval.api.model import lmms
        from transformers import AutoModelForImageTextToText, AutoProcessor


        class LlavaHf(lmms):
            def __init__(self, pretrained, device="cuda", batch_size=1, attn_implementation=None, **kwargs):
                super().__init__()
                assert kwargs == {}, f"Unexpected kwargs: {kwargs}"
                self._model = AutoModelForImageTextToText.from_pretrained(
                    pretrained, attn_implementation=attn_implementation
                ).to(device)
                self._processor = AutoProcessor.from_pretrained(pretrained)

            @property
            def model(self):
                return self._model

            def prompt(self, question):
                return f"<image> {question} ANSWER:"

            def generate_until(self, requests):
                answers = []
                for question, picture in requests:
                    inputs = self._processor(images=picture, text=self.prompt(question), return_tensors="pt")
                    try:
                        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=8)
                        ids = ids[:, inputs["input_ids"].shape[1] :]
                    except Exception:
                        ids = [[]]
                    answers += self._processor.batch_decode(ids, skip_special_tokens=True)
                return answers

            def generate_until_multi_round(self, requests):
                return LlavaHf.generate_until(self, requests)

            def loglikelihood(self, requests):
                for question, picture in requests:
                    inputs = self._processor(images=picture, text=self.prompt(question), return_tensors="pt")
                    yield float(self.model(**inputs, labels=inputs["input_ids"]).loss)


        class Remote(lmms):
            generate_until = generate_until_multi_round = loglikelihood = None
    """,
    "lmms_eval/models/chat/__init__.py": "",
    "lmms_eval/models/chat/llava_hf.py": """
        from lmms_eval.models.simple.llava_hf import LlavaHf as LlavaHfSimple


        class LlavaHf(LlavaHfSimple):
            is_simple = False

            def prompt(self, question):
                content = [{"type": "image"}, {"type": "text", "text": question}]
                messages = [{"role": "user", "content": content}]
                return self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    """,
    "pact_ext_entry-0.dist-info/METADATA": """
        Metadata-Version: 2.1
        Name: pact_ext_entry
        Version: 0
    """,
}


def write(folder: Path, entry_point: str) -> None:
    """The package, and a distribution beside it that declares `entry_point`."""
    from textwrap import dedent

    declared = {"pact_ext_entry-0.dist-info/entry_points.txt": f"[lmms_eval.models]\n{entry_point}\n"}
    for name, text in (FILES | declared).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip())
