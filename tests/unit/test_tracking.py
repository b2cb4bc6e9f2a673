"""Trackers: every generation once, also after a kill and a resume; whatever befalls them, the run goes on as ever."""

from __future__ import annotations

import struct
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import evonas
from evonas import recipe as recipes
from evonas import tracking
from evonas.core import RecipeError
from evonas.tracking import Ending, Identity, Trackers, TrackerSettings

XOR: dict[str, Any] = {
    "name": "xor",
    "task": {"kind": "xor"},
    "encoding": {"kind": "neat"},
    "objectives": ["fitness"],
    "strategy": {"kind": "neat", "population": 30, "generations": 3},
    "estimator": {"kind": "population"},
}
TWO: dict[str, Any] = {
    **XOR,
    "objectives": ["fitness", "links"],
    "strategy": {"kind": "nsga2", "population": 30, "generations": 3},
}
IDENTITY = Identity("run", Path("run"), "key")


class Kept:
    """A tracker that keeps in memory what it is told; it may fail or hang."""

    told: ClassVar[list[tuple[int, dict[str, float]]]] = []
    ends: ClassVar[list[Ending]] = []
    trouble: str = ""
    free = threading.Event()

    def __init__(self, settings: TrackerSettings, identity: Identity) -> None:
        if self.trouble == "missing":
            raise ModuleNotFoundError("No module named 'tensorboardX'", name="tensorboardX")

    def last(self) -> int:
        return max((generation for generation, _ in self.told), default=0)

    def write(self, generation: int, when: float, values: Mapping[str, float]) -> None:
        if self.trouble == "raises" and generation == 2:
            raise OSError("disk\x1b[2J full")
        if self.trouble == "hangs":
            self.free.wait(60)
        self.told.append((generation, dict(values)))

    def end(self, ending: Ending) -> None:
        self.ends.append(ending)

    def close(self) -> None: ...


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    made = type("Fresh", (Kept,), {"told": [], "ends": [], "free": threading.Event()})
    monkeypatch.setitem(tracking.WRITERS, "tensorboard", made)
    monkeypatch.setattr(tracking, "EVERY", 0.0)
    return made


def warned(run: Any) -> list[str]:
    return [event["text"] for event in run.events() if event["kind"] == "warning"]


# ---------------------------------------------------------------------------------------------------- what they are


def test_a_recipe_names_trackers_by_kind_or_in_full() -> None:
    read = recipes.read({**XOR, "tracking": ["tensorboard", {"kind": "mlflow", "to": "http://localhost:5000"}]})
    assert [one.kind for one in read.tracking] == ["tensorboard", "mlflow"]
    assert read.tracking[1].experiment == "evonas" and recipes.read(XOR).tracking == ()
    assert recipes.read(recipes.to_yaml(read)) == read


def test_mistakes_in_tracking_are_told() -> None:
    for value, told in (
        (["tensorbord"], "tracking.0.*'tensorbord' is not known; did you mean 'tensorboard'"),
        ([{"kind": "mlflow", "too": "x"}], "tracking.0.too: not known; did you mean 'to'"),
        ([{"kind": "mlflow", "to": "http://me:secret@host"}], "a password does not belong in a recipe"),
    ):
        with pytest.raises(RecipeError, match=told):
            recipes.read({**XOR, "tracking": value})


def test_a_folder_is_relative_to_the_recipes_file(tmp_path: Path) -> None:
    told = recipes.read({**XOR, "tracking": [{"kind": "tensorboard", "to": "logs"}]})
    (tmp_path / "x.yaml").write_text(recipes.to_yaml(told))
    assert recipes.read(tmp_path / "x.yaml").tracking[0].to == str(tmp_path / "logs")


