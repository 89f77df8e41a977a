"""The owner's two files in the agent's home folder: `policy.json` and `wishes.json`.

A running agent looks at both with every reading: one `stat` each while nothing changes. Both are
written whole or not at all, and only by our own commands or the owner's editor.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foxden_agent.policy import settings_json
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.wishes import Wish
from foxden_proto.home import write_private

log = logging.getLogger(__name__)

POLICY, WISHES, RUN = "policy.json", "wishes.json", "run.json"
_MOST_BYTES = 2**20


class BadFile(Exception):
    """A file that cannot be used; the text says which, what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class OwnersWill:
    """What both files say now, and in sentences what of them is not followed."""

    policy: Policy = Policy()
    wish: Wish | None = None  # one that holds in this run of the agent
    problems: tuple[str, ...] = ()


class OwnerFiles:
    """Both files as a running agent reads them. `look` never fails.

    A policy with a bad value is not followed: the last good one goes on, and at the agent's start
    what is good of it beside defaults. A wish that cannot be read is none, and changes none.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run
        self._policy = _Watched(folder / POLICY)
        self._wishes = _Watched(folder / WISHES)
        self._will = OwnersWill()
        self._begun = False
        self._problems: dict[str, tuple[str, ...]] = {}

    def look(self) -> OwnersWill:
        """What the files say now."""
        changed = self._policy.changed(), self._wishes.changed()
        if any(changed):
            policy, wish = self._will.policy, self._will.wish
            if changed[0]:
                policy = self._read_policy(policy)
            if changed[1]:
                wish = self._read_wish(wish)
            problems = tuple(text for texts in self._problems.values() for text in texts)
            self._will = OwnersWill(policy, wish, problems)
            self._begun = True
        return self._will

    def _read_policy(self, last: Policy) -> Policy:
        try:
            policy, bad = settings_json.read(read_json(self._folder / POLICY))
        except BadFile as error:
            self._policy.look_again()
            self._tell(POLICY, [f"{error}; the policy before goes on"])
            return last
        instead = "the policy before goes on" if self._begun else "the default goes on"
        path = self._folder / POLICY
        self._tell(POLICY, [f"{path} is not followed: {problem}; {instead}" for problem in bad])
        return last if bad and self._begun else policy

    def _read_wish(self, last: Wish | None) -> Wish | None:
        path = self._folder / WISHES
        try:
            wish = Wish.from_json(read_json(path).get("wish"))
        except (BadFile, ValueError) as error:
            self._wishes.look_again()
            self._tell(WISHES, [f"{path} is not followed: {error}; write it with `foxden pause`"])
            return last
        self._tell(WISHES, [])
        return wish if wish is not None and wish.holds_in(self._run) else None

    def _tell(self, name: str, problems: list[str]) -> None:
        if tuple(problems) != self._problems.get(name, ()):
            self._problems[name] = tuple(problems)
            for problem in problems:
                log.warning("%s", problem)


class _Watched:
    """Whether a file is another than at the last look. A replaced file has another inode also
    where the clock's grain is coarse and the size the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = (-1,)

    def changed(self) -> bool:
        try:
            stat = os.stat(self._path)
            now: tuple[int, ...] | None = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            now = None
        before, self._seen = self._seen, now
        return now != before

    def look_again(self) -> None:
        """It could not be read: perhaps somebody was writing it, and no later look would tell."""
        self._seen = (-1,)


def read_json(path: Path) -> dict[str, Any]:
    """The file's object; an empty one where there is no file. Raises BadFile."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise BadFile(f"{path} is larger than 1 MiB: move it away and begin anew")
        found = json.loads(data)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror}): see to its rights") from None
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is no JSON ({error}): mend it, or move it away") from None
    if not isinstance(found, dict):
        raise BadFile(f"{path} is no JSON object: mend it, or move it away")
    return found


def set_policy(folder: Path, name: str, value: Any) -> Policy:
    """Change one key of the policy file; what else stands there stays, known or not.

    Raises BadFile, settings_json.BadValue or OSError.
    """
    path = folder / POLICY
    changed = settings_json.with_value(read_json(path), name, value)
    write_private(path, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
    return settings_json.read(changed)[0]


def set_policies(folder: Path, values: Mapping[str, Any]) -> list[settings_json.BadValue]:
    """Change several keys of the policy file at once, or none of them where one is refused: then
    the complaints are returned. Raises BadFile or OSError."""
    path = folder / POLICY
    changed, bad = settings_json.with_values(read_json(path), values)
    if not bad:
        write_private(path, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
    return bad


def write_wish(folder: Path, wish: Wish | None) -> None:
    """Put a wish in the place of the one before; None: there is none. Raises OSError."""
    data = {"wish": None if wish is None else wish.to_json()}
    write_private(folder / WISHES, json.dumps(data, indent=2) + "\n")


def begin_run(folder: Path, make: Callable[[], str] = lambda: secrets.token_hex(8)) -> str:
    """Note that a run of the agent begins, and return its id: it ends every "until restart".

    To be called once, when the agent holds its folder's lock. A full disk keeps no agent from
    running: the file then names the run before, and a pause until the restart cannot be asked for.
    """
    run = make()
    try:
        write_private(folder / RUN, json.dumps({"run": run}) + "\n")
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): see that its disk has space",
            *(folder / RUN, error.strerror or error),
        )
    return run


def last_run(folder: Path) -> str:
    """The id of the agent's run that goes on, or of the last one; empty where there was none."""
    try:
        run = read_json(folder / RUN).get("run")
    except BadFile:
        return ""
    return run if isinstance(run, str) else ""
