"""A live page: the browser shows pictures of a running simulation and sends key presses back.

By default only this computer can open it.
"""

from __future__ import annotations

import importlib.util
import io
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from rfx.robot.state import Array
from rfx.system.extras import missing
from rfx.system.screen import has_screen, require_screen

WAIT_S = 5.0  # a request for the next picture waits this long for it

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>TITLE</title><style>
:root { color-scheme: dark } * { box-sizing: border-box }
body { margin: 0; background: #16181d; color: #e6edf3; font: 15px/1.5 system-ui, sans-serif; display: grid; justify-items: center }
main { width: min(100vw, 960px); padding: 12px }
img { width: 100%; display: block; border-radius: 8px; background: #000; aspect-ratio: 16/9 }
table { font-variant-numeric: tabular-nums; margin: 10px 0 } th { font-weight: 400; color: #9198a1; text-align: left; padding-right: 16px }
td { text-align: right; padding-right: 16px; min-width: 5em } button { font: inherit; color: inherit; background: #2a2f37; cursor: pointer;
border: 1px solid #3d444d; border-radius: 6px; padding: 6px 12px; margin: 2px } kbd { color: #9198a1; padding-left: 6px }
#note { color: #f0883e }
</style></head><body><main>
<img id="picture" alt="the robot">
<table><tr><th></th><th>vx, m/s</th><th>vy, m/s</th><th>yaw rate, rad/s</th></tr>
<tr><th>commanded</th><td></td><td></td><td></td></tr><tr><th>actual</th><td></td><td></td><td></td></tr></table>
<div id="keys"></div><p id="note"></p></main><script>
const keys = KEYS, picture = document.getElementById("picture"), note = document.getElementById("note");
const cells = [...document.querySelectorAll("td")];
const press = key => fetch("/key?" + new URLSearchParams({key}), {method: "POST"}).catch(() => {});
for (const [key, label] of keys) {
  const button = document.createElement("button"), hint = document.createElement("kbd");
  button.textContent = label; hint.textContent = key === " " ? "space" : key; button.append(hint);
  button.onclick = () => { press(key); button.blur() };
  document.getElementById("keys").append(button);
}
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys.some(([key]) => key === event.key)) return;
  event.preventDefault(); press(event.key);
});
(async () => {
  for (let after = 0;;) {
    try {
      const answer = await fetch("/picture?after=" + after);
      if (answer.status !== 200) throw new Error(await answer.text());
      const state = JSON.parse(answer.headers.get("X-State")), url = URL.createObjectURL(await answer.blob());
      const last = picture.src;
      picture.src = url; await picture.decode(); URL.revokeObjectURL(last);
      [...state.command, ...state.velocity].forEach((value, i) => cells[i].textContent = value.toFixed(2));
      document.querySelector("table").hidden = !state.command.length;
      after = state.picture; note.textContent = state.note;
    } catch (error) { note.textContent = "no picture: " + error.message; await new Promise(wake => setTimeout(wake, 500)); }
  }
})();
</script></body></html>
"""


def has_window(asked: bool | None) -> bool:
    """Whether to open a window; asked is the user's wish, and with None the answer is whether there is a screen.

    Raises ValueError if the user wants a window and there is no screen.
    """
    if asked:
        require_screen("window=true", "leave it out, for a page in the browser")
    return has_screen() if asked is None else asked


class LivePage:
    """Serves the page inside a `with` block; publish shows pictures, and press is called with each pressed key.

    keys has a (key, label) for each button. port 0 takes a free port. Raises OSError if the address is not available,
    and ImportError that names the extra if Pillow is missing, which encodes the pictures.
    """

    def __init__(
        self,
        title: str,
        keys: list[tuple[str, str]],
        press: Callable[[str], None],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ):
        if importlib.util.find_spec("PIL") is None:
            raise missing("the live page", "PIL")
        self._page = PAGE.replace("TITLE", title.replace("<", "&lt;")).replace("KEYS", json.dumps(keys)).encode()
        self._keys, self._press = {key for key, _ in keys}, press
        self._fresh, self._number, self._picture, self._state = threading.Condition(), 0, b"", "{}"
        page = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                page._get(self)

            def do_POST(self) -> None:
                page._post(self)

            def log_message(self, *_: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise OSError(
                f"no page at {host}:{port}: {(error.strerror or str(error)).lower()}; choose another with port=PORT (0: a free one) "
                "and host=ADDRESS"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def url(self) -> str:
        """The address of the page."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def __enter__(self) -> LivePage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(self, frame: Array, state: dict[str, Any]) -> None:
        """Show frame (H, W, 3), uint8, with the entries of state.

        These are command and velocity, three numbers each or none, and note, a text.
        """
        with self._fresh:
            self._number += 1
            self._picture, self._state = jpeg(frame), json.dumps({**state, "picture": self._number})
            self._fresh.notify_all()

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlparse(request.path)
        if parts.path == "/":
            return _answer(request, HTTPStatus.OK, "text/html; charset=utf-8", self._page)
        after = parse_qs(parts.query).get("after", ["0"])[0]
        if parts.path != "/picture" or not after.isdecimal():
            return _answer(request, HTTPStatus.NOT_FOUND, "text/plain", b"there is / and /picture?after=NUMBER")
        with self._fresh:
            if not self._fresh.wait_for(lambda: self._number > int(after), WAIT_S):
                return _answer(request, HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"the simulation has stopped")
            picture, state = self._picture, self._state
        return _answer(request, HTTPStatus.OK, "image/jpeg", picture, state)

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlparse(request.path)
        key = parse_qs(parts.query).get("key", [""])[0]
        if parts.path != "/key" or key not in self._keys:
            return _answer(request, HTTPStatus.NOT_FOUND, "text/plain", b"there is /key?key=KEY")
        self._press(key)
        return _answer(request, HTTPStatus.OK, "text/plain", b"")


def jpeg(frame: Array) -> bytes:
    """Encode a picture (H, W, 3), uint8, as JPEG."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(frame).save(data, format="JPEG", quality=85)
    return data.getvalue()


def _answer(
    request: BaseHTTPRequestHandler, status: HTTPStatus, kind: str, content: bytes, state: str | None = None
) -> None:
    try:
        request.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        headers |= {"X-State": state} if state else {}
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)
    except ConnectionError:
        request.close_connection = True  # the browser has left
