"""A vLLM engine in a process of its own: answers requests all at once, and writes what it gave.

    python engine.py FOLDER REQUESTS ANSWERS

REQUESTS is a pickle of a list of rounds, each a list of ``{"prompt": str, "images": [...], "videos": [...]}``;
ANSWERS is JSON, of each request ``[ids of the prompt with its placeholders, ids of the answer]``.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

from vllm import LLM, SamplingParams

TOKENS = 12


def main(folder: str, requests: str, answers: str) -> None:
    engine = LLM(
        folder,
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=96,  # less than the requests' prompts together: prefill comes in chunks
        max_num_seqs=8,
        enforce_eager=True,
        enable_chunked_prefill=True,
        limit_mm_per_prompt={"image": 3} | ({"video": 1} if "onevision" in folder else {}),
        disable_log_stats=True,
    )
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    given = []
    for together in pickle.loads(Path(requests).read_bytes()):
        prompts = []
        for request in together:
            data = {kind: request[f"{kind}s"] for kind in ("image", "video") if request.get(f"{kind}s")}
            prompts.append({"prompt": request["prompt"]} | ({"multi_modal_data": data} if data else {}))
        given.append(
            [
                [output.prompt_token_ids, list(output.outputs[0].token_ids)]
                for output in engine.generate(prompts, greedy)
            ]
        )
    Path(answers).write_text(json.dumps(given))


if __name__ == "__main__":  # the engine's own process imports this file again
    main(*sys.argv[1:])
