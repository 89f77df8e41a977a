"""What an agent makes of answers that no honest broker gives."""

from __future__ import annotations

import math
import time

import pytest

from foxden_agent.link_driver import LinkDriver
from foxden_agent.pictures import PictureRefused, PictureSender
from foxden_proto.address import parse
from foxden_proto.link import AgentLink
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb

ADDRESS = parse("foxden://127.0.0.1:1")


@pytest.mark.parametrize(
    ("said", "waits"), [(0, 0), (5, 5), (-1, 30), (1e300, 30), (math.inf, 30), (math.nan, 30)]
)
def test_rejected_for_an_impossible_time_comes_back_in_our_own(said: float, waits: float) -> None:
    link = AgentLink(Timers(), pb.Hello(), time.monotonic())
    driver = LinkDriver(link, ADDRESS, "token", lambda _: None, lambda: ((), ()), lambda: None)
    driver._handle(pb.Rejected(reason="not now", retry_after=said))
    assert driver._retry_after == waits


async def test_picture_for_an_address_that_is_none_is_refused() -> None:
    sender = PictureSender(ADDRESS, lambda: None)
    try:
        with pytest.raises(PictureRefused, match="address"):
            await sender.put("/x\x00", "token", b"png", wanted=lambda: True)
    finally:
        await sender.close()
