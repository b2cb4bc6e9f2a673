"""Ray clusters of this machine for tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import psutil
import pytest

HAS_RAY = find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs ray: pip install 'evonas[ray]'")
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")


def kinds(table: Any) -> list[Any]:
    """The kinds of pools as parameters; `ray`, whose workers load torch anew, is slow, and skipped where it is not
    installed."""
    return [pytest.param(kind, marks=[needs_ray, pytest.mark.slow] if kind == "ray" else ()) for kind in table]


@contextmanager
def joined(address: str | None = None) -> Iterator[None]:
    """This process as the driver of a cluster, by default one of two CPUs that ends with it."""
    import ray

    from evonas.cluster import connect
    from evonas.pool import RaySettings

    assert connect(RaySettings(address=address, workers=2), 1.0)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def nodes(*cpus: int) -> Iterator[Any]:
    """A cluster of several nodes, the first of which is its head and holds no estimate; this process drives it."""
    import ray
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    built = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], **SMALL})
    try:
        for count in cpus[1:]:
            built.add_node(num_cpus=count, **SMALL)
        with joined(built.address):
            yield built
    finally:
        ray.shutdown()
        built.shutdown()


def seats(busy: bool = False) -> list[psutil.Process]:
    """The seats of this machine's clusters, of this process's children and theirs; `busy` ones only."""
    name = "ray::Seat.estimate" if busy else "ray::Seat"
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            found += [one] if " ".join(one.cmdline()).startswith(name) else []
        except psutil.NoSuchProcess:
            continue
    return found