def test_tracking_may_be_changed_on_a_resume(kept: type[Kept], tmp_path: Path) -> None:
    evonas.start(XOR, runs=tmp_path).close()
    assert kept.told == []
    evonas.resume(tmp_path / "xor", generations="+2", overrides={"tracking": "[tensorboard]"}).close()
    assert [generation for generation, _ in kept.told] == [1, 2, 3, 4, 5]


def test_scalars_add_up_over_the_generations() -> None:
    row = {"hypervolume": 1.5, "best": {"error": 0.25}, "species": 2, "inheritance": {"samples": 10}}
    rows = [
        {**row, "generation": g, "evaluations": 4 * g, "failed": 1, "seconds": 2.0, "time": 100.0 + g}
        for g in (1, 2, 3)
    ]
    rows[2] |= {"hypervolume": None, "best": {}}
    points = tracking.scalars(rows, {1: [0], 2: [0, 5]})
    assert [point[:2] for point in points] == [(1, 101.0), (2, 102.0), (3, 103.0)]
    assert points[1][2] == {
        "front/hypervolume": 1.5, "front/size": 2, "best/error": 0.25, "search/evaluations": 8, "search/failures": 2,
        "search/species": 2, "cost/seconds": 4.0, "cost/samples": 20.0,
    }  # fmt: skip
    assert "front/hypervolume" not in points[2][2] and points[2][2]["search/failures"] == 3


# ------------------------------------------------------------------------------------------------------ beside a run


def test_a_tracked_run_is_the_run_it_would_be(kept: type[Kept], tmp_path: Path) -> None:
    with evonas.start(TWO, runs=tmp_path, name="plain") as plain:
        expected = plain.store.digest()
    with evonas.start({**TWO, "tracking": ["tensorboard"]}, runs=tmp_path, name="told") as told:
        assert told.store.digest() == expected and warned(told) == []
        last = told.generations()[-1]
    assert [generation for generation, _ in kept.told] == [1, 2, 3]
    assert kept.told[-1][1]["front/hypervolume"] == last["hypervolume"]
    (ending,) = kept.ends
    assert ending.generation == 3 and ending.picture.startswith(b"\x89PNG")
    assert ending.csv.count("\n") == ending.markdown.count("\n") - 1 == kept.told[-1][1]["front/size"] + 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("raises", r"tracking: tensorboard: OSError: disk \[2J full; the run itself is whole"),
        ("missing", r"tracking: tensorboard: tensorboardX is missing: install evonas\[tensorboard\]"),
        ("hangs", "tracking: tensorboard: it did not answer for 0 s"),
    ],
)
def test_a_tracker_that_fails_is_told_once(
    kept: type[Kept], tmp_path: Path, trouble: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "trouble", trouble)
    monkeypatch.setattr(Trackers.close, "__defaults__", (0.2,) if trouble == "hangs" else (20.0,))
    with pytest.warns(UserWarning, match=told) as seen:
        run = evonas.start({**XOR, "tracking": ["tensorboard"]}, runs=tmp_path)
    kept.free.set()
    assert len([one for one in seen if "tracking" in str(one.message)]) == 1
    assert run.status == "finished" and len(warned(run)) == 1
    with evonas.start(XOR, runs=tmp_path, name="plain") as plain:
        assert plain.store.digest() == run.store.digest()


