"""The dashboard without a browser: who is let in, what addresses mean, and that no request changes a run."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dash", reason="needs the extra evonas[dashboard]")

import safetensors.torch
from typer.testing import CliRunner

import evonas
from evonas import zoo
from evonas.cli import app
from evonas.core import EvonasError, RecipeError, StorageError
from evonas.dashboard import guard, network
from evonas.dashboard.front import limits_of
from evonas.dashboard.guard import Guard
from evonas.dashboard.parts import Place, address, comparison
from evonas.dashboard.server import Server
from evonas.dashboard.shelf import Shelf
from evonas.report import views
from evonas.report.plots import DARK, LIGHT
from evonas.store import Store
from tests import fabricated
from tests.fabricated import Made

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ["<img src=x onerror=alert(1)>", "a'b\"c & d", "..%2f..%2fetc", "größe 網", "x" * 200, "javascript:alert(1)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a sample with weights, one that is damaged, one that was not begun, and hostile names."""
    runs = tmp_path_factory.mktemp("runs")
    fabricated.write(runs / "made", Made(fabricated.RECIPE, 10, 4, failures=["<b>bad</b>"], failing=0.2))
    copied(ROOT / "runs" / "sample-digits", runs / "sample")
    fabricated.write(runs / "empty", Made(fabricated.RECIPE, 4, 3, finished=0))
    damaged = fabricated.write(runs / "damaged", Made(fabricated.RECIPE, 4, 1)) / "run.sqlite"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    for i, name in enumerate(HOSTILE):
        fabricated.write(runs / f"h{i}", Made(fabricated.RECIPE, 4, 1)).rename(runs / name)
    (runs / "no-run").mkdir()
    return runs


def copied(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Server]:
    server = Server(folder, port=0)
    server.start()
    yield server
    server.close()


