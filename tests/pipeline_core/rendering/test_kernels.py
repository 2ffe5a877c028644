"""The ground the kernels stand on: lanes, the thread pool, the cache of machine code, the warm-up."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

from pipeline_core.errors import RequestError
from pipeline_core.rendering import jit, pool, warmup
from pipeline_core.rendering.lanes import (
    absolute,
    bits,
    deinterleave1,
    deinterleave3,
    deinterleave4,
    exp2,
    exp2_by_255,
    fma,
    gather_sums,
    interleave,
    load,
    lowest_bit,
    maximum,
    minimum,
    root,
    select,
    splat,
    store,
)


@numba.njit
def _exp2_all(x, out):
    for k in range(0, x.shape[0], 16):
        store(out, k, exp2(load(x, k)))


@numba.njit
def _exp2_by_255_all(x, out):
    for k in range(0, x.shape[0], 16):
        store(out, k, exp2_by_255(load(x, k)))


@numba.njit
def _arithmetic(x, out):
    a, b = load(x, 0), load(x, 16)
    store(out, 0, fma(a, b, 1.0) - a / b)
    store(out, 16, select((a < b) & (a > 0.25), minimum(a, b), maximum(a, 2.0 * b)))
    store(out, 32, gather_sums((a, b, absolute(splat(0.0) - a), a * b, root(a)), (a + b, a, b)))
    return bits(a >= b)


@numba.njit
def _turn_blocks(one, three, four, out):
    """Each 4 x 4 block of three pictures 8 pixels wide into the next."""
    for k in range(4):
        at, to = k // 2 * 32 + k % 2 * 4, (k + 1) % 4 // 2 * 32 + (k + 1) % 4 % 2 * 4
        interleave(out, to, 8, deinterleave1(one, at, 8))
        interleave(out, 64 + to * 3, 24, deinterleave3(three, at * 3, 24))
        interleave(out, 256 + to * 4, 32, deinterleave4(four, at * 4, 32))


@numba.njit
def _lowest(n):
    return lowest_bit(n)


def test_exp2_to_float32_precision() -> None:
    x = np.linspace(-126, 126, 160_000, dtype=np.float32)
    out = np.empty_like(x)
    _exp2_all(x, out)
    assert np.abs(out / 2.0 ** x.astype(np.float64) - 1).max() < 2.5e-7


def test_exp2_by_255_is_precise_enough_for_opacities() -> None:
    x = np.linspace(0, 126, 160_000, dtype=np.float32)
    out = np.empty_like(x)
    _exp2_by_255_all(x, out)
    assert np.abs(out * 255 / 2.0 ** x.astype(np.float64) - 1).max() < 6e-7


def test_arithmetic_of_lanes_is_numpys() -> None:
    x = np.random.default_rng(0).random(32).astype(np.float32)
    out = np.empty(48, dtype=np.float32)
    got = _arithmetic(x, out)
    a, b = x[:16], x[16:]
    assert np.allclose(out[:16], a * b + 1 - a / b, rtol=1e-6, atol=1e-6)
    assert np.array_equal(out[16:32], np.where((a < b) & (a > 0.25), np.minimum(a, b), np.maximum(a, 2 * b)))
    for base, parts in ((32, (a, b, a, a * b, np.sqrt(a))), (40, (a + b, a, b))):
        assert np.allclose(out[base : base + len(parts)], [v.sum(dtype=np.float64) for v in parts], rtol=1e-6)
    assert got == sum(1 << k for k in range(16) if a[k] >= b[k])
    assert [_lowest(n) for n in (1, 8, 1 << 40, 12)] == [0, 3, 40, 2]


def test_blocks_of_pictures() -> None:
    """Pixels of 1, 3 and 4 channels: out of one picture, into another, three quarters of it swapped about."""
    pictures = [np.random.default_rng(0).random((8, 8, c), dtype=np.float32) for c in (1, 3, 4)]
    out = np.empty(512, dtype=np.float32)
    _turn_blocks(*(p.reshape(-1) for p in pictures), out)
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    for picture, got in zip(pictures, np.split(out, [64, 256]), strict=True):
        got = got.reshape(picture.shape)
        for (y, x), (v, u) in zip(corners, corners[1:] + corners[:1], strict=True):
            assert np.array_equal(got[v : v + 4, u : u + 4], picture[y : y + 4, x : x + 4])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for x86 registers")
def test_lanes_become_vector_registers() -> None:
    """Vectorisation that fails does so silently, at a fifth of the speed."""
    _exp2_all(np.zeros(16, np.float32), np.zeros(16, np.float32))
    assembly = next(iter(_exp2_all.inspect_asm().values()))
    assert re.search(r"v?f?m(add|ul)\w*ps\s", assembly)
    assert not re.search(r"call\w*\s+\S*(exp|fma)", assembly)


def test_thread_count_comes_from_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATMILL_THREADS", "3")
    assert pool.thread_count() == 3
    monkeypatch.delenv("SPLATMILL_THREADS")
    assert pool.thread_count() >= 1
    monkeypatch.setenv("SPLATMILL_THREADS", "many")
    with pytest.raises(RequestError, match="SPLATMILL_THREADS='many'"):
        pool.thread_count()


def test_every_part_is_done_once_also_by_many_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATMILL_THREADS", "4")
    counts = np.zeros((8, 4), dtype=int)

    def call(caller: int) -> None:
        for _ in range(50):
            pool.parallel(lambda part, parts: counts.__setitem__((caller, part), counts[caller, part] + 1))

    callers = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert (counts == 50).all()


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_in_any_part_is_raised(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATMILL_THREADS", "3")

    def work(part: int, parts: int) -> None:
        if part == bad:
            raise RuntimeError(f"part {part} of {parts}")

    with pytest.raises(RuntimeError, match=f"part {bad} of 3"):
        pool.parallel(work)


def test_cache_goes_where_it_is_told_and_elsewhere_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))
    assert jit.cache_folder.__wrapped__().parent == tmp_path / "chosen"
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert jit.cache_folder.__wrapped__() is None


def test_kernels_run_when_nothing_can_be_written(tmp_path: Path) -> None:
    """A file in place of every folder: even root cannot write there."""
    (tmp_path / "file").touch()
    program = "import numpy as np\nfrom pipeline_core.rendering.jit import kernel, cache_folder\n"
    program += "@kernel\ndef f(x):\n    return x + 1\nassert cache_folder() is None and f(1) == 2\n"
    (tmp_path / "program.py").write_text(program)
    root = Path(jit.__file__).parents[2]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file"), "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, str(tmp_path / "program.py")], env=environment, check=True)


def test_warmup_says_where_the_machine_code_is() -> None:
    assert warmup.warmup() == str(jit.cache_folder())
