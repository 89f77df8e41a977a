"""One file of a hub's: fetched, gone on with where it was broken off, and checked.

Over the library's own session, but not with its download: since 2.x that throws away what a killed
process had fetched, and a model is many gigabytes.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

from foxden_agent.backoff import delays
from foxden_agent.model_hub.choosing import Chosen
from foxden_proto.timers import Timers

_CHUNK = 256 * 1024
_TRIES = 5  # in a row that bring no byte
_PASSING = (408, 429, 500, 502, 503, 504)


def address(repo: str, revision: str, path: str) -> str:
    """Where the hub has a file at a commit."""
    return f"{constants.ENDPOINT}/{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"


def download(url: str, part: Path, size: int, told: Callable[[int], None]) -> None:
    """Make `part` a file of `size` bytes; what is there of it already is not asked for again.
    `told` hears how many are there. Raises the library's errors and OSError; what came stays."""
    timers = Timers.from_environment()
    pauses = delays(2 * timers.reconnect_first, timers.reconnect_most, random.Random())
    in_vain = 0
    part.touch()
    while (there := part.stat().st_size) < size:
        told(there)
        try:
            _go_on(url, part, size, told)
        except (httpx.TransportError, HfHubHTTPError) as error:
            if not _passing(error) or in_vain == _TRIES:
                raise
        in_vain = 0 if part.stat().st_size > there else in_vain + 1
        if in_vain > _TRIES:
            raise httpx.RemoteProtocolError("the file ends too early, again and again")
        if in_vain:
            time.sleep(next(pauses))
    told(size)


def is_right(path: Path, file: Chosen) -> bool:
    """Whether the file has the bytes that the hub's list says. Reads all of it."""
    if path.stat().st_size != file.size:
        return False
    # Files outside of LFS have git's own hash, over a header and their bytes.
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)  # noqa: S324
    with path.open("rb") as stream:
        while block := stream.read(1024**2):
            digest.update(block)
    return digest.hexdigest() == (file.sha256 or file.blob)


def _go_on(url: str, part: Path, size: int, told: Callable[[int], None]) -> None:
    there = part.stat().st_size
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with (
        part.open("ab") as stream,
        get_session().stream("GET", url, headers=headers, timeout=timeout) as response,
    ):
        hf_raise_for_status(response)
        if there and not _goes_on_at(response.headers.get("Content-Range", ""), there):
            stream.truncate(0)  # a server that knows no ranges begins at the beginning
            there = 0
        for chunk in response.iter_bytes(_CHUNK):
            there += len(chunk)
            if there > size:  # never more on the disk than was shown
                raise ValueError("the file is longer than the hub says")
            stream.write(chunk)
            told(there)
        stream.flush()
        os.fsync(stream.fileno())


def _goes_on_at(content_range: str, there: int) -> bool:
    found = re.match(r"bytes (\d+)-", content_range)
    return found is not None and int(found[1]) == there


def _passing(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in _PASSING
    # What is wrong with a certificate or a proxy is so again.
    return not isinstance(error, httpx.ProxyError) and "CERTIFICATE" not in str(error)