def test_what_a_failed_tracker_missed_comes_with_the_next_resume(
    kept: type[Kept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "trouble", "raises")
    with pytest.warns(UserWarning, match="full"):
        evonas.start({**XOR, "tracking": ["tensorboard"]}, runs=tmp_path).close()
    assert [generation for generation, _ in kept.told] == [1]
    monkeypatch.setattr(kept, "trouble", "")
    evonas.resume(tmp_path / "xor", generations="+1").close()
    assert [generation for generation, _ in kept.told] == [1, 2, 3, 4]


def test_an_interrupted_run_hands_on_what_it_finished(kept: type[Kept], tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        if progress.kind == "generation" and progress.generation == 2:
            raise KeyboardInterrupt

    with pytest.raises(evonas.EvonasError, match="stopped after generation 2"):
        evonas.start({**XOR, "tracking": ["tensorboard"]}, runs=tmp_path, observer=stop)
    assert [generation for generation, _ in kept.told] == [1, 2] and kept.ends == []


def test_old_runs_without_the_section_open_and_resume(tmp_path: Path) -> None:
    stored = recipes.read(XOR).model_dump(mode="json")
    del stored["tracking"]
    assert recipes.from_json(stored) == recipes.read(XOR)


# ----------------------------------------------------------------------------------------------- their own formats


def events(folder: Path) -> Counter[tuple[str, int]]:
    """How often each tag has each step, in all event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    found: Counter[tuple[str, int]] = Counter()
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length <= len(data):
                event = Event.FromString(data[at + 12 : at + 12 + length])
                found.update((value.tag, event.step) for value in event.summary.value)
            at += 16 + length
    return found


def test_tensorboard_continues_its_series_behind_what_a_kill_left(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    evonas.start({**TWO, "tracking": ["tensorboard"]}, runs=tmp_path, name="two").close()
    logs = tmp_path / "two" / "tensorboard"
    (path,) = logs.glob("events.out.tfevents.*")
    whole, data = events(logs), path.read_bytes()
    assert set(whole.values()) == {1} and {step for tag, step in whole if tag == "front/hypervolume"} == {1, 2, 3}
    assert {"front", "front/text_summary", "run/text_summary", "best/links", "cost/seconds"} <= {
        tag for tag, _ in whole
    }
    at = data.index(b"front/size", data.index(b"front/size") + 1)
    path.write_bytes(data[: at + 4])  # killed while generation 2 was written
    assert {step for tag, step in events(logs) if tag == "front/size"} == {1}
    _wait_for_another_second()
    evonas.resume(tmp_path / "two", generations="+2").close()
    again = events(logs)
    for tag in ("front/size", "best/links", "search/evaluations"):
        assert [again[tag, step] for step in (1, 2, 3, 4, 5)] == [1] * 5


def _wait_for_another_second() -> None:
    """Event files are named after the second in which they were begun."""
    begun = int(time.time())
    while int(time.time()) == begun:
        time.sleep(0.02)


def test_mlflow_finds_its_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(tracking, "PATIENCE", 60.0)
    uri = f"file:{tmp_path / 'mlruns'}"
    told = {**TWO, "tracking": [{"kind": "mlflow", "to": uri, "experiment": "tests"}]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with evonas.start(told, runs=tmp_path, name="two") as run:
            assert warned(run) == []
        evonas.resume(tmp_path / "two", generations="+1").close()
        evonas.start(told, runs=tmp_path / "others", name="two", overrides={"seed": "9"}).close()
        client = MlflowClient(tracking_uri=uri)
        found = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert len(found) == 2 and {one.info.status for one in found} == {"FINISHED"}
    (first,) = [one for one in found if one.data.params["seed"] == "0"]
    history = client.get_metric_history(first.info.run_id, "front/hypervolume")
    with evonas.open(tmp_path / "two") as run:
        assert [(one.step, one.value) for one in history] == [
            (row["generation"], row["hypervolume"]) for row in run.generations()
        ]
    assert {one.path for one in client.list_artifacts(first.info.run_id)} == {"front.csv", "front.md", "front.png"}


def test_equal_names_and_seeds_of_other_runs_are_told_apart() -> None:
    about = {"started": "2026-01-01T00:00:00Z", "seed": 1, "task": {"fingerprint": "a"}}
    keys = {
        tracking.key_of(about, "run"),
        tracking.key_of({**about, "started": "2026-01-01T00:00:01Z"}, "run"),
        tracking.key_of({**about, "seed": 2}, "run"),
        tracking.key_of(about, "other"),
    }
    assert len(keys) == 4 and tracking.key_of(dict(reversed(about.items())), "run") in keys
