"""`r1pipe chat --web`: the chat as a page of this machine's.

Whoever may open the page may spend this machine's time, so its address holds a secret, which other pages in the same
browser and other people on the machine do not know.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import secrets
import socket
import sys
import threading
import webbrowser
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from r1pipe.errors import InputError, MissingToolError
from r1pipe.run.html_page import filled_page
from r1pipe.serving.offered import offered
from r1pipe.serving.talk import load
from r1pipe.serving.web_replies import Ask, Event, Replies

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

NEEDED = ("starlette", "uvicorn")
HERE = "127.0.0.1"
# The names of this machine that a browser on it, or at the end of a tunnel, may call it by.
_OWN_NAMES = [HERE, "localhost"]
# Seconds between two looks whether the page that asked is still there.
_LOOK_EVERY_S = 0.1
# Bytes of a question with all that was said before, and of the id of a reply.
_LARGEST_ASK = 8 * 2**20
_LARGEST_ID = 256
# So many stops are kept whose reply has not begun; most of them come when theirs is over.
_EARLY_STOPS = 64


def talk_in_browser(
    names: list[str],
    drawing: dict[str, Any],
    template: str,
    *,
    host: str = "",
    port: int = 0,
    show: bool = False,
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        names: the checkpoints that are asked at first, one or two.
        drawing: the fields of chat_model.Drawing with which the page begins.
        template: of every checkpoint; empty = as its run says.
        host: empty = this machine alone.
        port: 0 = a free one.
        show: open the page in the browser.

    Raises:
        MissingToolError: no web server is installed.
        InputError: a checkpoint cannot be loaded, or nobody can listen there.
    """
    require_web()
    found = offered(names)
    listener = listen(host or HERE, port)
    asked = [name for name in names if name in found]
    print(f"loading {' and '.join(asked)}", file=sys.stderr)
    # The first is the last that is loaded: it is forgotten last.
    models = [load(name, template) for name in dict.fromkeys(reversed(asked))]
    chat = WebChat(
        Replies(models, template),
        {"offered": found, "asked": asked, "drawing": drawing},
    )
    where, port = listener.getsockname()[:2]
    address = f"http://{where}:{port}/{chat.secret}/"
    print(f"{address}\nWho has this address may ask; Ctrl-C ends the chat.", flush=True)
    if show:
        webbrowser.open(address)
    chat.server(listener).run(sockets=[listener])


def require_web() -> None:
    """Refuse where no web server is installed.

    Raises:
        MissingToolError: there is none.
    """
    missing = [package for package in NEEDED if not importlib.util.find_spec(package)]
    if missing:
        raise MissingToolError(
            f"a chat in the browser needs {' and '.join(missing)}", fix='pip install "r1pipe[web]"'
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address; port 0 = a free one.

    Raises:
        InputError: the port is taken, or the address is none of this machine's.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        # Behind it Python says the address once more.
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise InputError(
            f"nothing can listen at port {port} of {host}: {reason}",
            fix="another --port, or none: then a free one is taken; a --host is an IPv4 address of this machine",
        ) from None


class WebChat:
    """The page and what it asks for.

    Args:
        replies: who answers.
        content: what the page shows at first: `offered`, `asked` and `drawing`.
    """

    def __init__(self, replies: Replies, content: dict[str, Any]) -> None:
        self._replies = replies
        self._content = content
        self._offered = frozenset(content["offered"])
        self._stops: dict[str, threading.Event] = {}
        self._early_stops: deque[str] = deque(maxlen=_EARLY_STOPS)
        self.secret = secrets.token_urlsafe(24)

    def server(self, listener: socket.socket) -> uvicorn.Server:
        """What serves at this socket by `run(sockets=[listener])`, until SIGINT or SIGTERM."""
        import uvicorn

        app = self.app(own_names=listener.getsockname()[0] == HERE)
        config = uvicorn.Config(
            app,
            # Its lines would show the secret.
            access_log=False,
            log_level="critical",
            lifespan="off",
            ws="none",
            # A reply that is under way is left.
            timeout_graceful_shutdown=1,
        )
        return uvicorn.Server(config)

    def app(self, *, own_names: bool = True) -> Starlette:
        """The application of ASGI.

        Args:
            own_names: refuse requests to other names than this machine has for itself, which a page elsewhere may
                have pointed at it.
        """
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Mount, Route

        own = [
            Route("/", self._page),
            Route("/reply", self._reply, methods=["POST"]),
            Route("/stop", self._stop, methods=["POST"]),
        ]
        routes = [Mount(f"/{self.secret}", routes=own), Route("/{rest:path}", _refuse)]
        names = _OWN_NAMES if own_names else ["*"]
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
        return Starlette(routes=routes, middleware=[guard])

    async def _page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        nonce = secrets.token_urlsafe(16)
        page = filled_page("r1pipe.serving", "chat_page", "r1pipe chat", self._content)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(page.replace("@NONCE@", nonce), headers=headers)

    async def _reply(self, request: Request) -> Response:
        """The events of one reply, a line each as JSON."""
        from starlette.responses import PlainTextResponse, StreamingResponse

        try:
            ask = Ask.model_validate_json(await _body(request, _LARGEST_ASK))
        except ValidationError as error:
            return PlainTextResponse(str(error), 400)
        if ask.model not in self._offered:
            return PlainTextResponse(f"{ask.model!r} is not offered", 400)
        return StreamingResponse(self._events(ask, request), media_type="application/x-ndjson")

    async def _events(self, ask: Ask, request: Request) -> AsyncIterator[str]:
        # It may have been stopped already: the two come over connections of their own.
        stop = threading.Event()
        if ask.id in self._early_stops:
            stop.set()
        self._stops[ask.id] = stop
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Event] = asyncio.Queue()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(waiting.put_nowait, event)

        loop.run_in_executor(None, self._replies.draw, ask, put, stop)
        event: Event = {}
        try:
            while not ("end" in event or "error" in event):
                if await request.is_disconnected():
                    return
                try:
                    event = await asyncio.wait_for(waiting.get(), _LOOK_EVERY_S)
                except TimeoutError:
                    continue
                yield json.dumps(event) + "\n"
        finally:
            # Also where the page was closed.
            stop.set()
            self._stops.pop(ask.id, None)

    async def _stop(self, request: Request) -> Response:
        """Stop the reply whose id the body is."""
        from starlette.responses import Response

        reply = (await _body(request, _LARGEST_ID)).decode(errors="replace")
        if reply in self._stops:
            self._stops[reply].set()
        else:
            self._early_stops.append(reply)
        return Response(status_code=204)


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request; one of more bytes than `limit` is answered with 413."""
    from starlette.exceptions import HTTPException

    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise HTTPException(413)
    return bytes(body)


async def _refuse(request: Request) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(
        "This page opens at the whole address that `r1pipe chat --web` has printed.", 403
    )
