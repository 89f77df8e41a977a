"""Each setting says in its own line what it is, or needs no words beside its name."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

from foxden_agent.owners_side import OwnersSide
from foxden_agent.policy.settings import Policy
from foxden_agent.settings import AgentSettings
from foxden_agent.watching.watcher import WatchSettings
from foxden_broker.settings import BrokerSettings
from foxden_proto.timers import Timers

# What the name and the class's own docstring say between them.
CLEAR_BY_NAME = {
    (BrokerSettings, "tls_key"),  # told beside tls_cert
    (BrokerSettings, "timers"),
    (AgentSettings, "timers"),
    (Timers, "reconnect_most"),  # told beside reconnect_first
}
OWNERS = (BrokerSettings, AgentSettings, OwnersSide, Policy, WatchSettings, Timers)
SETTINGS = [
    pytest.param(owner, field.name, id=f"{owner.__name__}.{field.name}")
    for owner in OWNERS
    for field in fields(owner)
]


@pytest.mark.parametrize(("owner", "name"), SETTINGS)
def test_setting_has_a_comment_or_a_clear_name(owner: type, name: str) -> None:
    line = re.search(rf"^    {name}: .*$", inspect.getsource(owner), re.MULTILINE)
    assert line is not None
    commented = re.search(r"  # \w", line.group()) is not None
    assert commented != ((owner, name) in CLEAR_BY_NAME), (
        f"{line.group().strip()!r} needs a comment"
    )


@pytest.mark.parametrize("owner", OWNERS)
def test_settings_are_frozen_and_described(owner: type) -> None:
    assert owner.__doc__
    assert owner.__dataclass_params__.frozen  # type: ignore[attr-defined]
