"""What `./ci/label` serves: MONAI Label, which by itself answers any page and any name that leads to this machine."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi.middleware.cors import CORSMiddleware
from monailabel.app import app

LOCAL = "127.0.0.1,localhost,::1"
HOSTS = [host for host in os.environ.get("LABEL_HOSTS", LOCAL).split(",") if host]


class OwnHostAndOrigin:
    """Refuses requests under a name that is not this server's, as after DNS rebinding, and of other sites' pages.

    Args:
        app: that is protected.
        hosts: names that it has; "*" is any.
    """

    def __init__(self, app: Any, hosts: list[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: dict, receive: Callable, send: Callable[[dict], Awaitable[None]]) -> None:
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


async def _refuse(send: Callable[[dict], Awaitable[None]], status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})


# MONAI Label lets every page read, and its setting for that, MONAI_LABEL_CORS_ORIGINS, keeps 0.8.5 from starting.
app.user_middleware = [each for each in app.user_middleware if each.cls is not CORSMiddleware]
app.add_middleware(OwnHostAndOrigin, hosts=HOSTS)
