"""Who is let through to the page, judged from a request's head alone. Pure.

What it keeps out: other sites in the owner's browser (their Origin, or where the browser says that
they come from), names that were made to point here (DNS rebinding: the Host is theirs), other
programs and users of this machine (they have no secret).
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from foxden_agent.page.keys import Keys

COOKIE = "foxden_page"
HALF = "x-foxden-page"  # the header in which the page's script shows its half
BODY_BYTES = 64 * 1024
_OWN_SITES = ("", "same-origin", "none")  # "none": the owner typed it, or opened a bookmark

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def refusal(method: str, path: str, headers: Mapping[str, str], port: int, keys: Keys) -> str:
    """Why a request is refused, for whoever sent it; empty where it is let through.

    `headers` have lower-case names.
    """
    if headers.get("host", "") != f"127.0.0.1:{port}":
        return "This page answers at its own address alone."
    if method not in ("GET", "HEAD", "POST"):
        return "There is nothing here that this could change."
    origin = headers.get("origin", "")
    if origin and origin != f"http://127.0.0.1:{port}":
        return "Another site has sent this."
    if not path.startswith("/api/"):
        # Program files without anything of the owner's, and the door that a key opens.
        return "" if method != "POST" else "There is nothing here that this could change."
    if headers.get("sec-fetch-site", "") not in _OWN_SITES:
        return "Another site has sent this."
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and keys.owns(secret):
        return ""
    if method == "POST" and not origin:
        return "A browser says who sends this, and this one does not."
    if keys.knows(_cookie(headers.get("cookie", "")), headers.get(HALF, "")):
        return ""
    return "This address was not opened with a key, or the agent has been started again since."


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
