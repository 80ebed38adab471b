"""Loops, read from machine code: on code that was written here, line by line as cuobjdump prints it."""

from bench import sass


def listing(*lines, name="_ZN4pact4loopEv"):
    """Instructions at addresses 0x10 apart; the second line of each, its encoding, as cuobjdump has it."""
    rows = [
        f"        /*{16 * i:04x}*/                   {line} ;   /* 0x1 */\n      /* 0x2 */"
        for i, line in enumerate(lines)
    ]
    return "\n".join([f"\t\tFunction : {name}", '\t.headerflags\t@"EF_CUDA_SM90"', *rows]) + "\n"


def loops(*lines):
    (code,) = sass.functions(listing(*lines)).values()
    return [sass.counts(loop) for loop in sass.loops(code)]


def test_a_loop_within_a_loop_is_counted_apart():
    found = loops(
        "MOV R0, RZ",
        "LDG.E R1, [R2.64]",  # 0x10, the outer one's head
        "FFMA R3, R1, R1, R3",  # 0x20, the inner one's
        "LDS.128 R4, [R0]",
        "@P0 BRA 0x20",
        "STS [R0], R3",
        "@!P1 BRA 0x10",
        "EXIT",
        "BRA 0x80",  # what fills the end
        "NOP",
    )
    assert found == [{"instructions": 3, "shared": 1, "global": 1}, {"instructions": 3, "shared": 1}]


def test_branches_around_and_calls_are_no_loops():
    assert loops("@P0 BRA 0x30", "FADD R0, R0, R0", "CALL.REL.NOINC 0x50", "BRA 0x40", "EXIT", "RET.REL R8 0x0") == []


def test_what_lies_behind_is_in_the_loop_it_returns_to_unless_the_warp_must_have_parted():
    behind = ("@P1 BRA 0x50", "FADD R0, R0, R0", "BSYNC B0", "@P0 BRA 0x0", "EXIT", "MUFU.EX2 R1, R1", "BRA 0x10")
    assert loops(*behind) == [{"instructions": 6, "special": 1}]
    parted = ("BRA.DIV UR4, 0x50", "SHFL.BFLY PT, R2, R2, 0x1", "NOP", "@P0 BRA 0x0", "EXIT", "WARPSYNC R1", "BRA 0x10")
    assert loops(*parted) == [{"instructions": 4, "shuffle": 1}]


def test_regions_and_the_rest_are_told_by_opcode():
    (found,) = loops(
        *("BSSY B0, 0x30", "LDGSTS.E.BYPASS.128 [R0], [R2.64]", "HMMA.16816.F32.BF16 R0, R4, R6, R0", "BSYNC B0"),
        *(
            "LDSM.16.M88.4 R4, [R1]",
            "DFMA R2, R2, R2, R2",
            "STL [R1], R0",
            "BAR.SYNC.DEFER_BLOCKING 0x0",
            "@P0 BRA 0x0",
        ),
    )
    of_each = ("tensor", "shared", "async", "local", "double", "barrier", "regions")
    assert found == {"instructions": 9, **dict.fromkeys(of_each, 1)}


def test_the_busiest_unit():
    def bound(*lines):
        (code,) = sass.functions(listing(*lines)).values()
        return sass.bound(code)

    products = ["HMMA.16816.F32.BF16 R0, R4, R6, R0"] * 4  # 2,048 products each
    assert bound(*products) == ("tensor", 16)
    assert bound("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0") == ("tensor", 64)  # a warp's 16 of the 64 rows
    assert bound(*products, "LDSM.16.M88.4 R4, [R1]", "LDS.64 R4, [R1]") == ("shared", 16 + 8)
    assert bound("MUFU.EX2 R0, R0", "FADD R0, R0, R0") == ("special", 8)
    assert bound(*["FADD R0, R0, R0"] * 9, "MUFU.EX2 R0, R0") == ("issue", 10)


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sass, "tools", lambda: None)
    assert sass.main([str(tmp_path)]) == 1
    assert "pip install nvidia-cuda-cuobjdump" in capsys.readouterr().err
