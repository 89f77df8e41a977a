"""`python -m foxden_agent.engine.hub`: speaks to a hub of models, for `model_hub/`.

    plan REPO …           one line for each: {"repo", "plan"} or {"repo", "failed"}
    fetch REPO …          lines of {"doing", "done", "total"}, then {"fetched"} or {"failed"}

Each line of stdout is a JSON object. HF_ENDPOINT, HF_TOKEN, proxies and certificates are the
library's to read. When stdin closes the process is gone at once: nobody is left to fetch for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from foxden_agent.identity import locked
from foxden_agent.model_facts import FACTS_FILE, Unusable, known_pipeline
from foxden_agent.model_hub.choosing import INDEX, MOST_INDEX, Chosen, HubFile, NotUsable, choose
from foxden_agent.model_hub.folder import LOCK, STAGING, here_already
from foxden_proto.home import write_private

# Read by the library when it is imported.
_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_RESERVE = 100 * 1000**2  # bytes; a disk is not filled to its last byte
_TELL_SECONDS = 0.2
_ANSWER_SECONDS = 20.0  # for a call of the hub's API

Tell = Callable[[str, int, int], None]  # what is done, bytes that are there, of how many


class CannotFetch(Exception):
    """Why a model can't be fetched (now): what happened, and what to do. `again`: as it is."""

    def __init__(self, what: str, advice: str, *, again: bool = False) -> None:
        super().__init__(f"{what} {advice}")
        self.what, self.advice, self.again = what, advice, again


