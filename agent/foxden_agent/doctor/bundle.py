"""A diagnostics bundle: one zip that helps somebody else to help, and gives nothing private away.

In it: the doctor's findings, versions, the owner's settings and the end of each log. Not in it:
tokens, keys, prompts, pictures, model files. Logs hold no prompts and no tokens to begin with; the
user's name, where it stands in a path, is replaced all the same.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from foxden_agent.doctor.judging import Facts, Finding

LOG_BYTES = 5 * 1024**2  # of each log, its end
_PACKAGES = ("foxden", "torch", "diffusers", "transformers", "safetensors", "grpcio", "protobuf")
_SETTINGS = ("policy.json", "wishes.json")  # of the agent's folder
_SECRET = re.compile(r"fx[dj]_[A-Za-z0-9_.-]+")
_JOIN_LINK = re.compile(r"(foxden://[^\s\"']*/join/)[^\s\"']+")


def write(path: Path, home: Path, facts: Facts, findings: Sequence[Finding]) -> list[str]:
    """Write the bundle; answers with the names in it. Raises OSError.

    A file that is there already is replaced; half a bundle is never left.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in contents(home, facts, findings):
                archive.writestr(name, scrubbed(text, Path.home()))
            names = archive.namelist()
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return names


def contents(home: Path, facts: Facts, findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Each file of the bundle: its name and its text, not scrubbed yet."""
    yield "findings.json", _json([{**asdict(one), "level": one.level.value} for one in findings])
    yield "facts.json", _json(asdict(facts))
    yield "versions.json", _json(_versions())
    for name in _SETTINGS:
        file = home / "agent" / name
        if file.is_file():
            yield name, _end_of(file)
    for file in sorted((home / "logs").glob("*")):
        if file.is_file():
            yield f"logs/{file.name}", _end_of(file)


def scrubbed(text: str, user_folder: Path) -> str:
    """Without anything that looks like a token or a join link, and without the user's name in
    paths.

    >>> scrubbed("/home/ann/.local with fxd_abc.def_1", Path("/home/ann"))
    '~/.local with fxd_…'
    """
    text = _JOIN_LINK.sub(r"\1…", _SECRET.sub("fxd_…", text))
    for form in {str(user_folder), user_folder.as_posix(), json.dumps(str(user_folder))[1:-1]}:
        if len(form) > 1:  # a user whose folder is the root has no name to hide
            text = text.replace(form, "~")
    return text


def _versions() -> Mapping[str, str]:
    found = {"python": sys.version.split()[0], "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _end_of(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - LOG_BYTES))
        return stream.read().decode("utf-8", "replace")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
