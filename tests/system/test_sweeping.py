"""Results kept for a set time by a real broker, and what a client is told afterwards."""

from __future__ import annotations

import pytest
from real_pool import HURRIED, wait_until

import foxden

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"
SECONDS = 3
DAYS = SECONDS / 86_400


def test_swept_picture_is_not_found_with_words(pool):
    pool.start_broker("--keep-results", f"{DAYS:.8f}", **HURRIED)  # its sweeper comes every 6 s
    pool.start_agent()
    client = pool.client()
    result = client.generate(PROMPT, seed=7, progress=False)
    assert result.image.size

    def swept() -> bool:
        try:
            client.get(result.job_id).result(timeout=30)
        except foxden.NotFound:
            return True
        return False

    wait_until(swept, 40)
    with pytest.raises(foxden.NotFound, match="submit the same request"):
        client.get(result.job_id).result(timeout=30)
    job = client.get(result.job_id)
    assert (job.state, job.done) == ("done", 1)
    assert [one.id for one in client.jobs()] == [job.id]
    again = client.generate(PROMPT, seed=7, progress=False)
    assert again[0].sha256 == result[0].sha256
