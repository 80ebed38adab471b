"""What the loops of the CUDA kernels are made of, read from the machine code: a model of speed, not a measurement.

For every loop, instructions of one warp in one pass through it (those of loops inside it apart): all, and by the unit
that takes them; the regions in which its threads may part; and the unit that would be busy longest. Needs cuobjdump and
nvdisasm (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm).
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).parents[1] / "pact_ext" / "libpact_cuda.so"

KINDS = {
    "tensor": r"[HID]MMA|HGMMA",
    "shared": r"LDS|STS|LDSM|ATOMS",
    "async": r"LDGSTS|UBLKCP",
    "global": r"LDG|STG|LD|ST|ATOM|ATOMG|RED|REDG",
    "local": r"LDL|STL",  # spills
    "special": r"MUFU",
    "double": r"D(ADD|MUL|FMA|SETP|MNMX)",
    "shuffle": r"SHFL",
    "barrier": r"BAR",
    "regions": r"BSSY",
}
"""What a loop is said to have, by opcode."""

LEAVES = ("BRA", "EXIT", "RET", "BRX", "JMP")

LANES = {"special": 4, "double": 16}
"""Of a quarter of a multiprocessor, for the units narrower than a warp (sm_90)."""
TENSOR_PRODUCTS = 512
"""Products that the tensor cores of such a quarter begin in a cycle, with operands of 16 bits (sm_90)."""
SHARED_BYTES = 32
"""Its share of what shared memory hands over in a cycle."""


class Instruction(NamedTuple):
    address: int
    guard: str  # the predicate, or ""
    opcode: str  # with its modifiers
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    def target(self) -> int | None:
        """Where it may go, for a branch. The way out of a shuffle whose warp has parted (BRA.DIV) is never taken."""
        if self.name != "BRA" or self.opcode == "BRA.DIV":
            return None
        return int(re.findall(r"0x([0-9a-f]+)", self.operands)[-1], 16)

    def ends(self) -> bool:
        """Nothing is executed behind it."""
        return self.guard in ("", "@PT") and self.name in LEAVES and self.opcode != "BRA.DIV"


_FUNCTION = re.compile(r"Function : (\w+)")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);", re.M)


def tools() -> dict[str, str] | None:
    """An environment in which cuobjdump and nvdisasm are found, or None."""
    installed = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
    path = os.pathsep.join([str(installed), os.environ.get("PATH", "")])
    found = all(any((Path(p) / tool).exists() for p in path.split(os.pathsep)) for tool in ("cuobjdump", "nvdisasm"))
    return {**os.environ, "PATH": path} if found else None


def disassembled(library: Path, arch: str) -> str:
    """The machine code of an architecture, as sm_90a.

    Raises:
        RuntimeError: the tools are missing, or find nothing of that architecture.
    """
    environment = tools()
    if environment is None:
        raise RuntimeError("cuobjdump and nvdisasm are missing: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    command = ["cuobjdump", "--dump-sass", "--gpu-architecture", arch, str(library)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode or "Function :" not in result.stdout:
        raise RuntimeError(f"no code for {arch} in {library}: {result.stderr.strip() or 'other architectures only'}")
    return result.stdout


def functions(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each kernel, by its mangled name."""
    _, *parts = _FUNCTION.split(text)
    return {
        name: [Instruction(int(a, 16), guard, opcode, rest) for a, guard, opcode, rest in _INSTRUCTION.findall(body)]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def blocks(code: list[Instruction]) -> tuple[dict[int, list[Instruction]], dict[int, list[int]]]:
    """Runs of instructions without a branch into or out of their middle, by address, and which follow which."""
    starts = {code[0].address}
    for one, following in itertools.pairwise(code):
        if one.name in LEAVES:
            starts.add(following.address)
            if one.target() is not None:
                starts.add(one.target())
    runs: dict[int, list[Instruction]] = {}
    for one in code:
        if one.address in starts:
            runs[one.address] = current = []
        current.append(one)
    order = sorted(runs)
    following = dict(itertools.pairwise(order))
    edges = {
        start: [
            *([run[-1].target()] if run[-1].target() in runs else []),
            *([following[start]] if start in following and not run[-1].ends() else []),
        ]
        for start, run in runs.items()
    }
    return runs, edges


def dominators(first: int, edges: dict[int, list[int]]) -> dict[int, set[int]]:
    """Of every block that is reached, those that each way to it goes through."""
    reached, stack = {first}, [first]
    while stack:
        for to in edges[stack.pop()]:
            if to not in reached:
                reached.add(to)
                stack.append(to)
    before: dict[int, list[int]] = {block: [] for block in reached}
    for block in reached:
        for to in edges[block]:
            before[to].append(block)
    found = {block: set(reached) for block in reached}
    found[first] = {first}
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {first}):
            new = set.intersection(*(found[one] for one in before[block])) | {block}
            changed |= new != found[block]
            found[block] = new
    return found


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each natural loop, in the order of their heads, without those of the loops inside it."""
    runs, edges = blocks(code)
    over = dominators(code[0].address, edges)
    bodies: dict[int, set[int]] = {}
    for block in over:
        for head in edges[block]:
            if head not in over[block]:
                continue
            body, stack = bodies.setdefault(head, {head}), [block]
            while stack:
                one = stack.pop()
                if one not in body:
                    body.add(one)
                    stack += [other for other in over if one in edges[other]]
    found = []
    for head, body in sorted(bodies.items()):
        inside = set().union(*(other for at, other in bodies.items() if at != head and at in body))
        found.append([one for block in sorted(body - inside) for one in runs[block]])
    return found


def shared_bytes(one: Instruction) -> int:
    """That a warp moves between registers and shared memory."""
    if one.name == "LDSM":
        return 512 if ".4" in one.opcode else 256 if ".2" in one.opcode else 128
    width = re.search(r"\.(64|128)\b", one.opcode)
    return 32 * (int(width[1]) // 8 if width else 4)


def products(one: Instruction) -> int:
    """Multiply-adds of a warp's instruction on tensor cores: of a warpgroup's, its quarter."""
    of_group = re.search(r"\.64x(\d+)x16\b", one.opcode)
    if of_group:
        return 16 * int(of_group[1]) * 16
    shape = re.search(r"\.(\d+)", one.opcode)[1]
    m, n, k = {"16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4)}[shape]
    return m * n * k * (2 if "TF32" in one.opcode else 1)  # half the speed


def counts(code: list[Instruction]) -> dict[str, int]:
    """Of a loop: all its instructions, and those of each kind that it has."""
    found = {kind: sum(bool(re.fullmatch(names, one.name)) for one in code) for kind, names in KINDS.items()}
    return {"instructions": len(code), **{kind: count for kind, count in found.items() if count}}


def bound(code: list[Instruction]) -> tuple[str, int]:
    """Which unit of a quarter of a multiprocessor a pass keeps busy longest, and for how many cycles."""
    own = counts(code)
    cycles = {
        "issue": len(code),
        "tensor": sum(products(one) for one in code if re.fullmatch(KINDS["tensor"], one.name)) / TENSOR_PRODUCTS,
        "shared": sum(shared_bytes(one) for one in code if re.fullmatch(KINDS["shared"], one.name)) / SHARED_BYTES,
        **{kind: own.get(kind, 0) * 32 / lanes for kind, lanes in LANES.items()},
    }
    unit = max(cycles, key=cycles.get)
    return unit, round(cycles[unit])


def kernel_name(mangled: str) -> str:
    """``pact::device::density_kernel<bfloat16, true>`` and the like: no return type, no parameters."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\((?:int|unsigned int|bool|pact::\w+)\)(\w+)", r"\1", name)  # casts of template arguments
    name = re.sub(r"^void ", "", name)
    return name[: name.rindex("(")] if name.endswith(")") else name


def table(library: Path, arch: str) -> dict[str, list[dict]]:
    """Every kernel's loops, kernels in alphabetical order: `counts`, and `bound` as "unit cycles"."""
    found = {}
    for mangled, code in functions(disassembled(library, arch)).items():
        found[kernel_name(mangled)] = [{**counts(loop), "bound": "{} {}".format(*bound(loop))} for loop in loops(code)]
    return dict(sorted(found.items()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sass", description=__doc__.split("\n", 1)[0])
    parser.add_argument("library", type=Path, nargs="?", default=LIBRARY, help="(default: the one in pact_ext)")
    parser.add_argument("--arch", default="sm_90a", help="(default: sm_90a, whose units the bound is about)")
    parser.add_argument("--kernel", default="", metavar="TEXT", help="only kernels whose name holds it")
    given = parser.parse_args(argv)
    try:
        found = table(given.library, given.arch)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for name, rows in found.items():
        if given.kernel in name:
            print(name)
            for row in rows:
                print("   ", "  ".join(f"{kind} {value}" for kind, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
