"""How programs of the same user talk to the page: `foxden page` and the tray. No library needed."""

from __future__ import annotations

import hmac
import http.client
import json
import secrets
from pathlib import Path
from typing import Any

from foxden_agent.page import whereabouts
from foxden_agent.page.whereabouts import Whereabouts

_PROOF_BYTES = 64
_IMPOSTOR = "Another program answers where the agent's page was: start the agent again."


class NoPage(Exception):
    """No agent answers; the text says so, and what to do."""


class Refused(Exception):
    """The agent did not follow; the text is its own."""


class PageCalls:
    """Calls of one installation's page. Looks anew where it is after each failure: the agent may
    have been started again, with another port and another secret."""

    def __init__(self, folder: Path, *, language: str = "en", timeout: float = 5.0) -> None:
        self._folder = folder
        self._language = language
        self._timeout = timeout

    def status(self) -> dict[str, Any]:
        """Raises NoPage."""
        return self._call("GET", "/api/status")

    def texts(self) -> dict[str, str]:
        """Raises NoPage."""
        told: dict[str, str] = self._call("GET", "/texts.json")["texts"]
        return told

    def do(self, what: str, **values: Any) -> dict[str, Any]:
        """A POST to /api/`what`. Raises NoPage or Refused."""
        return self._call("POST", f"/api/{what}", values)

    def address(self) -> str:
        """An address that lets a browser in, once, for half a minute. Raises NoPage."""
        where = self._where()
        key = self._call("POST", "/api/key", {})["key"]
        return f"{where.origin}/open?key={key}"

    def _where(self) -> Whereabouts:
        where = whereabouts.read(self._folder)
        if where is None:
            raise NoPage(
                "No agent with a page runs here: start it with `foxden up` or `foxden agent`, "
                "without --no-page."
            )
        return where

    def _prove(self, connection: http.client.HTTPConnection, where: Whereabouts) -> None:
        """Have the other end prove that it is our agent, on the connection that is used then: where
        an agent was killed, another user's program may listen on its port by now."""
        nonce = secrets.token_urlsafe(16)
        connection.request("GET", f"/proof?nonce={nonce}")
        told = connection.getresponse().read(_PROOF_BYTES)
        if not hmac.compare_digest(told, where.proof(nonce).encode()):
            raise NoPage(_IMPOSTOR)

    def _call(self, method: str, path: str, values: Any = None) -> dict[str, Any]:
        where = self._where()
        connection = http.client.HTTPConnection("127.0.0.1", where.port, timeout=self._timeout)
        headers = {
            "Authorization": f"Bearer {where.secret}",
            "Accept-Language": self._language,
            "Content-Type": "application/json",
        }
        try:
            self._prove(connection, where)
            body = None if values is None else json.dumps(values)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status == 403:
                raise NoPage(_IMPOSTOR)
            found = json.loads(told)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoPage(
                f"The agent does not answer at {where.origin} ({error}): start it again."
            ) from None
        finally:
            connection.close()
        if not isinstance(found, dict):
            raise NoPage(_IMPOSTOR)
        if answer.status >= 400:
            raise Refused(str(found.get("problem", f"It answered {answer.status}.")))
        return found
