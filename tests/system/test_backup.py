"""A backup of a broker that works, and what a broker elsewhere knows from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
from real_pool import Pool, wait_until

import foxden

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def command(*words: str, **environment: str) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "foxden", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "FOXDEN_URL": "", "FOXDEN_TOKEN": "", **environment},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


class Submits:
    """A client that submits without end, and remembers what was acknowledged."""

    def __init__(self, client: foxden.Client) -> None:
        self._client, self._over = client, threading.Event()
        self.acknowledged: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.acknowledged.append(self._client.submit(PROMPT, count=2, seed=1).id)

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)


def test_everything_acknowledged_before_a_backup_is_in_the_broker_made_from_it(pool, tmp_path):
    pool.start_broker()
    pool.start_agent()
    drawn = pool.client().generate(PROMPT, count=2, seed=7, progress=False)
    pool.agents["one"].stop()
    environment = {"FOXDEN_URL": pool.url, "FOXDEN_TOKEN": pool.token}
    submits = Submits(pool.client())
    try:
        wait_until(lambda: len(submits.acknowledged) >= 20)
        before = list(submits.acknowledged)
        archive = str(tmp_path / "backup.tar")
        code, told = command("backup", "--out", archive, "--with-pictures", **environment)
        assert code == 0, told
        after = len(submits.acknowledged)
    finally:
        submits.stop()
    assert after > len(before), "nothing was submitted while the backup was made"
    if sys.platform != "win32":
        assert os.stat(archive).st_mode & 0o077 == 0
    code, told = command("restore", archive, "--home", str(pool.folder / "broker"), "--force")
    assert (code, told["error"]["field"]) == (2, "home")  # it runs
    pool.broker.kill()

    other = Pool(tmp_path / "other")
    code, told = command("restore", archive, "--home", str(tmp_path / "other" / "broker"))
    assert (code, told["pictures"]) == (0, True)
    other.agent_token = pool.agent_token
    try:
        other.start_broker()
        assert other.token == pool.token
        client = other.client()
        known = {job.id for job in client.jobs(limit=100_000)}
        assert set(before) <= known
        assert len(known) <= after + 2
        again = client.get(drawn.job_id).result(timeout=30)
        assert [picture.sha256 for picture in again] == [picture.sha256 for picture in drawn]
        for job_id in list(known - {before[0], drawn.job_id}):
            client.cancel(job_id)
        other.start_agent()  # with the token that the old broker gave
        assert len(client.get(before[0]).result(timeout=90)) == 2
    finally:
        other.close()


def test_backup_needs_an_administrator(calm_pool, tmp_path):
    token = calm_pool.client().create_token("ann", ["generate"]).secret
    archive = tmp_path / "backup.tar"
    environment = {"FOXDEN_URL": calm_pool.url, "FOXDEN_TOKEN": token}
    code, told = command("backup", "--out", str(archive), **environment)
    assert (code, told["error"]["type"]) == (4, "PermissionDenied")
    assert not list(tmp_path.iterdir())
