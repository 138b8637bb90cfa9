"""What stands before MONAI Label, which by itself answers any page, takes any name and tells where its files lie."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import HTTPException

from .datastore import check_name
from .told import told_over_http, without_paths

Send = Callable[[dict], Awaitable[None]]
KINDS = {"image": "an image", "id": "an image", "label": "a label", "tag": "a tag", "session_id": "a session"}
UNSERVED = ("/infer/wsi", "/proxy", "/ohif")  # other kinds of images and servers
WORK = ("/train", "/batch", "/scoring")
READABLE = (b"application/json", b"text/")


class OwnHostAndOrigin:
    """Refuses requests under a name that is not this server's, as after DNS rebinding, and of other sites' pages.

    Args:
        app: that is protected.
        hosts: names that it has; "*" is any.
    """

    def __init__(self, app: Any, hosts: list[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: dict, receive: Callable, send: Send) -> None:
        headers = dict(scope.get("headers", []))
        host = urlsplit("//" + headers.get(b"host", b"").decode("latin-1")).hostname
        origin = headers.get(b"origin", b"").decode("latin-1")
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif "*" not in self.hosts and host not in self.hosts:
            await _refuse(send, 400, f"This server is not '{host}'. Start it with --host, or name it in LABEL_HOSTS.")
        elif origin and urlsplit(origin).hostname not in (host, *self.hosts):
            await _refuse(send, 403, f"Pages of {origin} may not ask this server.")
        else:
            await self.app(scope, receive, send)


class PlainAnswers:
    """Lets through only names that lead nowhere, turns errors into texts, and leaves paths of the server out of both.

    Args:
        app: that is protected.
        roots: called for the server's folders.
    """

    def __init__(self, app: Any, roots: Callable[[], Iterable[str]]) -> None:
        self.app, self.roots = app, roots

    async def __call__(self, scope: dict, receive: Callable, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = _Answer(send, self.roots)
        try:
            with told_over_http():
                _check_request(scope)
                await self.app(scope, receive, answer)
        except HTTPException as error:
            if answer.started:
                raise  # its status is out; the connection breaks off
            await _refuse(answer, error.status_code, error.detail)


class _Answer:
    """Passes files on as they come; a text is gathered, and goes out without paths."""

    def __init__(self, send: Send, roots: Callable[[], Iterable[str]]) -> None:
        self.send, self.roots = send, roots
        self.started, self.held, self.text = False, None, b""

    async def __call__(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self.held = message if kind.startswith(READABLE) else None
        elif self.held:
            self.text += message.get("body", b"")
            if message.get("more_body"):
                return
            text = without_paths(self.text.decode("utf-8", "replace"), self.roots()).encode()
            headers = [pair for pair in self.held["headers"] if pair[0] != b"content-length"]
            self.started = True
            await self.send({**self.held, "headers": [*headers, (b"content-length", b"%d" % len(text))]})
            return await self.send({"type": "http.response.body", "body": text})
        if not self.held:
            self.started = True
            await self.send(message)


def _check_request(scope: dict) -> None:
    """Raises an HTTPException where a name could lead to another folder, or nothing says what to do."""
    path = scope["path"]
    if path.startswith(UNSERVED):
        raise HTTPException(404, f"{path} is not served here: this server has folders of NIfTI files only.")
    for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name in KINDS:
            check_name(value, KINDS[name])
    for part in path.split("/"):
        check_name(part, "anything here")
    if scope["method"] == "POST" and path.startswith(WORK):
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip()
        if kind != b"application/json" or headers.get(b"content-length") == b"0":
            raise HTTPException(
                400,
                "Nothing is started by an empty request: send a JSON object, {} at least, as "
                "Content-Type: application/json.",
            )


async def _refuse(send: Send, status: int, detail: Any) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
