"""From a name to a model that runs: checkpoints of the known families with their processors, and inputs for them.

What a user can mend is a ValueError or an ImportError of one line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

DTYPES = ("bfloat16", "float16", "float32")
MISSING = "models of Hugging Face need transformers 4.57 or newer: pip install 'pact-ext[models]'"
PRESET_OF = dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe"), "qwen2-vl-7b")
"""The preset nearest to a family, by `model_type`; of the families not here it is `DEFAULT_PRESET`."""
DEFAULT_PRESET = "llava-onevision-7b"


def load(
    name_or_path: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A vision-language model of a known family, in evaluation mode, and its processor.

    Args:
        name_or_path: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub.
        device: default the first card where there is one, else the CPU.
        dtype: default bfloat16 on a card, float32 on the CPU.
        attn_implementation: as transformers takes it; None leaves the choice to the model.

    Raises:
        ImportError: transformers, or what the model or its processor needs, is missing.
        ValueError: no such model, a family that is not known, or no such device or dtype.
    """
    device = device_of(device)
    dtype = dtype_of(dtype, device)
    config = _config(name_or_path)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with _told(name_or_path, "the processor"):
        processor = AutoProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    if not hasattr(processor, "image_processor"):
        raise ValueError(
            f"pact_ext: {name_or_path} must come with its processor (processor_config.json, preprocessor_config.json), "
            f"got only a {type(processor).__name__}"
        )
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with _told(name_or_path, "the model"):
        model = AutoModelForImageTextToText.from_pretrained(
            name_or_path, config=config, dtype=dtype, trust_remote_code=False, **chosen
        )
    return model.to(device).eval(), processor


def prepare(model: PreTrainedModel, processor: ProcessorMixin, images: list[Image], prompt: str) -> dict:
    """The inputs of one call: the images, then the prompt, as one turn of a user.

    Through the chat template where the processor has one; otherwise each image's placeholder on a line of its own.

    Returns:
        Arguments of ``model(**inputs)`` and ``model.generate(**inputs)``, one row, on the model's device.

    Raises:
        ValueError: no images, or a prompt that holds an image's placeholder.
    """
    if not images:
        raise ValueError("pact_ext.models.prepare: images must hold at least one image, got none")
    placeholder = getattr(processor, "image_token", None)
    if placeholder and placeholder in prompt:
        raise ValueError(f"pact_ext.models.prepare: prompt must be text alone, got one with {placeholder} in it")
    images = [image.convert("RGB") for image in images]
    try:
        if getattr(processor, "chat_template", None):
            content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": prompt}]
            turns = [{"role": "user", "content": content}]
            shape = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
            inputs = processor.apply_chat_template(turns, add_generation_prompt=True, **shape)
        else:
            text = (_placeholder(model.config, processor) + "\n") * len(images) + prompt
            inputs = processor(images=images, text=[text], return_tensors="pt")
    except ImportError as error:
        raise ImportError(_needs(error, "the processor"), name=error.name) from None
    return dict(inputs.to(model.device, dtype=model.dtype))


def preset_for(name_or_path: str | os.PathLike) -> str:
    """The name of the preset nearest to a model; reads its configuration alone. Raises as `load` does."""
    return PRESET_OF.get(_config(name_or_path).model_type, DEFAULT_PRESET)


def device_of(device: str | torch.device | None) -> torch.device:
    """A device that is here; None is the first card where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cards = torch.cuda.device_count()
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = torch.device("meta")
    if wanted.type not in ("cpu", "cuda") or (wanted.type == "cuda" and (wanted.index or 0) >= cards):
        raise ValueError(f"pact_ext: device must be cpu, or cuda where there is a card (here: {cards}), got {device}")
    return wanted


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A dtype by name or as it is; None is bfloat16 on a card and float32 elsewhere."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"pact_ext: dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    return getattr(torch, dtype)


def _config(name_or_path: str | os.PathLike) -> PretrainedConfig:
    """The configuration of a model of a known family. It is small: what is wrong shows before weights are fetched."""
    try:
        from transformers import AutoConfig
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError(MISSING, name="transformers") from None
    from .families import FAMILIES, why_not

    name = os.fspath(name_or_path)
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()):
        raise ValueError(f"pact_ext: a model must be a folder or a name on the hub, and there is no folder {name}")
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise ValueError(f"pact_ext: the folder of a model must hold config.json, and {name} does not")
    what = "the configuration" if Path(name).is_dir() else "there is no such folder, and the configuration"
    with _told(name, what):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"pact_ext: {name} must be of a known family ({', '.join(sorted(FAMILIES))}), got {config.model_type!r}"
            f"{why_not(config.model_type)}"
        )
    foreign = [a for a in getattr(config, "architectures", None) or [] if "ForConditionalGeneration" not in a]
    if foreign:  # the authors' own format; transformers would read it, and leave the weights that it misses random
        raise ValueError(f"pact_ext: {name} must be in the format of transformers (often named -hf), got {foreign[0]}")
    return config


class _told:
    """What transformers and readers of weights raise, of any kind and at length, as one line with the model's name."""

    def __init__(self, name: str | os.PathLike, what: str) -> None:
        self.name, self.what = name, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, ImportError):
            raise ImportError(_needs(error, f"{self.what} of {self.name}"), name=error.name) from None
        if isinstance(error, Exception) and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise ValueError(f"pact_ext: {self.what} of {self.name} cannot be loaded: {_line(error)}") from None


def _needs(error: ImportError, what: str) -> str:
    if "torchvision" in str(error).lower():
        return f"{what} needs torchvision: pip install torchvision"
    return f"{what} needs a package that is missing: {_line(error)}"


def _line(error: Exception) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _placeholder(config, processor) -> str:
    """What stands for an image in a prompt; Qwen's finds it by the tokens around it."""
    names = ("vision_start_token_id", "vision_end_token_id")
    if any(getattr(config, name, None) is None for name in names):
        return processor.image_token
    start, end = (processor.tokenizer.convert_ids_to_tokens(getattr(config, name)) for name in names)
    return f"{start}{processor.image_token}{end}"
