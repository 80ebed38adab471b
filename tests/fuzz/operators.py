"""One call of an operator, judged: a refusal where the contract wants one, in its words and on meta tensors alike; else
a right answer, with the same bits in every surrounding."""

from __future__ import annotations

import contextlib
import re

import torch
from conftest import BACKENDS
from emulator import operators as emulated
from torch import Tensor

from fuzz import answers, calls, contract, tensors
from fuzz.calls import Call
from pact_ext import _library, ops

ON_DATA = ("dbdpc", "reduce", "dbdpc_packed", "reduce_packed", "reduce_to_packed")
TOO_LARGE = "the importance scores must be finite, got NaN or Inf: the inputs are too large"


def backends() -> list[str]:
    """Those of conftest.py, each instruction set twice, so that the slow emulator is not most of the time."""
    names = [backend.name for backend in BACKENDS]
    return [name for name in names for _ in range(2 if name.startswith("cpu-") else 1)]


@contextlib.contextmanager
def surroundings(backend: str, threads: int):
    """A backend, a number of threads, and every new tensor filled with what nobody could take for an answer."""
    before = ops._ops, _library.cpu_info()["isa"], torch.get_num_threads()
    ops._ops = emulated.load() if backend == "emulated" else torch.ops.pact
    if backend.startswith("cpu-"):
        _library.use_cpu_isa(backend.removeprefix("cpu-"))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)  # with it goes torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        ops._ops = before[0]
        _library.use_cpu_isa(before[1])
        torch.set_num_threads(before[2])


def results(call: Call, arguments: dict, flush: bool = False) -> tuple[Tensor, ...]:
    torch.set_flush_denormal(flush)
    try:
        found = getattr(ops, call.op)(**arguments)
    finally:
        torch.set_flush_denormal(False)
    return found if isinstance(found, tuple) else (found,)


def bits(x: Tensor) -> Tensor:
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def same_bits(some: tuple[Tensor, ...], others: tuple[Tensor, ...], where: str) -> None:
    for i, (a, b) in enumerate(zip(some, others, strict=True)):
        assert a.shape == b.shape, f"result {i} has another shape {where}"
        assert torch.equal(bits(a), bits(b)), f"result {i} has other bits {where}"


def on_meta(call: Call) -> dict | None:
    """The arguments without data; None where one is no tensor that could be moved."""
    given = {name: x for name, x in call.arguments.items() if isinstance(x, Tensor)}
    if not all(x.layout == torch.strided and not x.is_quantized for x in given.values()):
        return None
    if len({x.device for name, x in given.items() if name not in calls.ON_HOST or not x.is_cpu}) > 1:
        return None
    return {name: x.to("meta") if isinstance(x, Tensor) else x for name, x in call.arguments.items()}


def refusal(call: Call, arguments: dict) -> str:
    """The text of the error, which is one of the operator."""
    try:
        results(call, arguments, call.flush)
    except RuntimeError as error:
        kind, text = type(error), str(error)
    else:
        raise AssertionError("no error")
    assert kind is RuntimeError, f"{kind.__name__}: {text}"
    assert text.startswith(f"pact::{call.op}: "), f"an error that does not say which operator: {text}"
    return text.removeprefix(f"pact::{call.op}: ")


def check_refused(call: Call, bad: set[str]) -> str:
    text = refusal(call, call.arguments)
    said = re.fullmatch(r"(\w+) must .*, got (.*?)( among its values)?", text)
    assert said, f"an error of another form: {text}"
    assert said[1] in bad, f"the fault is in {sorted(bad)}, the error says {text}"
    assert contract.describes(said[2], call.arguments[said[1]]), f"not what was given: {text}"
    return text


def check_valid(call: Call) -> None:
    arguments = call.arguments
    copies = {name: tensors.plain(x) if isinstance(x, Tensor) else x for name, x in arguments.items()}
    found = results(call, arguments, call.flush)
    given = {x.untyped_storage().data_ptr() for x in arguments.values() if isinstance(x, Tensor) and x.numel()}
    assert not given & {x.untyped_storage().data_ptr() for x in found}, "a result shares an argument's memory"
    same_bits(found, results(call, arguments, call.flush), "at a second run")
    same_bits(found, results(call, arguments, not call.flush), "with subnormal numbers flushed")
    same_bits(found, results(call, copies), "of contiguous tensors")
    with surroundings(call.backend, 1 + call.threads % 3):
        same_bits(found, results(call, copies), "on another number of threads")
    for name, x in copies.items():
        if isinstance(x, Tensor):
            same_bits((tensors.plain(arguments[name]),), (x,), f"in {name} after the call")
    answers.check_shapes(call, *found)
    if not contract.faults_in_data(call):
        answers.CHECKS[call.op](Call(call.op, copies, call.backend, call.threads, False), *found)
    if call.backend in ("cpu-avx2", "cpu-avx512") and len({"cpu-avx2", "cpu-avx512"} & set(backends())) == 2:
        with surroundings({"cpu-avx2": "cpu-avx512"}.get(call.backend, "cpu-avx2"), call.threads):
            same_bits(found, results(call, copies), "on another instruction set")


def check_without_data(call: Call, bad: set[str], text: str | None) -> None:
    """Tensors on meta are refused in the same words, and else give results of the same shapes."""
    arguments = on_meta(call)
    if arguments is None:
        return
    with surroundings("meta", call.threads):
        if bad:
            assert refusal(call, arguments) == text, "another error for tensors without data"
        elif call.op not in ON_DATA:  # whose shapes only the data tells
            answers.check_shapes(Call(call.op, arguments, "meta", 1, False), *results(call, arguments))


def judge(call: Call) -> str:
    """What became of it, in a word. Raises AssertionError."""
    with surroundings(call.backend, call.threads):
        bad = contract.visible_faults(call)
        text = check_refused(call, bad) if bad else None
        check_without_data(call, bad, text)
        if bad:
            return "refused"
        if any(isinstance(x, Tensor) and x.is_meta for x in call.arguments.values()):
            return "without data"
        bad = contract.faults_in_numbers(call)
        if bad:
            check_refused(call, bad)
            return "refused for its numbers"
        bad = contract.faults_in_data(call)
        if bad and call.sees_data:
            check_refused(call, bad)
            return "refused for its data"
        if not bad and call.alone in ("euti_scores", "reduce", "reduce_to"):
            overflow = contract.scores_overflow(call)
            if overflow and call.sees_data:
                assert refusal(call, call.arguments) == TOO_LARGE
                return "refused for its data"
            if overflow is None or overflow:
                return "in doubt"
        check_valid(call)
        return "answered"


def prepare() -> None:
    if "emulated" in backends():
        emulated.load()


def draw(seed: int) -> Call:
    return calls.draw(seed, backends())
