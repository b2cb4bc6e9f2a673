"""Compiled kernels: built once, never from a place others can write to, and never missed where there is no compiler."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evonas import native


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache and a folder with one small source."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "twice.c").write_text("// flags: -DFACTOR=2\nint twice(int x) { return FACTOR * x; }\n")
    (sources / "wrong.c").write_text("int wrong(int x) { return x\n")
    monkeypatch.setattr(native, "KERNELS", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EVONAS_COMPILER", raising=False)
    for cached in (native.library, native._compiler):
        cached.cache_clear()
    yield tmp_path / "cache" / "evonas" / "kernels"
    for cached in (native.library, native._compiler):
        cached.cache_clear()


needs_compiler = pytest.mark.skipif(native._compiler() is None, reason="no C compiler on this machine")


@needs_compiler
def test_a_source_is_built_with_its_own_flags_and_kept(fresh: Path) -> None:
    built = native.library("twice")
    assert built is not None and built.twice(21) == 42
    (kept,) = fresh.glob("twice-*")
    before = kept.stat().st_mtime_ns
    native.library.cache_clear()
    again = native.library("twice")
    assert again is not None and again.twice(4) == 8
    assert kept.stat().st_mtime_ns == before and len(list(fresh.iterdir())) == 1


@needs_compiler
def test_a_changed_source_is_built_anew(fresh: Path) -> None:
    native.library("twice")
    (native.KERNELS / "twice.c").write_text("int twice(int x) { return x + x + 1; }\n")
    native.library.cache_clear()
    changed = native.library("twice")
    assert changed is not None and changed.twice(4) == 9


@needs_compiler
def test_a_source_that_does_not_compile_is_told_and_done_without(fresh: Path) -> None:
    with pytest.warns(native.NativeWarning, match=r"wrong kernels could not be built .*a slower way is taken"):
        assert native.library("wrong") is None


@needs_compiler
def test_the_kernels_of_a_run_are_built_with_the_first_of_them(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (native.KERNELS / "thrice.c").write_text("int thrice(int x) { return 3 * x; }\n")
    (native.KERNELS / "other.c").write_text("int other(int x) { return x; }\n")
    monkeypatch.setattr(native, "RUN", ("thrice", "twice", "wrong"))
    built = native.library("twice")
    assert built is not None and built.twice(21) == 42, "one that cannot be built does not stop the others"
    assert {made.name.partition("-")[0] for made in fresh.iterdir()} == {"twice", "thrice"}


def test_every_kernel_of_a_run_has_a_source() -> None:
    assert {f"{name}.c" for name in native.RUN} <= {source.name for source in native.KERNELS.glob("*.c")}


def test_no_compiler_is_no_error(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVONAS_COMPILER", "none")
    assert native.library("twice") is None


@needs_compiler
@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_nothing_is_run_from_a_folder_that_others_can_write_to(fresh: Path) -> None:
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    with pytest.warns(native.NativeWarning, match="can be written by others: chmod 700 it"):
        assert native.library("twice") is None
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o777


@pytest.mark.parametrize(("count", "threads", "grain"), [(0, 2, 16), (5, 4, 16), (100, 3, 7), (1000, 2, 1)])
def test_split_covers_every_item_once(count: int, threads: int, grain: int) -> None:
    seen, lock = [0] * count, threading.Lock()

    def work(first: int, last: int) -> None:
        with lock:
            for i in range(first, last):
                seen[i] += 1

    native.split(work, count, threads, grain)
    assert seen == [1] * count


def test_what_a_piece_raises_is_raised() -> None:
    def work(first: int, last: int) -> None:
        if first > 0:
            raise ValueError(f"piece {first}")

    with pytest.raises(ValueError, match="piece"):
        native.split(work, 100, 2, 1)
