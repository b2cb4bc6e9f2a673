"""What a reader may take away: an individual's genome, weights, PyTorch module or ONNX file, made when it is asked for.

Files that an export writes lie in a folder of their own that is gone before the answer is sent."""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from pathlib import Path

from flask import Flask, Response, abort

from evonas.core import DataError, EvonasError, RecipeError
from evonas.dashboard.parts import Place
from evonas.dashboard.shelf import Shelf
from evonas.report.tables import plain
from evonas.results import Run

Made = tuple[str, str, bytes]
"""A file's ending, its media type and its content."""


def install(app: Flask, shelf: Shelf) -> None:
    """Adds the addresses of downloads."""

    def download(kind: str, rest: str) -> Response:
        place = Place.of(rest)
        if place.page != "individual" or place.id is None or kind not in ("genome", "weights", "module", "onnx"):
            abort(404)
        try:
            with shelf.open(place.run) as run:
                ending, media, content = _made(run, place.id, kind)
        except (RecipeError, DataError) as error:
            return Response(plain(str(error)) + "\n", 404, content_type="text/plain; charset=utf-8")
        except EvonasError as error:
            return Response(plain(str(error)) + "\n", 500, content_type="text/plain; charset=utf-8")
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{place.run[:60]}-{place.id}{ending}")
        return Response(content, content_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    app.add_url_rule("/download/<kind>/<path:rest>", "download", download)


def _made(run: Run, id: int, kind: str) -> Made:
    if kind == "genome":
        text = json.dumps(run.encoding.to_json(run.genome(id)), indent=1) + "\n"
        return ".json", "application/json", text.encode()
    if kind == "weights":
        return ".safetensors", "application/octet-stream", run.weights(id)
    with tempfile.TemporaryDirectory(prefix="evonas-") as folder:
        files = run.export(id, folder, "onnx" if kind == "onnx" else "module")
        if kind == "onnx":
            return ".onnx", "application/octet-stream", files[0].read_bytes()
        return ".zip", "application/zip", _packed(files)


def _packed(files: tuple[Path, ...]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return buffer.getvalue()
