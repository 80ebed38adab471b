"""A beginning for the decoder: heads that look for tokens alike and copy them, and heads that look a few words back.

What a question needs is to find the visual tokens that hold its word, and to bring what else they hold to the answer.
From random weights that takes thousands of steps to appear; set so (mimetic initialization, Trockman and Kolter 2023)
it is nearly there at once, and training goes on from it. Of the two query heads on a key head, the first compares
contents in the channels that rotary embedding hardly turns, the second reads only the place, in those it turns fast.
"""

from __future__ import annotations

import torch
import transformers

BACK = (1, 3, 6)
"""How many words before its own the second head of each pair looks; the word asked for is often 3 before the answer."""
SHARPNESS, COPIED, LOCAL = 1.3, 0.5, 1.1
"""Of comparing contents; the share of what a head looks at that it copies; of looking at a place."""


@torch.no_grad()
def look_alike(model: transformers.LlavaForConditionalGeneration, seed: int = 0) -> None:
    """Set queries, keys, values, outputs and the words' logits of a model with two query heads on each key head."""
    decoder, config = model.model.language_model, model.config.text_config
    width, groups = config.hidden_size, config.num_key_value_heads
    size = width // config.num_attention_heads
    half, quarter = size // 2, size // 4
    fast = torch.arange(quarter)  # channel i and half + i are one wave; its speed falls with i
    steady = torch.cat([torch.arange(quarter, half), torch.arange(half + quarter, size)])
    speeds = decoder.rotary_emb.inv_freq[:quarter]
    near = LOCAL * size**0.25  # attention divides by the root of the size, so a wave adds LOCAL squared
    random = torch.Generator().manual_seed(seed)
    for layer in decoder.layers:
        attention = layer.self_attn
        alike, copied = (torch.linalg.qr(torch.randn(width, width, generator=random))[0] for _ in range(2))
        attention.v_proj.weight.copy_(copied[: groups * size])
        for group in range(groups):
            key, first, second = group * size, 2 * group * size, (2 * group + 1) * size
            part = SHARPNESS * 2**0.5 * alike[group * len(steady) : (group + 1) * len(steady)]
            attention.k_proj.weight[key : key + size] *= 0.5
            attention.k_proj.weight[key + steady] = part
            attention.q_proj.weight[first + steady] = part
            attention.k_proj.bias[key + fast] = near
            attention.q_proj.bias[first + fast] = -near  # away from itself, than which nothing is more alike
            attention.q_proj.bias[second + fast] = near * (BACK[group] * speeds).cos()
            attention.q_proj.bias[second + half + fast] = -near * (BACK[group] * speeds).sin()
            for row in (first, second):
                attention.o_proj.weight[:, row : row + size] = COPIED * copied[key : key + size].T
    model.lm_head.weight.copy_(0.05 * model.get_input_embeddings().weight)
