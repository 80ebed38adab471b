"""A vLLM engine in a process of its own: answers requests all at once, and writes what it gave.

    python engine.py FOLDER REQUESTS ANSWERS

REQUESTS is a pickle of a list of rounds, each a list of ``{"prompt": str, "images": [...], "videos": [...]}``, where a
tensor in the place of a picture is its rows; ANSWERS is JSON, of each request ``[ids of the prompt with its
placeholders, ids of the answer, how many of the prompt's tokens were in the cache]``.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

from vllm import LLM, SamplingParams

TOKENS = 12
VIDEOS = re.compile("onevision|qwen")


def main(folder: str, requests: str, answers: str) -> None:
    engine = LLM(
        folder,
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=96,  # less than the requests' prompts together: prefill comes in chunks
        max_num_seqs=8,
        enforce_eager=True,
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
        block_size=32,
        enable_mm_embeds=True,
        limit_mm_per_prompt={"image": 3} | ({"video": 1} if VIDEOS.search(folder) else {}),
        disable_log_stats=True,
    )
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    given = []
    for together in pickle.loads(Path(requests).read_bytes()):
        prompts = []
        for request in together:
            data = {kind: request[f"{kind}s"] for kind in ("image", "video") if request.get(f"{kind}s")}
            if "metadata" in request:
                data["video"] = list(zip(data["video"], request["metadata"], strict=True))
            prompts.append({"prompt": request["prompt"]} | ({"multi_modal_data": data} if data else {}))
        given.append(
            [
                [output.prompt_token_ids, list(output.outputs[0].token_ids), output.num_cached_tokens]
                for output in engine.generate(prompts, greedy)
            ]
        )
    Path(answers).write_text(json.dumps(given))


if __name__ == "__main__":  # the engine's own process imports this file again
    main(*sys.argv[1:])
