"""Compiled kernels: C sources of this package, built once per machine by the user's own compiler and called by ctypes.

There is always another way where no compiler is: whoever calls `library` handles None. Set EVONAS_COMPILER to a
compiler's path to choose one, or to `none` to use no compiled kernels."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"
FLAGS = ("-O3", "-march=native", "-std=c11", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-w")
MARK = "// flags:"
"""A source's first line may add flags of its own after this mark, such as -ffp-contract=off."""

RUN = ("breeding", "pack", "poles")
"""Kernels that a run of direct genomes asks for at its start: they are compiled side by side. What evaluates networks
on given inputs, `tiles` and `slices`, waits until it is asked for: few runs need both, and poles neither."""

BUILD_SECONDS = 120.0


class NativeWarning(UserWarning):
    """A compiler that is there and cannot build a kernel: slower ways are taken."""


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The kernels of `kernels/<name>.c`, built when first asked for (about a second) and kept in the user's cache.

    None where there is no compiler, where it fails (a NativeWarning says how), or with EVONAS_COMPILER=none."""
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        built = _target(name, compiler)
        if not built.exists():
            _build_together(name, compiler)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
        why = said[0][:200] if said else f"{type(error).__name__}: {error}"
        warnings.warn(f"{name} kernels could not be built ({why}); a slower way is taken", NativeWarning, stacklevel=2)
        return None


@cache
def _compiler() -> tuple[str, ...] | None:
    chosen = os.environ.get("EVONAS_COMPILER", "")
    if chosen == "none":
        return None
    candidates = [shlex.split(one) for one in (chosen, os.environ.get("CC", "")) if one] + [["cc"], ["gcc"], ["clang"]]
    for first, *rest in candidates:
        if found := shutil.which(first):
            return (found, *rest)
    return None


def _own_flags(source: Path) -> list[str]:
    first = source.read_text(encoding="utf-8").partition("\n")[0]
    return shlex.split(first.removeprefix(MARK)) if first.startswith(MARK) else []


def _fingerprint(source: Path, command: list[str]) -> str:
    """Names a build by what decides it: sources, command, compiler, and the processor that -march=native means."""
    compiler = Path(command[0]).resolve()
    decided = hashlib.blake2b(digest_size=12)
    for path in sorted((source, *KERNELS.glob("*.h"))):
        decided.update(path.read_bytes())
    facts = (*command, str(compiler), compiler.stat().st_mtime_ns, platform.machine(), sys.platform, _processor())
    decided.update(repr(facts).encode())
    return decided.hexdigest()


@cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def _cache() -> Path:
    """A folder that only its user can write to: what lies there is executed."""
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    folder = (Path(base) if base else Path.home() / ".cache") / "evonas" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{folder} can be written by others: chmod 700 it")
    return folder


def _command(name: str, compiler: tuple[str, ...]) -> list[str]:
    return [*compiler, *FLAGS, *_own_flags(KERNELS / f"{name}.c")]


def _target(name: str, compiler: tuple[str, ...]) -> Path:
    """Where a build lies or is to lie."""
    fingerprint = _fingerprint(KERNELS / f"{name}.c", _command(name, compiler))
    return _cache() / f"{name}-{fingerprint}{'.dll' if os.name == 'nt' else '.so'}"


def _build_together(name: str, compiler: tuple[str, ...]) -> None:
    """Builds a kernel and, at the same time, the others that a run will ask for next."""
    others = [one for one in RUN if one != name] if name in RUN else []
    missing = [other for other in others if not _target(other, compiler).exists()]
    with ThreadPoolExecutor(1 + len(RUN)) as pool:
        own, *_ = [pool.submit(_build, one, compiler) for one in (name, *missing)]
    own.result()


def _build(name: str, compiler: tuple[str, ...]) -> None:
    """Compiles beside the target and renames, so that two processes building at once cannot disturb each other."""
    target = _target(name, compiler)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        call = [*_command(name, compiler), str(KERNELS / f"{name}.c"), "-o", str(made), "-lm"]
        subprocess.run(call, check=True, capture_output=True, timeout=BUILD_SECONDS)
        os.replace(made, target)


# ------------------------------------------------------------------------------------------------------------ threads


def cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="evonas-kernel")


def split(work: Callable[[int, int], object], count: int, threads: int, grain: int = 16) -> None:
    """Calls `work(first, last)` over [0, count) in `threads` threads; a kernel called by ctypes lets the others run.

    What each item becomes must not depend on the division. At least `grain` items go to a thread."""
    parts = max(1, min(threads, count // grain))
    if parts == 1:
        work(0, count)
        return
    # several pieces per thread: genomes differ in size, and a thread that is done takes the next piece
    pieces = min(parts * 4, count // grain)
    edges = [count * i // pieces for i in range(pieces + 1)]
    for done in [_threads(parts).submit(work, a, b) for a, b in pairwise(edges)]:
        done.result()
