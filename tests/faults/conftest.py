"""What the fault tests share: the nursery that their drivers are forked from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.nursery import Nursery


@pytest.fixture(scope="session")
def _started() -> Iterator[Nursery]:
    """One for all tests."""
    with Nursery() as started:
        yield started


@pytest.fixture
def nursery(_started: Nursery) -> Iterator[Nursery]:
    """The nursery; a test that failed leaves no process in it."""
    yield _started
    _started.emptied()


@pytest.fixture(autouse=True)
def _code_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimators of these tests are files that they write themselves."""
    monkeypatch.setenv("EVONAS_ALLOW_CODE", "1")
