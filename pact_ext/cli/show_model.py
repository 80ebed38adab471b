"""pact-ext show --model: one photograph through a model, and its own visual tokens drawn over the photograph."""

from __future__ import annotations

import inspect
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.Image import Image

from ..config import PactConfig
from ..drawing.plot import plot_tokens
from ..models import apply
from ..models.grids import Grid, image_grid
from ..models.loading import prepare
from ..models.report import Report
from ..reduction import Reduction
from . import opening
from .output import check_picture, write
from .photo import opened

if TYPE_CHECKING:
    from ..methods import Method


@dataclass(frozen=True)
class Shown:
    """What `run` draws and prints.

    Attributes:
        part: what the model saw of the photograph.
        grid: where its tokens are among the reduction's.
        seconds: the whole prefill.
    """

    part: Image
    grid: Grid
    reduction: Reduction
    report: Report
    seconds: float


def shown(photo: Image, model, processor, config: Method | PactConfig, prompt: str) -> Shown:
    """One prefill of a Hugging Face model, reduced."""
    inputs = prepare(model, processor, [photo], prompt)
    # The logits of all tokens are not looked at, and may need more memory than the model has to spare.
    brief = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with apply(model, config) as handle, torch.inference_mode():
        start = time.perf_counter()
        model(**inputs, **brief)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds = time.perf_counter() - start
    part = seen(photo, processor.image_processor)
    return Shown(part, image_grid(model, inputs), handle.last[0], handle.report(synchronize=True), seconds)


def seen(photo: Image, processor) -> Image:
    """The part of a photograph that an image processor leaves: of LLaVA-1.5's, the square in the middle.

    Those that cut a photograph into tiles squeeze the whole of it into one more tile, whatever their cropping says.
    """
    if not getattr(processor, "do_center_crop", False) or hasattr(processor, "image_grid_pinpoints"):
        return photo
    if getattr(processor, "do_pad", False):
        photo = _middle(photo, max(photo.size), max(photo.size))
    size, crop = processor.size, processor.crop_size
    if not processor.do_resize:
        return _middle(photo, crop["width"], crop["height"])
    if size.get("shortest_edge"):
        across = down = min(photo.size) / size["shortest_edge"]  # pixels of the photograph for one that the model gets
    else:
        across, down = photo.width / size["width"], photo.height / size["height"]
    return _middle(photo, round(crop["width"] * across), round(crop["height"] * down))


def _middle(photo: Image, width: int, height: int) -> Image:
    """Black where it is larger than the photograph."""
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    return photo.crop((left, top, left + width, top + height))


def run(
    image: Path,
    output: Path,
    model: str,
    config: Method | PactConfig,
    prompt: str,
    device: str | None = None,
    dtype: str | None = None,
) -> str:
    """Write the picture; return the summary."""
    check_picture(output, [image])
    photo = opened(image)
    loaded, processor = opening.opened(model, device, dtype)
    with opening.mendable():
        result = shown(photo, loaded, processor, config, prompt)
    file = io.BytesIO()
    plot_tokens(result.part, result.reduction, result.grid).save(file, "png", optimize=True)
    write(output, file.getvalue())
    name = f"{model} ({loaded.config.model_type}), {str(loaded.dtype).removeprefix('torch.')} on {loaded.device}"
    return _summary(name, f"{image}, {photo.width} x {photo.height} px", output, len(file.getvalue()), result)


def _summary(model: str, photograph: str, output: Path, size: int, result: Shown) -> str:
    grid, reduction, report = result.grid, result.reduction, result.report
    drawn = grid.rows * grid.columns
    others = f", {reduction.n_in - drawn} more show parts of it" if drawn < reduction.n_in else ""
    rows = {
        "model": model,
        "photograph": photograph,
        "grid": f"{grid.columns} x {grid.rows} tokens of {_used(result.part)}{others}",
        "tokens in": f"{reduction.n_in}, and {report.tokens_in - reduction.n_in} of text",
        "tokens out": f"{reduction.n_out}, {int((reduction.sizes > 1).sum())} of them for two tokens or more",
        "discarded": f"{int((reduction.labels < 0).sum())}",
        "reduction": f"{100 * reduction.reduction_ratio:.1f} %",
        "layer": f"{report.layer} of {report.layers}",
        "per layer": f"{report.mean_visual_tokens:.1f} visual tokens on average",
        "cache": f"{report.cache_bytes / 2**20:.2f} MiB, {report.cache_bytes_saved / 2**20:.2f} MiB less than without",
        "prefill": f"{1e3 * result.seconds:.1f} ms, {1e3 * report.seconds:.2f} ms of it reducing (one run, the first)",
        "picture": f"{output}, {size / 1e3:.0f} kB",
    }
    return "\n".join(f"{name:<13}{value}" for name, value in rows.items())


def _used(part: Image) -> str:
    return f"{part.width} x {part.height} px"
