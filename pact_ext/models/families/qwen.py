"""Families whose positions have three axes, time, height and width: Qwen-VL and GLM-V."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .family import Family, ImageTokens, code_of


class Qwen2VL(Family, model_type="qwen2_vl"):
    """Qwen2-VL. Up to transformers 4 its decoder hands on the three axes of multimodal RoPE apart, ``[3, n, dh]``."""

    def rotated(self, layer: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if cos.ndim == 2:
            return super().rotated(layer, keys, cos, sin)
        turn = code_of(layer)["apply_multimodal_rotary_pos_emb"]
        sections, heads = layer.self_attn.rope_scaling["mrope_section"], keys.transpose(0, 1)[None]
        _, turned = turn(heads[:, :0], heads, cos[:, None], sin[:, None], sections)
        return turned[0].transpose(0, 1)

    def images(self, core: nn.Module, given: Mapping) -> list[ImageTokens]:
        grids = _merged(core.config, given["image_grid_thw"])
        return [ImageTokens(frames * rows * columns, rows, columns) for frames, rows, columns in grids]

    def videos(self, core: nn.Module, given: Mapping) -> list[int]:
        grids = _merged(core.config, given["video_grid_thw"])
        return [frames * rows * columns for frames, rows, columns in grids]


def _merged(config, grids: Tensor) -> list[tuple[int, int, int]]:
    """Frames, rows and columns in tokens."""
    merge = config.vision_config.spatial_merge_size
    return [(frames, rows // merge, columns // merge) for frames, rows, columns in grids.tolist()]


class Qwen25VL(Qwen2VL, model_type="qwen2_5_vl"):
    """Qwen2.5-VL."""


class Qwen3VL(Family, model_type="qwen3_vl"):
    """Qwen3-VL, whose first layers add visual features to every visual token's place."""

    images, videos = Qwen2VL.images, Qwen2VL.videos

    def first_layer(self, core: nn.Module) -> int:
        return len(core.config.vision_config.deepstack_visual_indexes)


class Qwen3VLMoe(Qwen3VL, model_type="qwen3_vl_moe"):
    """Qwen3-VL with experts."""


class Glm4vMoe(Qwen2VL, model_type="glm4v_moe"):
    """GLM-4.5V. Its videos are image tokens too, between a token that starts them and one that ends them."""

    def visual_token_ids(self, config) -> list[int]:
        return [config.image_token_id]

    def in_videos(self, config, ids: Tensor) -> Tensor:
        starts, ends = ids == config.video_start_token_id, ids == config.video_end_token_id
        return (starts.int() - ends.int()).cumsum(-1) > 0


class Glm4v(Glm4vMoe, model_type="glm4v"):
    """GLM-4.1V."""
