"""Programs, releases and a server of them, for tests of updates."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import sign_release

from foxden_agent.updating.rounds import Source, platform_name

# An agent as the service sees one: it says that it is online where there is a network, whether its
# owner plays where it is asked to, and ends when it is asked to.
WELL = """
mkdir -p "$4/agent"; cd "$4/agent"
while ! [ -e restart-asked ]; do
    [ -e ../away ] || [ -n "$said" ] || { said=1; echo '{"agent_id": "agent-1", "cards": []}'; }
    if [ -e update-waits ]; then
        if [ -e ../game ]; then echo -n 'no: paused: a game is running'; else echo -n yes; fi > may
        mv may update-may
    fi
    read -t 0.1 line; [ $? -eq 1 ] && exit 0
done
rm restart-asked
exit 75
"""
SILENT = "while true; do read -t 0.1 line; [ $? -eq 1 ] && exit 0; done"
CRASHING = "echo no library >&2; exit 1"


def program(folder: Path, version: str, agent: str = WELL) -> Path:
    """A folder with a program that says its version, and is an agent where it is told to be."""
    folder.mkdir(parents=True)
    text = f'#!/bin/bash\n[ "$1" = --version ] && echo {version} && exit 0\n{agent}\n'
    (folder / "foxden").write_text(text)
    (folder / "foxden").chmod(0o755)
    return folder


def release(folder: Path, version: str, agent: str = WELL, share: float = 1.0) -> Source:
    """A signed release of such a program; returns where it is and who signed it."""
    folder.mkdir(parents=True, exist_ok=True)
    root, key = folder / "root.key", folder / "signing.key"
    if not root.exists():
        sign_release.main(["root-key", str(root)])
        sign_release.main(["sign-key", str(root), str(key)])
    made = program(folder / version / "foxden", version, agent)
    archive = folder / f"foxden-{version}-{platform_name()}.tar.xz"
    with tarfile.open(archive, "w:xz") as packed:
        packed.add(made, "foxden")
    signed_again(folder, version, share)
    url = (folder / "release.json").as_uri()
    return Source(url, sign_release.public(sign_release.load(root)))


def signed_again(folder: Path, version: str, share: float = 1.0) -> None:
    """Describe what lies there by now."""
    words = ["release", str(folder / "signing.key"), str(folder)]
    assert sign_release.main([*words, "--version", version, "--share", str(share)]) == 0


class Ranges(SimpleHTTPRequestHandler):
    """Serves a folder, and the rest of a file to whom asks for it; breaks off where told to."""

    def __init__(self, *arguments: object, cuts: list[int], asked: list[str], **more: object):
        self.cuts, self.asked = cuts, asked
        super().__init__(*arguments, **more)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers.get("Range", "")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = self.cuts.pop(0) if self.cuts else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path, cuts: list[int] | None = None) -> Iterator[tuple[str, list[str]]]:
    """The folder over HTTP on loopback; (its address, the Range headers that were sent)."""
    asked: list[str] = []
    handler = partial(Ranges, cuts=cuts or [], asked=asked, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/release.json", asked
    finally:
        server.shutdown()
        server.server_close()
