"""Serves the dashboard: the address that it is reached at, and the threads that answer."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from urllib.parse import quote

from werkzeug.serving import WSGIRequestHandler, make_server

from evonas.core import RecipeError, StorageError
from evonas.dashboard import guard
from evonas.dashboard.app import build
from evonas.dashboard.guard import Guard
from evonas.dashboard.shelf import Shelf

PORT = 8050
AHEAD = 1.0
"""Seconds that a start waits at most for what is read ahead."""


class _Handler(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Server:
    """A dashboard that is bound to its port and answers once `forever` or `start` is called."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = PORT, token: str = "") -> None:
        """Raises RecipeError for an address that others can reach without a token, StorageError where it is taken."""
        if not guard.is_loopback(host) and not token:
            raise RecipeError(
                f"--host {host} lets other machines in: give a token as well, such as --token $(openssl rand -hex 16)"
            )
        self.shelf = Shelf(folder)
        self.token = token
        with _listening(host, port) as listening:
            self.host, self.port = host, int(listening.getsockname()[1])
            app = build(self.shelf, Guard.of(host, self.port, token)).server
            self._server = make_server(
                host, self.port, app, threaded=True, request_handler=_Handler, fd=listening.fileno()
            )

        ahead = threading.Thread(target=self.shelf.read_ahead, daemon=True)
        ahead.start()
        ahead.join(AHEAD)  # whoever opens the address at once finds the list read

    @property
    def address(self) -> str:
        """What to open, with the token where there is one."""
        host = "localhost" if guard.is_wildcard(self.host) else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={quote(self.token)}" if self.token else "")

    def forever(self) -> None:
        """Answers until it is interrupted."""
        self._server.serve_forever(poll_interval=0.2)

    def start(self) -> None:
        """Answers in a thread of its own until `close`."""
        threading.Thread(target=self.forever, daemon=True).start()

    def close(self) -> None:
        """Ends a server that was started."""
        self._server.shutdown()
        self._server.server_close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address: one that is taken is told of here, where werkzeug would end the process."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise StorageError(f"cannot serve at {host}:{port} ({why}); choose another --port or --host") from None
