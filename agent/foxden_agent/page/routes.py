"""The page's addresses. Everything goes through the guard first; nothing here decides anything."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from foxden_agent.page import guard, settings_form, texts
from foxden_agent.page.first_run import FirstRun, WrongStep
from foxden_agent.page.guarded import Guarded
from foxden_agent.page.keys import KEY_SECONDS, Keys
from foxden_agent.page.shown import Shown
from foxden_agent.page.status import history
from foxden_agent.page.whereabouts import Whereabouts
from foxden_agent.policy import owner_files
from foxden_agent.policy.owner_files import BadFile
from foxden_agent.policy.wishes import Kind, Wish

# All files there are, by their address: nothing of a request ever becomes a path.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{
        f"/{name}": (name, kind)
        for kind, names in {
            "text/css; charset=utf-8": ("style.css",),
            "text/javascript; charset=utf-8": (
                *("main.js", "call.js", "words.js", "dom.js", "now.js", "history.js"),
                *("plot.js", "settings.js", "log.js", "first_run.js"),
            ),
            "image/svg+xml": ("icon.svg",),
        }.items()
        for name in names
    },
}
_FOLDER = files("foxden_agent.page") / "files"
_HOUR = 3600.0
_NONCE = 100
_LONG = 2000  # characters of a text in a call
_PAUSES: dict[str, dict[str, Any]] = {
    "hour": {"kind": Kind.FOR, "seconds": _HOUR},
    "tomorrow": {"kind": Kind.TOMORROW},
    "forever": {"kind": Kind.FOREVER},
    "finish": {"kind": Kind.FINISH},
    "restart": {"kind": Kind.RESTART},
}


class Refused(Exception):
    """A call that is not followed; the text is for the owner."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def create(shown: Shown, keys: Keys, where: Whereabouts) -> Guarded:
    """The page as an ASGI application."""
    api = _Api(shown, keys, where)
    app = Starlette(
        routes=[
            *(Route(path, _file, methods=["GET"]) for path in _FILES),
            Route("/texts.json", _texts, methods=["GET"]),
            Route("/proof", api.proof, methods=["GET"]),
            Route("/open", api.open, methods=["GET"]),
            Route("/api/key", api.key, methods=["POST"]),
            Route("/api/status", api.status, methods=["GET"]),
            Route("/api/history", api.history, methods=["GET"]),
            Route("/api/log", api.log, methods=["GET"]),
            Route("/api/settings", api.settings, methods=["GET"]),
            Route("/api/settings", api.save, methods=["POST"]),
            Route("/api/pause", api.pause, methods=["POST"]),
            Route("/api/resume", api.resume, methods=["POST"]),
            Route("/api/quit", api.quit, methods=["POST"]),
            Route("/api/first-run/picture.png", api.picture, methods=["GET"]),
            Route("/api/first-run/{action}", api.first_run, methods=["POST"]),
        ],
        exception_handlers={Refused: _refused},
    )
    return Guarded(app, keys, where.port)


