"""Pages of other sites, in a real browser: their handshakes are refused, those of the site pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from modes import BACKENDS, MODES
from nginx import Nginx
from playwright.sync_api import Browser, Page
from uwsgi_server import Server, free_port
from werkzeug.serving import make_ssl_devcert

# Says whether a WebSocket opens and answers.
OPEN = """url => new Promise(done => {
    const ws = new WebSocket(url);
    ws.onopen = () => ws.send('hi');
    ws.onmessage = event => { done(event.data); ws.close(); };
    ws.onerror = () => done('refused');
})"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def other_site(folder: Path) -> Iterator[str]:
    """Serve a page on another port; gives its URL."""
    (folder / "index.html").write_text("<title>another site</title>")
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", free_port()), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://localhost:{http.server_port}/"
        http.shutdown()
        thread.join()


def answer(page: Page, of: str, url: str) -> str:
    """Open a page and let it open a WebSocket."""
    page.goto(of)
    found: str = page.evaluate(OPEN, url)
    return found


@pytest.mark.parametrize("name", BACKENDS)
def test_page_on_another_port_is_refused_and_the_site_s_own_passes(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    with MODES[name].serve() as server, other_site(tmp_path) as other:
        page = browser.new_page()
        for host in ("localhost", "127.0.0.1"):
            site = f"{host}:{server.port}"
            assert answer(page, f"http://{site}/pid", f"ws://{site}/echo") == "hi"
            assert answer(page, other, f"ws://{site}/echo") == "refused"
            refusal = next(line for line in server.log.splitlines() if f"host '{site}'" in line)
            assert f"origin '{other.rstrip('/')}'" in refusal
            assert "UWSGI_WEBSOCKET_ORIGINS" in refusal
        # The same machine by its other name is another site as well.
        there = f"http://127.0.0.1:{server.port}/pid"
        assert answer(page, there, f"ws://localhost:{server.port}/echo") == "refused"
        page.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_the_same_behind_nginx_with_tls(name: str, browser: Browser, tmp_path: Path) -> None:
    certificate = make_ssl_devcert(str(tmp_path / "own"), host="localhost")
    socket = tmp_path / "http.sock"

    def nginx(name: str) -> Nginx:
        return Nginx(tmp_path / name, socket, certificate=certificate)

    server: Server = MODES[name].serve("--http-socket", str(socket), "--chmod-socket=666")
    with server, nginx("site") as site, nginx("other") as other:
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        socket_url = f"wss://localhost:{site.port}/echo"
        assert answer(page, f"https://localhost:{site.port}/pid", socket_url) == "hi"
        assert answer(page, f"https://localhost:{other.port}/pid", socket_url) == "refused"
        assert f"origin 'https://localhost:{other.port}'" in server.log
        context.close()
