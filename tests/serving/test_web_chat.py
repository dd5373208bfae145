"""`r1pipe chat --web`: who may ask, what is offered, and the page in a browser with checkpoints that answer."""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import EVIL, IN_A_BROWSER, WITH_AXE, browser
from engine import r1pipe, start, wait_for
from taught import taught

from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.errors import InputError, MissingToolError
from r1pipe.run.records import sealed
from r1pipe.run.store import write_json
from r1pipe.serving.offered import offered
from r1pipe.serving.web_chat import HERE, NEEDED, WebChat, listen, require_web
from r1pipe.serving.web_replies import Replies

WITH_SERVER = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)),
    reason="the page is served by starlette and uvicorn: pip install 'r1pipe[web]'",
)
DRAWING: dict[str, Any] = {"temperature": 0, "top_p": 1, "max_tokens": 100, "seed": None}
ASK: dict[str, Any] = {"id": "1", "model": "mine", "turns": [], "question": "Hello"}


@contextmanager
def serving(replies: Replies, *names: str) -> Iterator[tuple[WebChat, int]]:
    """A chat that is served at a port of this machine."""
    chat = WebChat(replies, {"offered": list(names), "asked": list(names), "drawing": DRAWING})
    listener = listen(HERE, 0)
    server = chat.server(listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    # A test that fails must not leave the thread, for which pytest would wait.
    try:
        wait_for(lambda: server.started, 20)
        yield chat, listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def told(port: int, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(HERE, port, timeout=60)
    connection.request(method, path, body.encode(), headers)
    return connection.getresponse()


def a_run(folder: Path, **made: str) -> None:
    """A run whose stages have each made what they are named after, of this type."""
    for name, kind in made.items():
        (folder / name / "out").mkdir(parents=True)
        output = {"type": kind, "name": name, "path": "out", "digest": "", "files": {}}
        write_json(folder / name / "manifest.json", sealed({"stage": name, "outputs": {"made": output}}))
    write_json(folder / "config.json", {"stages": {name: {} for name in made}})


@WITH_SERVER
def test_only_who_has_the_whole_address_may_ask() -> None:
    with serving(Replies([], ""), "mine") as (chat, port):
        page = told(port, "GET", f"/{chat.secret}/")
        assert page.status == 200 and "frame-ancestors 'none'" in str(
            page.getheader("Content-Security-Policy")
        )
        assert page.getheader("Referrer-Policy") == "no-referrer"
        text = page.read().decode()
        assert "http" not in text and "@" not in text.replace("@media", "").replace("@keyframes", "")
        for path in ("/", "/reply", "/stop", f"/{chat.secret[:-1]}/", f"/{chat.secret[:-1]}/reply"):
            for method in ("GET", "POST"):
                assert told(port, method, path, json.dumps(ASK)).status in (403, 405), path
        # A name that somebody has pointed at this machine.
        assert told(port, "GET", f"/{chat.secret}/", Host=f"evil.example:{port}").status == 400
        assert told(port, "GET", f"/{chat.secret}/", Host=f"localhost:{port}").status == 200


@WITH_SERVER
def test_what_is_no_question_is_refused() -> None:
    changes: list[dict[str, Any]] = [
        {"temperature": -1},
        {"question": ""},
        {"turns": [{"role": "system", "content": ""}]},
        {"more": 1},
    ]
    with serving(Replies([], ""), "mine") as (chat, port):
        path = f"/{chat.secret}/reply"
        assert told(port, "POST", path, "nonsense").status == 400
        for change in changes:
            assert told(port, "POST", path, json.dumps(ASK | DRAWING | change)).status == 400, change
        # A page may not have any folder of this machine loaded.
        refused = told(port, "POST", path, json.dumps(ASK | DRAWING | {"model": "/etc"}))
        assert refused.status == 400 and b"not offered" in refused.read()


@WITH_SERVER
def test_what_a_page_sends_takes_little_memory() -> None:
    with serving(Replies([], ""), "mine") as (chat, port):
        assert told(port, "POST", f"/{chat.secret}/stop", "x" * 300).status == 413
        assert told(port, "POST", f"/{chat.secret}/reply", "x" * (8 * 2**20 + 1)).status == 413
        # Stops of replies that are over.
        for number in range(70):
            assert told(port, "POST", f"/{chat.secret}/stop", str(number)).status == 204
        assert not chat._stops and len(chat._early_stops) == 64


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="starlette and uvicorn") as raised:
        require_web()
    assert "r1pipe[web]" in raised.value.fix


@WITH_SERVER
def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server((HERE, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} of 127.0.0.1: Address already in use\n"):
            listen(HERE, port)
        refused = r1pipe(tmp_path, "chat", "embedded:base", "--web", "--port", str(port))
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
    refused = r1pipe(tmp_path, "chat", "embedded:base", "--port", "1")
    assert refused.returncode == 2 and "--web" in refused.stderr


def test_what_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was named, under that name, what the same run has made, and what ships."""
    monkeypatch.chdir(tmp_path)
    for run in ("mine", "other"):
        a_run(Path("runs", run), zero="checkpoint", judge="reward-model", dev="checkpoint")
    shipped = ["embedded:base", "embedded:student"]
    assert offered(["mine/dev"]) == ["mine/dev", "mine/zero", *shipped]
    assert offered(["runs/mine/dev/out", "mine/dev"]) == ["runs/mine/dev/out", "mine/zero", *shipped]
    assert offered(["embedded:student"]) == ["embedded:student", "embedded:base"]


# --- with models ------------------------------------------------------------------------------------------------------


class Recorded(Replies):
    """Keeps the events, also those that no page waits for any more."""

    def draw(self, ask: Any, put: Any, stop: threading.Event) -> None:
        self.events: list[Any] = []

        def keep(event: Any) -> None:
            self.events.append(event)
            put(event)

        super().draw(ask, keep, stop)


@WITH_SERVER
@pytest.mark.slow
def test_a_page_that_is_closed_ends_its_reply_and_so_does_a_stop_that_comes_first(tmp_path: Path) -> None:
    from r1pipe.serving.talk import load

    name = str(taught(tmp_path / "endless", "la " * 50, ends=False))
    replies = Recorded([load(name)], "")
    body = json.dumps(ASK | DRAWING | {"model": name, "max_tokens": 100_000})
    with serving(replies, name) as (chat, port):
        connection = http.client.HTTPConnection(HERE, port, timeout=60)
        connection.request("POST", f"/{chat.secret}/reply", body)
        answer = connection.getresponse()
        while b"said" not in answer.readline():
            pass
        answer.close()
        connection.close()
        wait_for(lambda: "end" in replies.events[-1], 20)
        end = replies.events[-1]["end"]
        assert end["remarks"] == [f"stopped after {end['tokens']} tokens"] and end["tokens"] < 50_000

        assert told(port, "POST", f"/{chat.secret}/stop", ASK["id"]).status == 204
        *_, last = told(port, "POST", f"/{chat.secret}/reply", body).read().splitlines()
        assert json.loads(last)["end"]["tokens"] == 1


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[str]:
    """The address that `r1pipe chat --web` prints."""
    process = start(folder, "chat", *arguments, "--web")
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address.startswith(f"http://{HERE}:"), process.communicate()
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == -15


def ask(tab: Any, question: str) -> None:
    tab.fill("#question", question)
    tab.press("#question", "Enter")
    tab.wait_for_selector("#send:not([hidden])")


# Notes whether the thinking is unfolded, and the answer, whenever something changes.
WATCH = """
window.seen = [];
new MutationObserver(() => {
  const thinking = document.querySelector(".thinking");
  if (thinking) seen.push([thinking.open, document.querySelector(".said").textContent]);
}).observe(document.getElementById("talk"), { subtree: true, childList: true, characterData: true, attributes: true });
"""


@WITH_SERVER
@IN_A_BROWSER
@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    run = tmp_path / "runs/mine"
    a_run(run, a="checkpoint", b="checkpoint", endless="checkpoint")
    taught(run / "a/out", f"<think>I think: {EVIL}</think>I say: {EVIL}")
    taught(run / "b/out", "<script>document.title='taken'</script> four")
    taught(run / "endless/out", "la " * 50, ends=False)
    with (
        command(tmp_path, "mine/a", "mine/b", "--temperature", "0") as address,
        browser(viewport={"width": 390, "height": 844}) as seen,
    ):
        tab = seen.tab
        tab.goto(address)
        tab.evaluate(WATCH)
        ask(tab, "Hello")
        assert tab.locator("h2").all_inner_texts() == ["mine/a", "mine/b"]
        assert tab.locator(".said").all_inner_texts() == [
            f"I say: {EVIL}",
            "<script>document.title='taken'</script> four",
        ]
        # It is unfolded until the answer comes.
        states = tab.evaluate("seen")
        assert states[0] == [True, ""] and states[-1] == [False, f"I say: {EVIL}"]
        assert tab.locator(".thinking").count() == 1
        tab.locator(".thinking summary").click()
        assert tab.locator(".thought").inner_text() == f"I think: {EVIL}"
        assert tab.locator(".thinking summary").inner_text().startswith("Thought for")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390

        tab.select_option("#second", "")
        tab.select_option("#first", "mine/b")
        assert "now asked: mine/b" in tab.inner_text("#talk")
        ask(tab, EVIL)
        assert tab.locator(".asked").last.inner_text() == EVIL
        assert tab.locator(".sides").last.locator("h2").all_inner_texts() == ["mine/b"]
        tab.click("#new")
        ask(tab, "Hello")
        assert tab.locator(".said").inner_text() == "<script>document.title='taken'</script> four"
        tab.select_option("#first", "mine/a")
        ask(tab, "Hello")
        assert tab.locator(".sides").last.locator("h2").all_inner_texts() == ["mine/a"]

        tab.click("#new")
        assert tab.inner_text("#talk") == ""
        tab.select_option("#first", "mine/endless")
        tab.fill("#question", "Hello")
        tab.click("#send")
        tab.wait_for_selector(".said:not(:empty)")
        tab.click("#stop")
        tab.wait_for_selector("#send:not([hidden])")
        assert "stopped after" in tab.inner_text("article")

        # It is drawn at random, and yet the same.
        tab.click("#settings summary")
        tab.fill("#temperature", "10")
        tab.fill("#top_p", "1")
        tab.fill("#seed", "7")
        tab.fill("#max_tokens", "20")
        said = []
        for _ in range(2):
            tab.click("#new")
            ask(tab, "Hello")
            said.append(tab.inner_text("#talk .said"))
        assert said[0] and said[0] == said[1]
        assert tab.title() == "r1pipe chat" and tab.locator("main img, main script").count() == 0
    assert seen.troubles == []
    assert all(request.startswith((address, "data:")) for request in seen.requests)


@WITH_SERVER
@IN_A_BROWSER
@WITH_AXE
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_no_barriers(scheme: Any, tmp_path: Path) -> None:
    base = shutil.copytree(EMBEDDED / "base", tmp_path / "base")
    with (
        command(tmp_path, "embedded:base", str(base), "--template", "r1-zero") as address,
        browser(bypass_csp=True, color_scheme=scheme) as seen,
    ):
        seen.tab.goto(address)
        assert seen.barriers() == []
        ask(seen.tab, "12 + 7 - 3 = ?")
        seen.tab.click("#settings summary")
        assert seen.barriers() == []
