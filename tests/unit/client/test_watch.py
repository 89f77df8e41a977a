"""Following a job: order of events, resumed streams, pictures fetched meanwhile."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

import foxden
from foxden import _watching
from foxden.events import Cancelled, Done, Failed, PictureReady, Progress, Queued, Started
from foxden_proto.v1 import generation_pb2 as pb

DONE = pb.JOB_STATE_DONE


def test_events_come_in_order_and_the_last_after_every_picture(broker, client, say):
    broker.scripts = [
        [
            say.queued(0, 2),
            say.started(1, 0),
            say.progress(1, 0, 1),
            say.progress(1, 0, 2),
            say.picture(0, 2),
            say.ended(3, DONE),
        ]
    ]
    seen = list(client.submit("a fox").watch())
    assert [type(event) for event in seen] == [
        Queued,
        Started,
        Progress,
        Progress,
        PictureReady,
        Done,
    ]
    assert seen[0] == Queued(position=2)
    assert seen[4].picture.data == say.png(7)


def test_a_slow_download_does_not_hold_back_the_progress_of_others(broker, client, say):
    hold = broker.download_hold[0] = say.Hold()
    broker.scripts = [
        [
            say.picture(0, 1),
            say.progress(1, 1, 1),
            say.picture(1, 2),
            say.ended(3, DONE),
        ]
    ]
    watching = client.submit("a fox", count=2).watch()
    assert isinstance(next(watching), Progress)
    assert next(watching).index == 1
    hold.release.set()
    assert [event.index for event in watching if isinstance(event, PictureReady)] == [0]


def test_a_dropped_stream_goes_on_from_the_last_cursor_and_fetches_each_picture_once(
    broker, client, say
):
    broker.scripts = [
        [say.started(1, 0), say.picture(0, 2), say.Drop()],
        [say.Drop(grpc.StatusCode.CANCELLED)],
        [say.picture(0, 2), say.picture(1, 3), say.ended(4, DONE)],
    ]
    result = client.generate("a fox", count=2)
    assert [picture.index for picture in result] == [0, 1]
    assert [asked.cursor for asked in broker.requests["Watch"]] == [0, 2, 2]
    assert len(broker.requests["Download"]) == 2


def test_a_stream_that_ends_without_saying_so_is_resumed(broker, client, say):
    broker.scripts = [[say.picture(0, 1)], [say.ended(2, DONE)]]
    assert len(client.generate("a fox")) == 1


def test_a_picture_whose_event_was_lost_is_fetched_at_the_end(broker, client, say):
    broker.scripts = [[say.picture(1, 2), say.ended(3, DONE)]]
    broker.job.tasks.add(index=0, state=pb.TASK_STATE_DONE, picture=say.told(0))
    broker.job.tasks.add(index=1, state=pb.TASK_STATE_DONE, picture=say.told(1))
    assert [picture.index for picture in client.generate("a fox", count=2)] == [0, 1]


def test_a_damaged_download_is_fetched_again(broker, client, say):
    answers = [b"damaged", say.png(7)]
    broker.downloads = lambda index: answers.pop(0)
    broker.scripts = [[say.picture(0), say.ended(2, DONE)]]
    assert client.generate("a fox")[0].data == say.png(7)


def test_an_event_of_a_later_version_is_passed_over(broker, client, say):
    broker.scripts = [[pb.JobEvent(cursor=1), say.picture(0, 2), say.ended(3, DONE)]]
    assert [type(event) for event in client.submit("a fox").watch()] == [PictureReady, Done]


def test_pictures_and_stream_yield_as_they_finish(broker, client, say):
    hold = say.Hold()
    script = [say.picture(1, 1), hold, say.picture(0, 2), say.ended(3, DONE)]
    broker.scripts = [script, script]
    stream = client.stream("a fox", count=2)
    assert next(stream).index == 1
    hold.release.set()
    assert [picture.index for picture in stream] == [0]
    assert {picture.index for picture in client.get(say.JOB).pictures()} == {0, 1}


def test_a_stream_that_is_left_cancels_its_job(broker, client, say):
    broker.scripts = [[say.picture(0, 1), say.Hold()]]
    for _ in client.stream("a fox", count=2):
        break
    assert broker.cancelled.is_set()


def test_watching_that_is_left_does_not_cancel(broker, client, say):
    broker.scripts = [[say.started(1, 0), say.Hold()]]
    for _ in client.submit("a fox").watch():
        break
    assert not broker.cancelled.is_set()


def test_a_partial_job_raises_with_the_finished_pictures_and_the_attempts(broker, client, say):
    broker.job.tasks.add(index=0, state=pb.TASK_STATE_DONE, picture=say.told(0))
    failed = broker.job.tasks.add(index=1, state=pb.TASK_STATE_FAILED)
    failed.attempts.add(card="kitchen", outcome="fail", reason="out of memory")
    event = say.event(2, task_ended=pb.TaskEnded(index=1, state=6, reason="out of memory"))
    broker.scripts = [[say.picture(0, 1), event, say.ended(3, pb.JOB_STATE_PARTIAL, "1 failed")]]
    with pytest.raises(foxden.JobFailed) as caught:
        client.generate("a fox", count=2)
    assert [picture.index for picture in caught.value.result] == [0]
    assert caught.value.reason == "1 failed"
    assert [(a.index, a.card, a.reason) for a in caught.value.attempts] == [
        (1, "kitchen", "out of memory")
    ]


@pytest.mark.parametrize(
    ("task", "job", "error", "event"),
    [
        (pb.TASK_STATE_FAILED, pb.JOB_STATE_FAILED, foxden.JobFailed, Failed("why", "failed")),
        (
            pb.TASK_STATE_EXPIRED,
            pb.JOB_STATE_EXPIRED,
            foxden.DeadlineExpired,
            Failed("why", "expired"),
        ),
        (
            pb.TASK_STATE_CANCELLED,
            pb.JOB_STATE_CANCELLED,
            foxden.JobCancelled,
            Cancelled("why"),
        ),
    ],
)
def test_a_job_without_pictures_raises_what_ended_it(broker, client, say, task, job, error, event):
    broker.job.tasks.add(index=0, state=task)
    broker.scripts = [[say.ended(1, job, "why")]] * 2
    seen = []
    with pytest.raises(error) as caught:
        client.generate("a fox", on_event=seen.append)
    assert seen == [event]
    assert caught.value.result is None
    with pytest.raises(error):
        client.get(say.JOB).result()


def test_a_timeout_names_the_job_and_lets_it_go_on(broker, client, say):
    broker.scripts = [[say.started(1, 0), say.Hold()]]
    with pytest.raises(foxden.Timeout, match="goes on") as caught:
        client.generate("a fox", timeout=0.3)
    assert caught.value.job_id == say.JOB
    assert not broker.cancelled.is_set()


def test_a_broker_that_stays_away_while_watching_is_unavailable(far, broker, say):
    hold = say.Hold()
    broker.scripts = [[say.started(1, 0), hold]]
    with foxden.Client(broker.url, say.TOKEN, retry_for=0.5) as client:
        watching = client.submit("a fox").watch()
        next(watching)
        hold.reached.wait(5)
        far.stop()
        began = time.monotonic()
        with pytest.raises(foxden.Unavailable):
            next(watching)
        assert time.monotonic() - began < 5


def test_a_stream_that_breaks_after_a_long_quiet_is_picked_up(broker, say, monkeypatch):
    monkeypatch.setattr(_watching, "ATTEMPT_SECONDS", 0.3)
    hold = say.Hold()
    quiet = [say.started(1, 0), hold, say.Drop()]
    broker.scripts = [quiet, [say.picture(0, 2), say.ended(3, DONE)]]
    threading.Timer(1.5, hold.release.set).start()
    with foxden.Client(broker.url, say.TOKEN, retry_for=1.0) as client:
        assert len(client.generate("a fox")) == 1


def test_a_broker_that_restarts_while_watching_is_picked_up(far, broker, client, say):
    hold = say.Hold()
    broker.scripts = [[say.started(1, 0), hold], [say.picture(0, 2), say.ended(3, DONE)]]
    port = int(broker.url.rpartition(":")[2])

    def restart(event: object) -> None:
        if isinstance(event, Started):
            hold.reached.wait(5)
            far.stop()
            far.start(port)

    assert len(client.generate("a fox", on_event=restart)) == 1
    assert [asked.cursor for asked in broker.requests["Watch"]] == [0, 1]


def test_a_handle_knows_how_far_its_job_is(broker, client, say):
    broker.scripts = [[say.picture(0, 1), say.ended(2, DONE)]]
    job = client.submit("a fox")
    assert (job.state, job.done) == ("queued", 0)
    job.result(timeout=5)
    assert (job.state, job.done) == ("done", 1)
    assert job.cancel().state == "cancelled"
    assert job.refresh() is job


def _carried(say, index: int, cursor: int, data: bytes) -> pb.JobEvent:
    event = say.picture(index, cursor)
    event.picture_bytes = data
    return event


def test_a_picture_that_comes_with_its_event_is_not_downloaded(broker, client, say):
    broker.scripts = [[_carried(say, 0, 2, say.png(7)), say.ended(3, DONE)]]
    assert client.generate("a fox")[0].data == say.png(7)
    assert broker.requests["Watch"][0].inline_pictures_up_to > 0
    assert "Download" not in broker.requests


def test_a_picture_that_comes_damaged_with_its_event_is_downloaded(broker, client, say):
    broker.scripts = [[_carried(say, 0, 2, b"damaged"), say.ended(3, DONE)]]
    assert client.generate("a fox")[0].data == say.png(7)
    assert len(broker.requests["Download"]) == 1


def test_a_picture_carried_twice_by_a_resumed_stream_is_told_once(broker, client, say):
    carried = _carried(say, 0, 2, say.png(7))
    broker.scripts = [[carried, say.Drop()], [carried, say.ended(3, DONE)]]
    seen = list(client.submit("a fox").watch())
    assert [type(event) for event in seen] == [PictureReady, Done]
