"""Who may ask the page, and what a browser may do with it."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dreamgym.runtime.address import is_loopback

COOKIE = "dreamgym-view"
HEADERS = {
    # Nothing from elsewhere, no script but the page's own files, and no text that becomes markup.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Guard:
    """Lets in who brings the token, once in the address and then in a cookie.

    Without a token the server is for this machine alone: a request that names another host was sent by a page that
    made its own name mean this machine (DNS rebinding), and is refused.

    What is more than reading must come from the page itself: a browser says from where it comes (`Origin`).
    """

    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._answer(scope)(scope, receive, guarded)

    def _answer(self, scope: Scope) -> ASGIApp:
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
            return PlainTextResponse("only the page itself may ask for this", 403)
        if not self._token:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            return self._app if is_loopback(host) else PlainTextResponse("this page is for this machine alone", 403)
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        if self._fits(asked.pop("token", [""])[0]):
            rest = urlencode(asked, doseq=True)
            home = RedirectResponse(f"/{scope['path'].lstrip('/')}{'?' if rest else ''}{rest}", 303)
            home.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return home
        if self._fits(_cookie(headers.get("cookie", ""))):
            return self._app
        return PlainTextResponse("open the address with the token that `dreamgym view` has printed", 403)

    def _fits(self, brought: str) -> bool:
        return hmac.compare_digest(brought.encode(), self._token.encode())


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another address has sent a request; a client that is no browser names none."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    same = origin is None or origin.partition("://")[2] == headers.get("host", "")
    return not same or site not in ("same-origin", "none")


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
