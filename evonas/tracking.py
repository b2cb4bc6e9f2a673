"""Trackers: a run's numbers handed on to TensorBoard or MLflow while it goes on, where a recipe asks for it.

A tracker only reads what was committed, so it decides nothing. It runs in a thread of its own: a server that is slow
or down never holds up a run, and a failure is told once. On a resume it asks for the last step that is there, and goes
on behind it: no point comes twice, none is left out."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import queue
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from evonas.core import Settings, dumps

__all__ = ["Ending", "Identity", "TrackerSettings", "Trackers", "key_of", "scalars"]

EVERY = 1.0
"""Seconds between two looks for new generations; the last look is at the end."""

PATIENCE = 20.0
"""Seconds that the end of a run waits for a tracker to write the rest."""


class TrackerSettings(Settings):
    """A tracker that a run's numbers are handed on to."""

    kind: Literal["tensorboard", "mlflow"]
    """tensorboard (needs evonas[tensorboard]) or mlflow (needs evonas[mlflow])."""
    to: str | None = Field(default=None, min_length=1)
    """Where to write. tensorboard: a folder, by default `tensorboard` in the run's own. mlflow: a tracking URI, by
    default what MLFLOW_TRACKING_URI says."""
    experiment: str = Field(default="evonas", min_length=1, max_length=200)
    """For mlflow: the experiment that holds the run."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _without_password(self) -> TrackerSettings:
        if self.kind == "mlflow" and self.to and urlsplit(self.to).password:
            raise ValueError("a password does not belong in a recipe: set MLFLOW_TRACKING_PASSWORD")
        return self


@dataclass(frozen=True)
class Identity:
    """Which run it is, to find it again on a resume, and what a tracker shows of it."""

    name: str
    folder: Path
    key: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """What a run came to: its front as Markdown and CSV, and a picture of it as a PNG."""

    generation: int
    markdown: str
    csv: str
    picture: bytes


class Writer(Protocol):
    """One tracker's own words. Every method may raise anything: the run goes on."""

    def last(self) -> int: ...
    def write(self, generation: int, when: float, values: Mapping[str, float]) -> None: ...
    def end(self, ending: Ending) -> None: ...
    def close(self) -> None: ...


Point = tuple[int, float, dict[str, float]]
"""A generation: its number, when it ended, and its values by name."""


def scalars(rows: Sequence[Mapping[str, Any]], fronts: Mapping[int, Sequence[int]]) -> list[Point]:
    """What is handed on of every generation: the front's hypervolume and size, the best of every objective,
    evaluations, failures and species; what the run cost so far in seconds and, where that is known, samples."""
    found: list[Point] = []
    seconds, samples, failures = 0.0, 0.0, 0
    for row in rows:
        seconds += row["seconds"] or 0.0
        failures += row["failed"]
        samples += row.get("inheritance", {}).get("samples", 0.0)
        values = {
            "front/hypervolume": row["hypervolume"],
            "front/size": len(fronts.get(row["generation"], ())),
            **{f"best/{name}": value for name, value in row["best"].items()},
            "search/evaluations": row["evaluations"],
            "search/failures": failures,
            "search/species": row["species"],
            "cost/seconds": seconds,
            **({"cost/samples": samples} if samples else {}),
        }
        finite = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        found.append((row["generation"], row["time"], finite))
    return found


# ----------------------------------------------------------------------------------------------------- beside a run


class Trackers:
    """The trackers of one run. `follow` and `end` return at once; `close` waits a little for what is on its way."""

    def __init__(self, settings: Sequence[TrackerSettings], identity: Identity, warn: Callable[[str], None]) -> None:
        self._lines = [_Line(one, identity) for one in settings]
        self._warn = warn
        self._looked = -math.inf
        self._sent = 0

    def due(self) -> bool:
        """Whether it is time to look for new generations."""
        return bool(self._lines) and time.monotonic() - self._looked >= EVERY

    def follow(self, points: Sequence[Point]) -> None:
        """Hands on all generations so far; those that a tracker has are not written again."""
        self._looked = time.monotonic()
        fresh = [point for point in points if point[0] > self._sent]
        self._sent = max([self._sent, *(generation for generation, _, _ in fresh)])
        for line in self._lines:
            line.send(fresh)
        self._tell()

    def end(self, ending: Ending) -> None:
        """Hands on what the run came to."""
        for line in self._lines:
            line.send(ending)

    def close(self, patience: float = PATIENCE) -> None:
        """Waits until all is written, `patience` seconds at most."""
        until = time.monotonic() + patience
        for line in self._lines:
            line.close(max(until - time.monotonic(), 0.0))
        self._tell()
        self._lines = []

    def _tell(self) -> None:
        for line in self._lines:
            for why in line.complaints():
                self._warn(why)


