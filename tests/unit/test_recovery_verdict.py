"""`make chaos` judges the broker, and only tells of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from chaos.recovery import Recovery, seconds_without_core, verdict


def test_broker_late_by_itself_breaks_the_promise_once_per_kill():
    quick, late = Recovery(2.0, 3.0, starting=1.9), Recovery(4.0, 10.1, starting=3.9)
    judged = verdict([quick, late, late])
    assert not judged.holds
    assert len(judged.broken) == 2
    assert judged.looked_at == 3
    assert "10.1 s after a kill (3.9 s of it to start" in judged.broken[0]


def test_broker_late_for_want_of_a_core_is_told_and_breaks_nothing():
    judged = verdict([Recovery(13.0, 14.5, starting=12.5, no_core=9.0)])
    assert judged.holds
    assert judged.note == "1 came later, for want of a core alone"


def test_broker_late_beyond_what_the_machine_cost_it_breaks_the_promise():
    assert not verdict([Recovery(13.0, 14.5, starting=12.5, no_core=4.0)]).holds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_program_that_shares_a_core_has_waited_for_it_and_one_that_ended_has_no_figure():
    busy = "import os\nos.sched_setaffinity(0, {%d})\nprint(flush=True)\nwhile True: pass"
    core = min(os.sched_getaffinity(0))
    words = [sys.executable, "-c", busy % core]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for one in both:
            assert one.stdout is not None
            one.stdout.readline()
        while seconds_without_core(both[0].pid) < 0.05:
            assert both[0].poll() is None
    finally:
        for one in both:
            one.kill()
            one.communicate()
    assert seconds_without_core(both[0].pid) == 0.0
