"""Web sites for tests: enough of GitLab for WebArena's log-in and evaluators, and an LLM that judges."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

SIGN_IN = """<form method="post" action="/session"><label>Username or email <input name="user"></label>
<label>Password <input name="password" type="password"></label><button>Sign in</button></form>"""
HOME = """<h1>Projects</h1><a href="/dashboard/todos">To-Do List</a> <a href="/away">Moved</a> <a href="/gone">Gone</a>
<form method="post" action="/status"><input name="status" aria-label="Status"><button>Set status</button></form>"""


class Site:
    """A server on a port of its own; `served` are the paths that were asked for."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.verdict, self.status, self.broken, self.away = "correct", "nothing", False, ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _page(self, path: str, cookie: str) -> str:
        if path == "/users/sign_in":
            return SIGN_IN if "signed=1" not in cookie else "<p>signed in before"
        if path == "/byteblaze":
            return f'<div class="cover-status"><i>icon</i>{self.status}</div>'
        return HOME if path == "/" and "signed=1" in cookie else f"<p>{path}"

    def _handler(site) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.served.append(self.path)
                if self.path == "/gone":
                    self.close_connection = True  # without a word
                elif self.path == "/away":
                    self._say(302, "", ("Location", site.away + "/elsewhere"))
                else:
                    page = site._page(self.path, self.headers.get("Cookie", ""))
                    self._say(503 if site.broken else 200, f"<title>{self.path}</title>{page}")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if self.path == "/v1/chat/completions":
                    site.asked.append((self.headers["Authorization"], json.loads(body)))
                    choice = {"index": 0, "message": {"role": "assistant", "content": site.verdict}}
                    self._say(200, json.dumps({"choices": [choice]}), ("Content-Type", "application/json"))
                    return
                site.status = parse_qs(body).get("status", [site.status])[0]
                self._say(302, "", ("Location", "/"), ("Set-Cookie", "signed=1; Path=/"))

            def _say(self, code: int, text: str, *headers: tuple[str, str]) -> None:
                self.send_response(code)
                for name, value in ({"Content-Type": "text/html"} | dict(headers)).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Handler