def ask(
    server: Server, path: str = "/", method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, bytes, Mapping[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    named = {"Host": f"127.0.0.1:{server.port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host=True)
    for name, value in named.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Content-Type", "application/json")
    connection.endheaders(body.encode() if body is not None else None)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, dict(answer.getheaders())


def hashed(folder: Path) -> dict[str, str]:
    """Every file of a folder by the hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ----------------------------------------------------------------------------------------------------------- guard


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost", "", "127.0.0.1:1", "[", "a b"])
def test_other_hosts_are_refused(served: Server, host: str) -> None:
    assert ask(served, Host=host)[0] == 421


def test_loopback_is_served_by_its_names_alone(served: Server) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert ask(served, Host=f"{name}:{served.port}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
def test_other_origins_are_refused(served: Server, origin: str) -> None:
    assert ask(served, Origin=origin.format(port=served.port))[0] == 421
    assert ask(served, "/_dash-update-component", "POST", "{}", Origin=origin.format(port=served.port))[0] == 421


def test_its_own_origin_is_let_in(served: Server) -> None:
    assert ask(served, Origin=f"http://127.0.0.1:{served.port}")[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/run/made/front", "/download/genome/run/made/individual/1", "/_dash-layout"])
def test_only_reading_exists(served: Server, method: str, path: str) -> None:
    assert ask(served, path, method, "" if method in ("PUT", "POST", "PATCH") else None)[0] == 405


def test_a_body_that_is_too_large_is_refused(served: Server) -> None:
    status, *_ = ask(served, "/_dash-update-component", "POST", "x" * (guard.LARGEST_BODY + 1))
    assert status in (400, 413)


def test_every_answer_carries_a_policy_without_remote_hosts(served: Server) -> None:
    for path in ("/", "/assets/style.css", "/_dash-layout", "/run/none/front", "/download/genome/run/x/individual/1"):
        policy = ask(served, path)[2]["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "http" not in policy
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert "unsafe-inline" not in scripts
    refused = ask(served, Host="evil.example")[2]
    assert refused["X-Content-Type-Options"] == "nosniff" and refused["X-Frame-Options"] == "DENY"


def test_the_page_names_no_address_elsewhere(served: Server) -> None:
    text = ask(served)[1].decode()
    assert "//" not in text.replace(f"http://127.0.0.1:{served.port}", "").replace("<!--", "")


def test_a_token_is_asked_for_and_becomes_a_cookie(folder: Path) -> None:
    server = Server(folder, port=0, token="s3cret/+ token")
    server.start()
    try:
        assert ask(server)[0] == 401 and ask(server, "/?token=wrong")[0] == 401
        assert ask(server, "/_dash-update-component", "POST", "{}")[0] == 401
        status, _, headers = ask(server, server.address.partition(f":{server.port}")[2] + "&run=a")
        assert status == 303 and headers["Location"] == "/?run=a"
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ask(server, Cookie=cookie.partition(";")[0])[0] == 200
        assert ask(server, Authorization="Bearer s3cret/+ token")[0] == 200
    finally:
        server.close()


def test_other_machines_need_a_token(folder: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(RecipeError, match="--token"):
            Server(folder, host, 0)
    refused = CliRunner().invoke(app, ["dashboard", str(folder), "--host", "0.0.0.0"])
    assert isinstance(refused.exception, RecipeError)


def test_a_port_that_is_taken_is_told(served: Server, folder: Path) -> None:
    with pytest.raises(StorageError, match="another --port"):
        Server(folder, port=served.port)


def test_a_wildcard_address_knows_addresses_but_no_foreign_names() -> None:
    wide = Guard.of("0.0.0.0", 8050, "t")
    assert wide._known("192.168.1.4:8050") and wide._known("localhost:8050") and wide._known("[::1]:8050")
    assert not wide._known("evil.example:8050") and not wide._known("192.168.1.4:80")


# ------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("name", ["made", *HOSTILE])
def test_addresses_lead_back_to_what_they_name(name: str) -> None:
    assert Place.of(address(name, "individual", 42)) == Place("individual", name, 42)
    path, _, search = comparison([name, "other"]).partition("?")
    assert Place.of(path, search).query == {"run": f"{name}/other"}


@pytest.mark.parametrize(
    "path",
    [
        "/run",
        "/run/a/individual",
        "/run/a/individual/x",
        "/run/a/nothing",
        "/run/a/b/c/d",
        "/x",
        "/run/a/individual/-1",
    ],
)
def test_other_addresses_are_missing(path: str) -> None:
    assert Place.of(path).page == "missing"


@pytest.mark.parametrize("name", ["..", ".", "", "../runs", "made/../sample", "/etc", "made\0", "no-run", "a\\b"])
def test_names_never_leave_the_folder(folder: Path, name: str) -> None:
    shelf = Shelf(folder)
    with pytest.raises(RecipeError, match="no run"):
        shelf.path(name)


def test_a_link_out_of_the_folder_is_no_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(folder / "made", target_is_directory=True)
    assert Shelf(tmp_path).names() == []


# ----------------------------------------------------------------------------------------------------------- shelf


def test_the_list_names_all_runs_and_why_one_cannot_be_read(folder: Path) -> None:
    cards = {card.name: card for card in Shelf(folder).cards()}
    assert set(cards) == {"made", "sample", "empty", "damaged", *HOSTILE}
    assert "damaged" in cards["damaged"].problem and cards["made"].status == "finished"
    assert (cards["empty"].status, cards["empty"].generation) == ("interrupted", 0)


def test_what_stands_still_is_read_once_and_what_moves_again(tmp_path: Path) -> None:
    made = Made(fabricated.RECIPE, 6, 5, finished=2)
    fabricated.write(tmp_path / "live", made)
    shelf = Shelf(tmp_path)
    first = shelf.front("live")
    assert shelf.front("live") is first and len(first.fronts) == 2
    (tmp_path / "live").rename(tmp_path / "old")
    fabricated.write(tmp_path / "live", Made(fabricated.RECIPE, 6, 5, finished=3, seed=2))
    assert len(shelf.front("live").fronts) == 3, "another run of the same name"


def test_a_run_that_goes_on_is_read_from_where_it_was(tmp_path: Path) -> None:
    folder, shelf = tmp_path / "live", Shelf(tmp_path)
    lengths = []
    for _ in fabricated.growing(folder, Made(fabricated.RECIPE, 6, 4)):
        view = shelf.front("live")
        lengths.append(len(view.ids))
        assert shelf.card("live").status == "running"
        with evonas.open(folder) as run:
            assert view.ids.tolist() == [one.id for one in run.individuals()]
    assert lengths == [6, 12, 18, 24] and shelf.card("live").status == "finished"


def test_a_run_whose_process_was_killed_is_seen_to_have_stopped(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests import fabricated as f;"
        "w = f.growing(Path(sys.argv[1]), f.Made(f.RECIPE, 4, 3)); next(w); print('on', flush=True);"
        "sys.stdin.read(1); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process:
        assert process.stdout.readline() == b"on\n"
        shelf = Shelf(tmp_path)
        before = shelf.revision("run")
        assert shelf.card("run").status == "running" and shelf.revision("run") == before
        process.stdin.write(b"x")
    assert shelf.revision("run") != before and shelf.card("run").status == "interrupted"


def test_threads_share_what_was_read(folder: Path) -> None:
    shelf, found = Shelf(folder), []
    threads = [threading.Thread(target=lambda: found.append(shelf.front("made"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(one is found[0] for one in found)


def test_limits_are_read_as_people_write_them(folder: Path) -> None:
    view = Shelf(folder).front("made")
    assert limits_of(view, "params<=20k, error=0.1") == {"params": 20_000.0, "error": 0.1}
    for text in ("params=", "params=x", "params=nan", "params"):
        with pytest.raises(RecipeError, match="is no limit"):
            limits_of(view, text)
    with pytest.raises(RecipeError, match="did you mean"):
        limits_of(view, "prams=3")


# ------------------------------------------------------------------------------------------------------- downloads


def test_genome_weights_and_module_are_what_the_run_gives(served: Server, folder: Path) -> None:
    with evonas.open(folder / "sample") as run:
        id = run.store.front()[0]
        genome, weights = run.encoding.to_json(run.genome(id)), run.weights(id)
    status, content, headers = ask(served, f"/download/genome{address('sample', 'individual', id)}")
    assert status == 200 and json.loads(content) == genome
    assert headers["Content-Disposition"] == f'attachment; filename="sample-{id}.json"'
    status, content, _ = ask(served, f"/download/weights{address('sample', 'individual', id)}")
    assert status == 200 and content == weights and safetensors.torch.load(content)
    status, content, _ = ask(served, f"/download/module{address('sample', 'individual', id)}")
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert status == 200 and {Path(name).suffix for name in names} >= {".py", ".safetensors", ".json"}


@pytest.mark.parametrize(
    "path", ["module/run/nope/individual/1", "genome/run/made/individual/99999", "weights/run/made/individual/1",
             "genome/run/..%2Fmade/individual/1", "else/run/made/individual/1", "genome/run/made/front"],
)  # fmt: skip
def test_what_is_not_there_is_told_in_words(served: Server, path: str) -> None:
    status, content, _ = ask(served, f"/download/{path}")
    assert status == 404 and b"Traceback" not in content


def test_nothing_that_is_asked_changes_a_file(served: Server, folder: Path) -> None:
    before = hashed(folder)
    for path, search in [
        ("/", ""),
        ("/compare", "?run=made&run=sample"),
        *[
            (address(run, page), "")
            for run in ("made", "sample", "empty", *HOSTILE)
            for page in ("front", "species", "lineage", "log")
        ],
    ]:
        assert page(served, path, search)["page"]["children"]
    for kind in ("genome", "weights", "module"):
        ask(served, f"/download/{kind}/run/sample/individual/1")
    assert hashed(folder) == before


def page(server: Server, path: str, search: str = "") -> Any:
    """What the router gives for an address."""
    outputs = "..page.children...tabs.children...place.data...revision.data...state.children.."
    body = {
        "output": outputs,
        "outputs": [
            dict(zip(("id", "property"), one.split("."), strict=True)) for one in outputs.strip(".").split("...")
        ],
        "inputs": [{"id": "url", "property": "pathname", "value": path}],
        "changedPropIds": ["url.pathname"],
        "state": [{"id": "url", "property": "search", "value": search}],
    }
    status, content, _ = ask(server, "/_dash-update-component", "POST", json.dumps(body))
    assert status == 200, content[:500]
    return json.loads(content)["response"]


@pytest.mark.parametrize("path", ["/run/none/front", "/run/damaged/front", "/run/made/individual/99999", "/nowhere"])
def test_pages_that_cannot_be_shown_say_why(served: Server, path: str) -> None:
    text = json.dumps(page(served, path))
    assert '"notice"' in text and "Traceback" not in text


# --------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_a_layer_graph_has_all_its_steps_and_edges_apart(folder: Path, theme: Any) -> None:
    with evonas.open(folder / "sample") as run:
        for id in run.store.front():
            plan = run.plan(id)
            drawn = network.draw(plan, views.changes(run, id), theme)
            nodes = [one for one in drawn.elements if "position" in one]
            edges = [one for one in drawn.elements if "source" in one["data"]]
            assert [one["data"]["id"] for one in nodes] == [step.name for step in plan.steps]
            assert len(edges) == sum(len(set(step.inputs)) for step in plan.steps)
            assert not _overlaps(nodes)


@pytest.mark.parametrize("name", ["nasnet-a", "darts-v2", "nasbench201-best-cifar10"])
def test_cells_have_all_their_operations_apart(name: str) -> None:
    _, _, plan = zoo.decoded(name)
    assert plan.cells is not None
    mark = plan.cells.edges[0][0][0]
    drawn = network.draw(plan, views.Changes(3, frozenset({mark})), LIGHT)
    nodes = [one for one in drawn.elements if "position" in one]
    ids = [one["data"]["id"] for one in drawn.elements]
    ends = {one["data"][end] for one in drawn.elements if "source" in one["data"] for end in ("source", "target")}
    assert len(set(ids)) == len(ids) and ends <= set(ids)
    assert not _overlaps(nodes)
    assert [one["data"]["label"].split()[0] for one in nodes if one["classes"].endswith("new")] == [str(mark)]
    operations = sum(edge[3] != "none" for edges in plan.cells.edges for edge in edges)
    assert sum(one["data"]["id"][0] != "0" and one["classes"].startswith("layer") for one in nodes) == operations


def _overlaps(nodes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    boxes = [
        (one["data"]["id"], one["position"]["x"], one["position"]["y"], one["data"]["w"], one["data"]["h"])
        for one in nodes
    ]
    return [
        (a[0], b[0])
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if abs(a[1] - b[1]) < (a[3] + b[3]) / 2 and abs(a[2] - b[2]) < (a[4] + b[4]) / 2
    ]


def test_what_an_edit_made_is_marked(folder: Path) -> None:
    with evonas.open(folder / "sample") as run:
        child = next(
            row.id for row in run.individuals() if [e.op for e in run.individual(row.id).edits] == ["add_layer"]
        )
        drawn = network.draw(run.plan(child), views.changes(run, child), LIGHT)
        made = run.individual(child).edits[0].made
    new = {one["data"]["id"] for one in drawn.elements if "position" in one and "new" in one["classes"].split()}
    assert new and all(int(name.lstrip("layerdg")) in made for name in new)


def test_a_direct_genome_shows_every_link_by_sign_and_size(tmp_path: Path) -> None:
    recipe = {
        "task": {"kind": "xor"},
        "encoding": {"kind": "neat"},
        "objectives": ["fitness"],
        "seed": 2,
        "strategy": {"kind": "neat", "population": 30, "generations": 6},
        "estimator": {"kind": "population"},
    }
    with evonas.start(recipe, runs=tmp_path, name="xor") as run:
        id = run.store.front()[0]
        links = run.plan(id).steps[-1].settings["links"]
        drawn = network.draw(run.plan(id), views.changes(run, id), LIGHT)
    shown = {one["data"]["mark"]: one for one in drawn.elements if "weight" in one["data"]}
    assert set(shown) == {row[0] for row in links}
    for mark, _, _, weight, enabled in links:
        kinds = shown[mark]["classes"].split()
        assert ("positive" if weight >= 0 else "negative") in kinds if enabled else "disabled" in kinds
    widest = max((row for row in links if row[4]), key=lambda row: abs(row[3]))
    assert shown[widest[0]]["data"]["width"] == max(one["data"]["width"] for one in shown.values())


def test_without_its_packages_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    asked = CliRunner().invoke(app, ["dashboard"])
    assert isinstance(asked.exception, EvonasError)
    assert str(asked.exception) == "the dashboard needs dash and dash-cytoscape: pip install 'evonas[dashboard]'"


def test_a_reader_leaves_the_writer_alone(tmp_path: Path) -> None:
    folder = fabricated.write(tmp_path / "run", Made(fabricated.RECIPE, 4, 2))
    with Store.open(folder, write=True) as store:
        card = Shelf(tmp_path).card("run")
        assert card.status == "running"
        store.event("note", "still the only writer")