class _Api:
    def __init__(self, shown: Shown, keys: Keys, where: Whereabouts) -> None:
        self._shown = shown
        self._keys = keys
        self._where = where

    async def proof(self, request: Request) -> Response:
        """For programs that know the secret: this is their agent, and nobody in its place."""
        nonce = request.query_params.get("nonce", "")[:_NONCE]
        return PlainTextResponse(self._where.proof(nonce))

    async def open(self, request: Request) -> Response:
        """A key becomes a session; the address with it is left at once."""
        session = self._keys.open(request.query_params.get("key", ""))
        if session is None:
            return RedirectResponse("/#locked", 303)
        response = RedirectResponse(f"/#half={session.half}", 303)
        response.set_cookie(
            guard.COOKIE, session.cookie, path="/", httponly=True, samesite="strict"
        )
        return response

    async def key(self, request: Request) -> Response:
        return JSONResponse({"key": self._keys.new_key(), "seconds": KEY_SECONDS})

    async def status(self, request: Request) -> Response:
        return JSONResponse(self._shown.status(_language(request)))

    async def history(self, request: Request) -> Response:
        seen = self._shown.seen
        device = request.query_params.get("device", "")
        if seen is None or not seen.cards:
            raise Refused("The agent does not run yet.", 409)
        if device not in seen.cards:
            device = next(iter(seen.cards))
        told = history(seen, device, _language(request))
        cards = [{"device": one, "name": seen.names.get(one, one)} for one in seen.cards]
        return JSONResponse({**told, "cards": cards})

    async def log(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        number = int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 0
        return JSONResponse({"lines": [asdict(line) for line in self._shown.log.after(number)]})

    async def settings(self, request: Request) -> Response:
        return JSONResponse(await _about_files(settings_form.form, self._shown.folder))

    async def save(self, request: Request) -> Response:
        values = (await _json(request)).get("values")
        if not isinstance(values, dict) or not values:
            raise Refused("No values were given.")
        errors = await _about_files(settings_form.save, self._shown.folder, values)
        if errors:
            return JSONResponse({"errors": errors}, 422)
        self._shown.decide_again()
        return JSONResponse(await _about_files(settings_form.form, self._shown.folder))

    async def pause(self, request: Request) -> Response:
        how = (await _json(request)).get("how")
        if not isinstance(how, str) or how not in _PAUSES:
            raise Refused(f"A pause is one of {', '.join(_PAUSES)}.")
        fields = _PAUSES[how]
        if how == "restart":
            run = await asyncio.to_thread(owner_files.last_run, self._shown.folder)
            if not run:
                raise Refused("The agent does not run yet: choose another pause.", 409)
            fields = {**fields, "run": run}
        await self._wish(Wish(secrets.token_hex(8), made=time.time(), **fields))
        return JSONResponse(self._shown.status(_language(request)))

    async def resume(self, request: Request) -> Response:
        await self._wish(None)
        return JSONResponse(self._shown.status(_language(request)))

    async def _wish(self, wish: Wish | None) -> None:
        await _about_files(owner_files.write_wish, self._shown.folder, wish)
        self._shown.decide_again()

    async def quit(self, request: Request) -> Response:
        if not self._shown.may_quit:
            raise Refused("Another program started this agent and would start it again.", 409)
        self._shown.stop.set()
        return JSONResponse({})

    async def first_run(self, request: Request) -> Response:
        run = self._shown.first_run
        if run is None:
            raise Refused("This installation has joined already.", 409)
        told = await _json(request)
        link, name, model = (str(told.get(key, ""))[:_LONG] for key in ("link", "name", "model"))
        action = request.path_params["action"]
        try:
            if action == "look":
                await run.look(link)
            elif action == "join":
                run.join(link, name)
            elif action == "fetch":
                run.fetch(model)
            elif action in _ACTIONS:
                _ACTIONS[action](run)
            else:
                raise Refused("There is no such step.", 404)
        except WrongStep as error:
            raise Refused(str(error), 409) from None
        return JSONResponse(self._shown.status(_language(request)))

    async def picture(self, request: Request) -> Response:
        run = self._shown.first_run
        if run is None or not run.picture:
            raise Refused("There is no picture yet.", 404)
        return Response(run.picture, media_type="image/png")


_ACTIONS: dict[str, Callable[[FirstRun], None]] = {
    "check": FirstRun.check,
    "go-on-anyway": FirstRun.go_on_anyway,
    "install": FirstRun.install,
    "no-model": FirstRun.no_model,
    "draw": FirstRun.draw,
    "online": FirstRun.online,
}


async def _file(request: Request) -> Response:
    name, kind = _FILES[request.url.path]
    body = await asyncio.to_thread((_FOLDER / name).read_bytes)
    return Response(body, media_type=kind)


async def _texts(request: Request) -> Response:
    language = _language(request)
    return JSONResponse({"language": language, "texts": dict(texts.texts(language))})


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 500
    return JSONResponse({"problem": str(error)}, status)


async def _about_files(do: Callable[..., Any], *arguments: Any) -> Any:
    """On a thread: a write waits for the disk. What goes wrong there is the owner's to mend."""
    try:
        return await asyncio.to_thread(do, *arguments)
    except BadFile as error:
        raise Refused(str(error), 409) from None
    except OSError as error:
        why = error.strerror or str(error)
        where = error.filename or "the agent's folder"
        text = f"{where} cannot be written ({why}): see to its rights and space."
        raise Refused(text, 507) from None


async def _json(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused("A call is JSON.", 415)
    try:
        told = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused("That is no JSON.") from None
    except ClientDisconnect:  # gone, or the guard has cut it off
        raise Refused("That is more than this page takes.", 413) from None
    if not isinstance(told, dict):
        raise Refused("That is no JSON object.")
    return told


def _language(request: Request) -> str:
    return texts.chosen(request.headers.get("accept-language", ""), texts.languages())