def main() -> int:
    parser = argparse.ArgumentParser(prog="foxden_agent.engine.hub", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("plan").add_argument("repos", nargs="+")
    fetching = verbs.add_parser("fetch")
    fetching.add_argument("repo")
    fetching.add_argument("--revision", required=True, help="the commit that the plan saw")
    fetching.add_argument("--models", type=Path, required=True, help="the model folder")
    fetching.add_argument("--name", required=True, help="of its folder there")
    fetching.add_argument("--facts", type=json.loads, default={}, help="for its foxden.json")
    arguments = parser.parse_args()
    # Ctrl-C in a terminal reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, name="stdin", daemon=True).start()
    os.environ.update(_ENVIRONMENT)
    if arguments.verb == "plan":
        for repo in arguments.repos:
            _say({"repo": repo, **_told(partial(_planned, repo), repo)})
    else:
        _say(_told(partial(_fetched, arguments), arguments.repo))
    return 0


def _planned(repo: str) -> dict[str, Any]:
    return {"plan": plan(repo)}


def _fetched(asked: argparse.Namespace) -> dict[str, Any]:
    fetch(asked.repo, asked.revision, asked.models / asked.name, asked.facts, _teller())
    return {"fetched": asked.name}


def plan(repo: str, revision: str | None = None) -> dict[str, Any]:
    """What there is to fetch of a model, at the commit that the hub has now or at this one. Raises
    CannotFetch, NotUsable, Unusable and what the library raises."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS)
    files = {
        one.rfilename: HubFile(
            one.rfilename,
            one.size if one.size is not None else -1,
            one.lfs.sha256 if one.lfs else "",
            one.blob_id or "",
        )
        for one in info.siblings or ()
    }
    if not info.sha:
        raise NotUsable("the hub names no commit of it")
    if revision is not None and info.sha != revision:
        raise NotUsable(f"the hub answers for commit {info.sha}, and was asked for {revision}")
    if INDEX not in files:
        choose({}, ())  # says so
    index = _index(repo, info.sha)
    known_pipeline(index)
    return {
        "repo": repo,
        "revision": info.sha,
        "licence": _licence(info),
        "files": [asdict(one) for one in choose(index, files.values())],
    }


def fetch(repo: str, revision: str, final: Path, facts: dict[str, Any], tell: Tell) -> None:
    """Bring a model to `final`, a folder in the model folder. What a try before has fetched is
    checked and not fetched again. Raises as `plan` does, and OSError."""
    from foxden_agent.engine.hub_download import address

    tell("asking the hub", 0, 0)
    files = [Chosen(**one) for one in plan(repo, revision)["files"]]
    models = final.parent
    staging = models / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    taken = CannotFetch(
        f"Another model is being fetched into {models}.", "Wait for its end, then try again."
    )
    with locked(staging / LOCK, taken):
        if here_already(final, repo, revision):
            return
        if final.exists():
            raise CannotFetch(
                f"{final} is there already, and is another model or another version of this one.",
                "Move or rename that folder, then try again.",
            )
        staged = staging / final.name
        staged.mkdir(exist_ok=True)
        _room(staged, files)
        total, before = sum(file.size for file in files), 0
        for file in files:

            def there(doing: str, count: int, before: int = before) -> None:
                tell(doing, before + count, total)

            _bring(address(repo, revision, file.path), file, staged, there)
            before += file.size
        _only(staged, files)
        source = {"source": repo, "revision": revision, "bytes": total}
        told = {"name": final.name, **facts, **source}
        write_private(staged / FACTS_FILE, json.dumps(told, indent=1))
        staged.rename(final)


def _index(repo: str, revision: str) -> dict[str, Any]:
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    from foxden_agent.engine.hub_download import address

    with get_session().stream(
        "GET", address(repo, revision, INDEX), headers=build_hf_headers(), timeout=_ANSWER_SECONDS
    ) as response:
        hf_raise_for_status(response)
        data = b""
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > MOST_INDEX:
                raise NotUsable(f"its {INDEX} is too big")
    try:
        index = json.loads(data)
    except ValueError:
        index = None
    if not isinstance(index, dict):
        raise NotUsable(f"its {INDEX} holds no JSON object")
    return index


def _bring(url: str, file: Chosen, staged: Path, tell: Callable[[str, int], None]) -> None:
    """The file, whole and checked, among what is staged. `tell`: what is done, bytes of it."""
    from foxden_agent.engine.hub_download import download, is_right

    target = staged / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    doing = f"fetching {file.path}"
    if target.is_file() and target.stat().st_size == file.size:
        tell(f"checking {file.path}", 0)
        if is_right(target, file):
            tell(doing, file.size)
            return
    part = target.with_name(f"{target.name}.part")
    # What lies there may be of another version, or have been spoilt: then once more from nothing.
    for fresh in (not part.exists(), True):
        download(url, part, file.size, partial(tell, doing))
        tell(f"checking {file.path}", file.size)
        if is_right(part, file):
            part.replace(target)
            return
        part.unlink()
        if fresh:
            break
        tell(f"{file.path} has other bytes than the hub says: fetching it anew", 0)
    raise CannotFetch(
        f"{file.path} has other bytes than the hub says it has: it was spoilt on the way.",
        "Try again; if it stays so, something between this PC and the hub changes files: tell "
        "whoever looks after your network.",
        again=True,
    )


def _room(staged: Path, files: list[Chosen]) -> None:
    """Raises CannotFetch where the disk can't take what is still to come."""
    there = sum(one.stat().st_size for one in staged.rglob("*") if one.is_file())
    missing = max(0, sum(file.size for file in files) - there)
    free = shutil.disk_usage(staged).free
    if missing and free < missing + _RESERVE:
        need = missing + _RESERVE
        raise CannotFetch(
            f"The model needs {need / 1e9:.1f} GB in {staged.parents[1]}, "
            f"and {free / 1e9:.1f} GB are free.",
            "Make space, or choose a smaller model, then try again.",
            again=True,
        )


def _only(staged: Path, files: list[Chosen]) -> None:
    """Delete what a try before has left there, of another version."""
    wanted = {staged / file.name for file in files}
    for path in sorted(staged.rglob("*"), reverse=True):
        if path in wanted:
            continue
        if not path.is_dir() or path.is_symlink():
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def _licence(info: Any) -> str:
    card = info.card_data
    told = getattr(card, "license", None) or ""
    if told == "other":
        told = getattr(card, "license_name", None) or told
    return str(told)[:100]


def _told(do: Callable[[], dict[str, Any]], repo: str) -> dict[str, Any]:
    """What `do` answers, or why it could not."""
    from foxden_agent.engine import hub_errors

    try:
        return do()
    except CannotFetch as error:
        told = (error.what, error.advice, error.again)
    except (NotUsable, Unusable) as error:
        told = (f"{repo} can't be used: {error}.", "Choose another model.", False)
    except Exception as error:  # noqa: BLE001 -- whatever broke it is the answer
        told = hub_errors.sentences(error, repo)
    what, advice, again = told
    return {"failed": {"what": what, "advice": advice, "again": again}}


def _teller() -> Tell:
    last = ("", 0.0)

    def tell(doing: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if doing != last[0] or now - last[1] >= _TELL_SECONDS or done == total:
            last = (doing, now)
            _say({"doing": doing, "done": done, "total": total})

    return tell


def _say(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)  # noqa: T201 -- what it is asked for


def _exit_with_parent() -> NoReturn:
    # Not sys.stdin: a thread that waits inside its buffer is a fatal error when the program ends.
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
