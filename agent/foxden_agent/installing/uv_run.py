"""Calls the uv that comes with the shell, and says in plain sentences what went wrong with it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foxden_agent.installing.shell import clean_environment, shell_file

_LAST_LINES = 60  # of what uv wrote, to find the cause in
_LOOK_SECONDS = 1.0  # between two looks at how much is written


class InstallFailed(Exception):
    """The engine could not be installed: what happened, and the way on.

    `again` is True where the same call may well succeed later, and goes on with what is there.
    """

    def __init__(self, what: str, advice: str, *, again: bool = True) -> None:
        self.what, self.advice, self.again = what, advice, again
        super().__init__(f"{what} {advice}")


def find_uv() -> Path:
    """The bundled uv, or this Python's own, or one on the PATH. Raises InstallFailed."""
    name = "uv.exe" if sys.platform == "win32" else "uv"
    beside = Path(sys.executable).parent / name
    on_path = shutil.which("uv")
    for one in (shell_file(name), beside, Path(on_path) if on_path else None):
        if one is not None and one.is_file():
            return one
    raise InstallFailed(
        "uv, which makes the engine's environment, is not here.",
        "Install Foxden again; in a checkout: pip install uv.",
        again=False,
    )


def environment(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The variables uv runs with: its own as they are, pip's where uv has none of that meaning.

    Caches and Pythons go under `folder`, so that removing it removes everything. The system's own
    certificates are trusted, for networks that look into TLS.
    """
    variables = clean_environment(given)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):  # a Python somebody else may take away
        variables.pop(name, None)
    meanings = {
        "PIP_FIND_LINKS": "UV_FIND_LINKS",
        "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
        "PIP_EXTRA_INDEX_URL": "UV_INDEX",
        "PIP_NO_INDEX": "UV_NO_INDEX",
        "PIP_CERT": "SSL_CERT_FILE",
        "PIP_PROXY": "ALL_PROXY",
    }
    for pips, uvs in meanings.items():
        if variables.get(pips) and not variables.get(uvs):
            # pip separates by spaces alone; uv's find-links want commas.
            separator = "," if uvs == "UV_FIND_LINKS" else " "
            variables[uvs] = separator.join(variables[pips].split())
    variables.setdefault("UV_SYSTEM_CERTS", "1")
    variables.setdefault("UV_CACHE_DIR", str(folder / "cache"))
    variables["UV_PYTHON_INSTALL_DIR"] = str(folder / "python")
    variables["UV_PYTHON_INSTALL_BIN"] = "0"
    variables["UV_PYTHON_INSTALL_REGISTRY"] = "0"  # of Windows, where others would find it
    variables["UV_NO_CONFIG"] = "1"
    variables["UV_NO_PROGRESS"] = "1"
    return variables


def has_wheel(find_links: str, start: str) -> bool:
    """Whether a folder of UV_FIND_LINKS holds a wheel whose name starts so.

    Then its index need not be asked: an administrator's folder serves PCs without one.
    """
    for place in find_links.split(","):
        folder = Path(place.strip().removeprefix("file://"))
        try:
            if place.strip() and any(one.name.startswith(start) for one in folder.glob("*.whl")):
                return True
        except OSError:
            continue
    return False


def run(
    words: Sequence[str],
    variables: Mapping[str, str],
    said: Callable[[str], None],
    look: Callable[[], None] = lambda: None,
) -> None:
    """Run uv to its end. `said` gets each line it writes, `look` is called about once a second.

    Raises InstallFailed, and whatever `said` or `look` raise; uv is killed then.
    """
    process = subprocess.Popen(
        [str(find_uv()), *words],
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)
    fresh: deque[str] = deque()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            last.append(line.strip())
            fresh.append(line.strip())

    reader = threading.Thread(target=read, name="uv", daemon=True)
    reader.start()
    try:
        while True:
            try:
                code: int | None = process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            if code is not None:
                reader.join(5.0)
            while fresh:
                said(fresh.popleft())
            look()
            if code == 0:
                return
            if code is not None:
                raise failure(list(last), code)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


# The first that is found in what uv wrote says what happened. uv's messages are those of 0.13.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|os error 28\b|os error 112\b|disk quota|os error 122\b",
        "The disk is full.",
        "Make space, then start the installation again: what is complete is not fetched twice.",
    ),
    (
        r"[Hh]ash mismatch|hashes? do(es)? not match",
        "A downloaded file is not the one that Foxden was built with (its hash is another).",
        "Try again; if it stays so, something between this PC and PyPI changes files: tell "
        "whoever looks after your network.",
    ),
    (
        r"invalid peer certificate|UnknownIssuer|certificate verify failed|CertificateExpired"
        r"|CaUsedAsEndEntity|NotValidForName",
        "The download server's certificate is not trusted: something on this network looks into "
        "encrypted connections, or this PC's clock is wrong.",
        "Check the clock. Where your company's network does that, set SSL_CERT_FILE to a file "
        "with its certificates, or install its certificate in the system.",
    ),
    (
        r"\b407 Proxy|[Pp]roxy [Aa]uthentication|unsuccessful tunnel|tunnel error"
        r"|proxy (error|connect|server)",
        "The proxy did not let the download through.",
        "Set HTTPS_PROXY to http://name:password@proxy:port, as your network wants it.",
    ),
    (
        r"No interpreter found|No download found|Failed to download.*python-build-standalone"
        r"|github\.com/astral-sh/python-build-standalone|downloads are not allowed",
        "No Python 3.11 or newer is on this PC, and it could not be downloaded.",
        "Let this PC reach github.com, or install Python 3.11 or newer (python.org), then start "
        "the installation again.",
    ),
    (
        r"dns error|failed to lookup|Name or service not known|[Cc]onnection refused|timed? ?out"
        r"|Network is unreachable|tcp connect|client error \(Connect\)|connection (closed|reset)"
        r"|error decoding response body|network connectivity is disabled",
        "The download server cannot be reached.",
        "Check this PC's connection, then start the installation again: what is complete is not "
        "fetched twice. Behind a proxy, set HTTPS_PROXY.",
    ),
    (
        r"Permission denied|os error 13\b|Access is denied|os error 5\b",
        "A file could not be written: its folder belongs to somebody else, or a program holds it.",
        "Close other programs that use Foxden's folder, or give yourself the right to write there.",
    ),
    (
        r"No solution found|not found in the package registry|has no wheels? with a matching",
        "There is no build of a package for this PC's Python.",
        "Install Python 3.12 (python.org), then start the installation again.",
    ),
)


def failure(lines: Sequence[str], code: int) -> InstallFailed:
    """What uv's last lines mean.

    >>> failure(["error: Failed to fetch", "cause: dns error"], 2).what
    'The download server cannot be reached.'
    """
    text = "\n".join(line for line in lines if not line.startswith(("warning", "Downloading")))
    for pattern, what, advice in _CAUSES:
        if re.search(pattern, text):
            return InstallFailed(what, advice)
    if code < 0:
        return InstallFailed("The installation was ended from outside.", "Start it again.")
    told = next((line for line in lines if line.startswith(("error", "×"))), f"code {code}")
    return InstallFailed(
        f"uv could not finish ({told.removeprefix('error:').strip()[:200]}).",
        "Start it again; if it stays so, `foxden doctor --bundle FILE` for who helps you.",
    )
