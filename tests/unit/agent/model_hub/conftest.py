"""A hub on loopback that the real library speaks to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, Repo, big_files, demo_files, serving

DEMO, BIG = "foxes/tiny-demo", "foxes/many-bytes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Hub({DEMO: Repo(demo_files()), BIG: Repo(big_files(), "other")})) as one:
        monkeypatch.setenv("HF_ENDPOINT", one.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("FOXDEN_TIME_SCALE", "0.1")
        yield one
