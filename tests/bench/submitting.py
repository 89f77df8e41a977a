"""How long a caller waits until a job can't be lost any more."""

from __future__ import annotations

from measuring import Row, median, pool, quartiles, timed

ROUNDS = 60


def run() -> list[Row]:
    with pool() as made:  # no card: nothing draws, so it is the queue alone that is measured
        client = made.client()
        submits = [1000 * timed(lambda: client.submit("a red cube")) for _ in range(ROUNDS + 5)][5:]
        answers = [1000 * timed(client.cards) for _ in range(ROUNDS)]
    return [
        Row(
            "submit_ms",
            median(submits),
            "ms",
            bound_by="one transaction with fsync (SQLite, synchronous=FULL) and one call; an "
            f"empty call takes {median(answers):.1f} ms here; half {quartiles(submits)}",
        )
    ]
