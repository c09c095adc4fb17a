"""scripts/cuda_report.py on a little of nvcc's output: no nvcc is run."""

from __future__ import annotations

import pytest

from scripts.cuda_report import (
    MULTIPROCESSORS,
    Kernel,
    parse_bounds,
    parse_report,
    resident_blocks,
    setup_constant,
    short_name,
    spilling,
)

BLEND = "_ZN5splat4cuda3fooILNS_5BlendE0ELi3EEEvNS_15RasterizeParamsE"
TOP = "_ZN5splat4cuda9top_tilesENS_15RasterizeParamsE"
CUB = "_ZN3cub17CUB_300001_SM_9006detail4scan16DeviceScanKernelEv"

REPORT = f"""\
ptxas info    : 29 bytes gmem
ptxas info    : Compiling entry function '{BLEND}' for 'sm_90'
ptxas info    : Function properties for {BLEND}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 8192 bytes smem
ptxas info    : Compile time = 29.914 ms
ptxas info    : Compiling entry function '{TOP}' for 'sm_90'
ptxas info    : Function properties for {TOP}
    528 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 528 bytes cumulative stack size, 592 bytes cmem[0]
ptxas info    : Compile time = 8.029 ms
ptxas info    : Function properties for _ZN5splat6calledEv
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function '{CUB}' for 'sm_90'
ptxas info    : Function properties for {CUB}
    8 bytes stack frame, 100 bytes spill stores, 200 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 21520 bytes smem
"""

PTX = """\
.visible .entry one(
\t.param .align 8 .b8 one_param_0[184]
)
.maxntid 16, 8, 2
.minnctapersm 4
{
\t.reg .b32 \t%r<3>;
}
.visible .entry two()
{
\tret;
}
"""


def test_kernels_are_read_from_the_report() -> None:
    assert parse_report(REPORT) == [
        Kernel(BLEND, registers=48, shared=8192, stack=0, spill_stores=0, spill_loads=0),
        Kernel(TOP, registers=32, shared=0, stack=544, spill_stores=16, spill_loads=24),  # with what it calls
        Kernel(CUB, registers=255, shared=21520, stack=8, spill_stores=100, spill_loads=200),
    ]


def test_a_report_in_other_words_is_an_error() -> None:
    with pytest.raises(ValueError, match=BLEND):
        parse_report(REPORT.replace("registers", "regs"))


def test_bounds_are_read_from_the_ptx() -> None:
    assert parse_bounds(PTX) == {"one": 256, "two": None}


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        (
            "void splat::cuda::(anonymous namespace)::f<(splat::Blend)2, 3, true>(splat::P, float const*)",
            "f<topk, 3, true>",
        ),
        ("splat::cuda::(anonymous namespace)::g(splat::ShParams<float>, float*)", "g"),
        ("void cub::CUB_3::scan::K<cub::Hub<long>, (cub::SortOrder)0>(long)", "K<Hub<long>, (SortOrder)0>"),
    ],
)
def test_names_are_short(demangled: str, name: str) -> None:
    assert short_name(demangled) == name


def test_only_spills_of_ours_fail_the_check() -> None:
    blend, top, cub = parse_report(REPORT)
    blend.name, top.name, cub.name = "foo<alpha, 3>", "top_tiles", "cub: DeviceScanKernel"
    assert spilling([blend, top, cub]) == [top]
    top.spill_stores, top.spill_loads, blend.spill_loads = 0, 0, 4
    assert spilling([blend, top, cub]) == [blend]


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "blocks"),
    # as cuda_occupancy.h has it
    [
        ("90", 32, 8192, 256, (8, "threads")),
        ("90", 33, 8192, 256, (6, "registers")),
        ("90", 255, 0, 512, (0, "registers")),
        ("90", 16, 48128, 32, (4, "shared")),
        ("86", 16, 0, 32, (16, "blocks")),
        ("120", 16, 20000, 96, (4, "shared")),
    ],
)
def test_blocks_on_an_sm(arch: str, registers: int, shared: int, threads: int, blocks: tuple[int, str]) -> None:
    kernel = Kernel("k", registers, shared, 0, 0, 0, threads)
    assert resident_blocks(kernel, MULTIPROCESSORS[arch]) == blocks


def test_the_flags_are_setups() -> None:
    assert "-Icuda_ext/include" in setup_constant("NVCC_FLAGS")
