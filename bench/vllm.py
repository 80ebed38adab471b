"""Requests per second and time to the first token of vLLM with and without fewer tokens.

    python -m bench.vllm [--quick] [--json record.json]

Run by a Python that has vLLM and pact_ext (`make vllm` leaves one in .venv-vllm). Each engine has a process of its own,
one after the other in the same run, and both see the same pictures, each of them once, so that no cache helps. The
model is a small LLaVA-1.5 with random weights and pictures of 576 tokens: times say what fewer tokens save, and nothing
of answers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGETS = (None, {"method": "divprune", "keep": 0.25})
CONCURRENCIES = (1, 4, 16)
SIDE, PATCH, IMAGE, WORDS, ANSWER = 336, 14, 1, 64, 16


def write_checkpoint(folder: Path) -> None:
    """Configuration and processor; vLLM draws the weights itself."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<unk>": 0, "<image>": IMAGE, "<pad>": 2} | {f"w{i}": 3 + i for i in range(253)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    decoder = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
    )
    tower = transformers.CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    config = transformers.LlavaConfig(vision_config=tower, text_config=decoder, image_token_index=IMAGE)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
        ),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    ).save_pretrained(folder)


def serve(folder: str, per_request: int) -> list[dict]:
    """In the engine's process: for every concurrency, all requests' times."""
    import numpy as np
    from PIL import Image
    from vllm import LLM, SamplingParams

    engine = LLM(
        folder,
        dtype="float32",
        load_format="dummy",
        max_model_len=1024,
        max_num_seqs=max(CONCURRENCIES),
        enforce_eager=True,
        disable_log_stats=True,
    ).llm_engine
    greedy = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
    pictures = np.random.default_rng(0)
    words = " ".join(f"w{i}" for i in range(WORDS))

    def measure(concurrency: int, count: int) -> dict:
        begun: dict[str, float] = {}
        first: dict[str, float] = {}
        done, start = 0, time.perf_counter()
        while done < count:
            while len(begun) - done < concurrency and len(begun) < count:
                name = f"{concurrency}-{len(begun)}"
                picture = Image.fromarray(pictures.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
                begun[name] = time.perf_counter()
                prompt = {"prompt": f"<image> {words}", "multi_modal_data": {"image": picture}}
                engine.add_request(name, prompt, greedy)
            for output in engine.step():
                first.setdefault(output.request_id, time.perf_counter())
                done += output.finished
        seconds = time.perf_counter() - start
        waits = [first[name] - begun[name] for name in begun]
        return {"concurrency": concurrency, "requests_per_s": count / seconds, "first_token_s": waits}

    measure(max(CONCURRENCIES), max(CONCURRENCIES))  # threads, caches and allocations are there
    return [measure(concurrency, max(4, concurrency) * per_request) for concurrency in CONCURRENCIES]


def in_a_process(folder: Path, budget: dict | None, per_request: int) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "PACT_VLLM"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if budget is not None:
        environment["PACT_VLLM"] = json.dumps(budget)
    result = folder / "result.json"
    command = [sys.executable, "-m", "bench.vllm", "--serve", str(folder), str(result), "--each", str(per_request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-4000:] + done.stderr[-4000:])
    return json.loads(result.read_text())


def table(record: dict) -> str:
    """In Markdown, with the quotient of the two."""
    lines = [
        "| concurrency | tokens | requests/s | / whole | first token ms | / whole |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    whole = {entry["concurrency"]: entry for entry in record["runs"][0]["entries"]}
    median = lambda entry: statistics.median(entry["first_token_s"])  # noqa: E731
    for run in record["runs"]:
        budget = run["budget"]
        name = "all" if budget is None else f"{budget['method']} {budget['keep']}"
        for entry in run["entries"]:
            base = whole[entry["concurrency"]]
            rate, wait = entry["requests_per_s"], median(entry)
            quotients = (rate / base["requests_per_s"], wait / median(base))
            cells = (f"{rate:.2f}", f"{quotients[0]:.2f}", f"{1e3 * wait:.0f}", f"{quotients[1]:.2f}")
            lines.append(f"| {entry['concurrency']} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few requests")
    parser.add_argument("--json", type=Path, help="where the record goes")
    parser.add_argument("--each", type=int, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        folder, result = arguments.serve
        Path(result).write_text(json.dumps(serve(folder, arguments.each)))
        return
    from .record import machine_facts

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        each = 1 if arguments.quick else arguments.each
        runs = [{"budget": budget, "entries": in_a_process(Path(folder), budget, each)} for budget in BUDGETS]
    record = {"facts": machine_facts(), "runs": runs}
    print(table(record))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
