"""Downloads of updates: whole, resumed, refused."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from threading import Thread

import pytest
import releases
import tiny_disk

from foxden_agent.updating import fetching
from foxden_agent.updating.fetching import FetchFailed, check_url, description, fetch
from foxden_agent.updating.manifest import ReleaseFile

DATA = bytes(range(256)) * 4000


def offered(folder: Path, data: bytes = DATA) -> ReleaseFile:
    folder.mkdir()
    (folder / "foxden.tar.xz").write_bytes(data)
    return ReleaseFile("foxden.tar.xz", hashlib.sha256(data).hexdigest(), len(data))


def test_file_is_fetched_whole_and_not_twice(tmp_path: Path) -> None:
    file = offered(tmp_path / "server")
    with releases.served(tmp_path / "server") as (url, asked):
        path = fetch(url, file, tmp_path / "here")
        assert path.read_bytes() == DATA
        assert fetch(url, file, tmp_path / "here") == path
    assert asked == [""]


def test_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = offered(tmp_path / "server")
    with releases.served(tmp_path / "server", cuts=[300_000, 700_000]) as (url, asked):
        for _ in range(2):
            with pytest.raises(FetchFailed):
                fetch(url, file, tmp_path / "here")
        path = fetch(url, file, tmp_path / "here")
    assert path.read_bytes() == DATA
    assert asked == ["", "bytes=300000-", "bytes=700000-"]


def test_download_that_the_owner_breaks_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class OwnerCame(Exception):
        pass

    pieces: list[int] = []

    def go_on() -> None:
        pieces.append(1)
        if len(pieces) == 3:
            raise OwnerCame

    file = offered(tmp_path / "server")
    with releases.served(tmp_path / "server") as (url, asked):
        with pytest.raises(OwnerCame):
            fetch(url, file, tmp_path / "here", go_on)
        assert fetch(url, file, tmp_path / "here", go_on).read_bytes() == DATA
    assert asked == ["", f"bytes={3 * 256 * 1024}-"]


def test_rest_of_another_release_is_not_gone_on_with(tmp_path: Path) -> None:
    old, new = offered(tmp_path / "old"), offered(tmp_path / "new", DATA[::-1])
    with releases.served(tmp_path / "old", cuts=[5000]) as (url, _), pytest.raises(FetchFailed):
        fetch(url, old, tmp_path / "here")
    with releases.served(tmp_path / "new") as (url, asked):
        assert fetch(url, new, tmp_path / "here").read_bytes() == DATA[::-1]
    assert asked == [""]


def test_other_bytes_of_the_same_length_are_thrown_away(tmp_path: Path) -> None:
    file = offered(tmp_path / "server")
    (tmp_path / "server/foxden.tar.xz").write_bytes(DATA[:-1] + b"!")
    refused = pytest.raises(FetchFailed, match="not the file that was signed")
    with releases.served(tmp_path / "server") as (url, _), refused:
        fetch(url, file, tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


def test_endless_file_is_cut_off(tmp_path: Path) -> None:
    file = offered(tmp_path / "server")
    (tmp_path / "server/foxden.tar.xz").write_bytes(DATA * 3)
    with releases.served(tmp_path / "server") as (url, _), pytest.raises(FetchFailed):
        fetch(url, file, tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


def test_local_file_is_a_server_too(tmp_path: Path) -> None:
    file = offered(tmp_path / "server")
    url = (tmp_path / "server/release.json").as_uri()
    part = tmp_path / "here" / f"foxden.tar.xz.{file.sha256[:16]}.part"
    part.parent.mkdir()
    part.write_bytes(DATA[:1000])
    assert fetch(url, file, tmp_path / "here").read_bytes() == DATA


def test_disk_without_room_is_said_before_the_download(tmp_path: Path) -> None:
    file = offered(tmp_path / "server")
    refused = pytest.raises(FetchFailed, match=r"needs 205 MB of disk, and 3 MB are free")
    disk = tiny_disk.tiny_disk(tmp_path / "disk")
    with disk, releases.served(tmp_path / "server") as (url, asked), refused:
        fetch(url, file, tmp_path / "disk/here")
    assert asked == []


def test_disk_that_fills_up_is_said_and_the_rest_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = offered(tmp_path / "server")
    monkeypatch.setattr(fetching, "_RESERVE", -(10**8))
    with tiny_disk.tiny_disk(tmp_path / "disk") as disk, releases.served(tmp_path / "server") as at:
        (disk / "here").mkdir()
        filler = tiny_disk.fill(disk)
        with pytest.raises(FetchFailed, match="No space left"):
            fetch(at[0], file, disk / "here")
        filler.unlink()
        assert fetch(at[0], file, disk / "here").read_bytes() == DATA


def test_server_that_is_away_is_a_sentence() -> None:
    with pytest.raises(FetchFailed, match="could not be asked"):
        description("http://127.0.0.1:9/release.json")


def test_what_answers_speaks_no_http_x_a_sentence() -> None:
    """As a captive portal may; it would end the service's look for updates for good."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"what do you want\r\n\r\n")

        Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        with pytest.raises(FetchFailed, match="could not be asked"):
            description(f"http://127.0.0.1:{port}/release.json")


@pytest.mark.parametrize(
    "url", ["http://example.org/release.json", "ftp://example.org/x", "release.json", "data:,x"]
)
def test_address_that_others_could_listen_on_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        check_url(url)
