"""Who may ask what: the checks before every request, and the headers of every answer.

Dash answers any Host, so that a page elsewhere could read a run through a name that resolves to this machine (DNS
rebinding): Host and Origin are checked here. Nothing that is asked may change anything, so only GET, HEAD and the one
POST by which Dash calls its functions exist."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from flask import Flask, Request, Response, redirect, request

COOKIE = "evonas-token"
CALLBACK = "/_dash-update-component"
LARGEST_BODY = 4 << 20
"""Bytes of a request; a page sends its own state back, which is far less."""


@dataclass(frozen=True)
class Guard:
    """What is let in: requests to these hosts, from no other origin and, where there is one, with the token."""

    host: str
    port: int
    token: str = ""
    names: frozenset[str] = field(default_factory=frozenset)

    @staticmethod
    def of(host: str, port: int, token: str = "") -> Guard:
        """The guard of an address: loopback by its three names, a wildcard address by this machine's."""
        local = {"localhost", "127.0.0.1", "::1"}
        names = local if is_loopback(host) else {host.lower()}
        if is_wildcard(host):
            names = {*local, socket.gethostname().lower(), socket.getfqdn().lower()}
        return Guard(host, port, token, frozenset(names))

    def refusal(self, asked: Request) -> Response | None:
        """Why a request is refused, as its answer; None lets it in."""
        if not self._known(asked.headers.get("Host", "")):
            return _answer(421, "This address is not served here: open the one that evonas dashboard prints.")
        origin = asked.headers.get("Origin")
        if origin is not None and not self._own(origin, asked.headers.get("Host", "")):
            return _answer(421, "Requests from other sites are not answered.")
        if asked.method not in ("GET", "HEAD") and not (asked.method == "POST" and asked.path == CALLBACK):
            return _answer(405, "The dashboard only reads: GET and HEAD exist.", [("Allow", "GET, HEAD")])
        if self.token and not self._admitted(asked):
            return _answer(401, "A token is needed: open the address with ?token=... that evonas dashboard prints.")
        return None

    def admission(self, asked: Request) -> Response | None:
        """For a first visit with the token in its address: a cookie, and the same address without the token."""
        if not self.token or "token" not in asked.args or not _same(asked.args["token"], self.token):
            return None
        rest = urlencode([(key, value) for key, value in asked.args.items(multi=True) if key != "token"])
        answer = redirect(f"{asked.path}?{rest}" if rest else asked.path, 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="Strict", path="/")
        assert isinstance(answer, Response)
        return answer

    def _admitted(self, asked: Request) -> bool:
        bearer = asked.headers.get("Authorization", "").removeprefix("Bearer ")
        return any(
            _same(given, self.token) for given in (asked.cookies.get(COOKIE, ""), bearer, asked.args.get("token", ""))
        )

    def _known(self, host: str) -> bool:
        name, port = _split(host)
        if port != self.port:
            return False
        return name in self.names or (is_wildcard(self.host) and _is_address(name))

    def _own(self, origin: str, host: str) -> bool:
        parts = urlsplit(origin)
        return parts.scheme == "http" and parts.netloc.lower() == host.lower()


def install(app: Flask, guard: Guard, policy: Callable[[], str]) -> None:
    """Puts the guard before every request of an app, and the headers on every answer."""
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY

    def before() -> Response | None:
        return guard.refusal(request) or guard.admission(request)

    def after(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = policy()
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["Referrer-Policy"] = "same-origin"
        answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        return answer

    app.before_request(before)
    app.after_request(after)


def policy(hashes: Sequence[str]) -> str:
    """The content security policy: everything from here, no remote host, no code from text.

    Inline styles are what plotly and React write; scripts inline are only those with these hashes."""
    return "; ".join([
        "default-src 'none'", f"script-src 'self' {' '.join(hashes)}".rstrip(), "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:", "font-src 'self' data:", "connect-src 'self'", "base-uri 'none'",
        "form-action 'none'", "frame-ancestors 'none'",
    ])  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_wildcard(host: str) -> bool:
    """Whether the address stands for all of this machine's."""
    return host in ("", "0.0.0.0", "::")


def _split(host: str) -> tuple[str, int]:
    """A Host header's name without brackets, and its port, 80 where none is named; -1 for what is no port."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "").lower(), parts.port if parts.port is not None else 80
    except ValueError:
        return "", -1


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _answer(status: int, words: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    return Response(words + "\n", status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