class _Line:
    """One tracker in a thread of its own, which takes what it is sent in order and complains at most once."""

    def __init__(self, settings: TrackerSettings, identity: Identity) -> None:
        self._settings, self._identity = settings, identity
        self._sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._why: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {settings.kind}", daemon=True)
        self._thread.start()

    def send(self, what: object) -> None:
        if self._thread.is_alive():
            self._sent.put(what)

    def complaints(self) -> list[str]:
        """What went wrong since this was last asked."""
        return [self._why.get() for _ in range(self._why.qsize())]

    def close(self, patience: float) -> None:
        self._sent.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._complain(f"it did not answer for {patience:.0f} s")

    def _complain(self, why: str) -> None:
        kind = self._settings.kind
        self._why.put(f"tracking: {kind}: {why}; the run itself is whole, resume it to hand the rest on")

    def _work(self) -> None:
        try:
            writer = WRITERS[self._settings.kind](self._settings, self._identity)
            try:
                self._write(writer)
            finally:
                writer.close()
        except ModuleNotFoundError as error:
            self._complain(f"{error.name} is missing: install evonas[{self._settings.kind}]")
        except Exception as error:  # whatever it is, it is not the run's
            words = "".join(sign if sign.isprintable() else " " for sign in str(error))
            self._complain(f"{type(error).__name__}: {' '.join(words.split())[:300]}")

    def _write(self, writer: Writer) -> None:
        last = writer.last()
        while (sent := self._sent.get()) is not None:
            if isinstance(sent, Ending):
                writer.end(sent)
                continue
            for generation, when, values in sent:
                if generation > last:
                    writer.write(generation, when, values)
                    last = generation


# ------------------------------------------------------------------------------------------------------ TensorBoard


class _TensorBoard:
    """Event files in a folder; the last step is read from those that are there."""

    def __init__(self, settings: TrackerSettings, identity: Identity) -> None:
        from tensorboardX import SummaryWriter

        self._folder = Path(settings.to) / identity.name if settings.to else identity.folder / "tensorboard"
        self._last = max(map(_last_step, sorted(self._folder.glob("events.out.tfevents.*"))), default=0)
        self._writer = SummaryWriter(str(self._folder), write_to_disk=True)
        if not self._last:
            facts = "\n".join(f"    {name}: {value}" for name, value in identity.facts.items())
            self._writer.add_text("run", facts, 0)

    def last(self) -> int:
        return self._last

    def write(self, generation: int, when: float, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        # one record for all: a kill leaves a generation whole or out
        told = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._writer.file_writer.add_summary(told, generation, when)
        self._writer.flush()

    def end(self, ending: Ending) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(io.BytesIO(ending.picture)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image("front", pixels, ending.generation, dataformats="HWC")
        self._writer.add_text("front", ending.markdown, ending.generation)

    def close(self) -> None:
        self._writer.close()


_STEPPED = "front/size"
"""A value that every generation has: its last step is the run's."""


def _last_step(path: Path) -> int:
    """The last generation in an event file: a row of records, each its length, a checksum, an event and a checksum.
    What a kill cut short at the end is left out."""
    from tensorboardX.proto.event_pb2 import Event

    last, data, at = 0, path.read_bytes(), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        at += 16 + length
        if at > len(data):
            break
        event = Event.FromString(body)
        if any(value.tag == _STEPPED for value in event.summary.value):
            last = max(last, event.step)
    return last


# ----------------------------------------------------------------------------------------------------------- MLflow


class _MLflow:
    """A run of an MLflow experiment, found again by the key of the run."""

    def __init__(self, settings: TrackerSettings, identity: Identity) -> None:
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self._client = MlflowClient(tracking_uri=settings.to)
        found = self._client.get_experiment_by_name(settings.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(settings.experiment)
        known = self._client.search_runs([experiment], f"tags.`evonas.key` = '{identity.key}'", max_results=1)
        self._run = known[0].info.run_id if known else self._created(experiment, identity)
        history = self._client.get_metric_history(self._run, _STEPPED)
        self._last = max((point.step for point in history), default=0)
        self._client.update_run(self._run, status="RUNNING")
        self._ended = False

    def _created(self, experiment: str, identity: Identity) -> str:
        tags = {"evonas.key": identity.key, "evonas.folder": str(identity.folder)}
        made: str = self._client.create_run(experiment, run_name=identity.name, tags=tags).info.run_id
        for name, value in identity.facts.items():
            self._client.log_param(made, name, value[:500])
        return made

    def last(self) -> int:
        return self._last

    def write(self, generation: int, when: float, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, int(when * 1000), generation) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, ending: Ending) -> None:
        self._ended = True
        self._client.log_text(self._run, ending.csv, "front.csv")
        self._client.log_text(self._run, ending.markdown, "front.md")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "front.png"
            path.write_bytes(ending.picture)
            self._client.log_artifact(self._run, str(path))

    def close(self) -> None:
        self._client.set_terminated(self._run, "FINISHED" if self._ended else "KILLED")


WRITERS: dict[str, Callable[[TrackerSettings, Identity], Writer]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
"""Trackers by kind."""


def key_of(about: Mapping[str, Any], name: str) -> str:
    """What tells a run from all others: its name, when it began, its seed and its data."""
    told = dumps([name, about.get("started"), about.get("seed"), about["task"]["fingerprint"]])
    return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
