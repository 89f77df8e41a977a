"""Joining a pool and leaving it, for the command line, the owner's page and the installers.

    terms = await look(link)                 # the broker is checked first; uses up nothing
    joined = await join(folder, link)        # makes a key, enrols it; again: the same agent
    left = await leave(folder, pool)         # tells the broker, deletes key and entry; or leave_all
    for one in pools(folder): ...

`folder` is the agent's folder (AgentSettings.folder). A running agent notices within a second.
Everything that can go wrong is a JoinError, whose text is for the owner.
"""

from foxden_agent.joining.errors import (
    BadLink,
    BrokerUnreachable,
    JoinError,
    KeyLost,
    KeyUnavailable,
    LinkRefused,
    NoSuchPool,
    WrongBroker,
)
from foxden_agent.joining.joining import Joined, Left, join, known, leave, leave_all, look
from foxden_agent.joining.keystore import Kept, KeyStore
from foxden_agent.joining.pools import Pool, pools
from foxden_agent.joining.terms import MAY, NEVER, Terms

__all__ = [
    "MAY",
    "NEVER",
    "BadLink",
    "BrokerUnreachable",
    "JoinError",
    "Joined",
    "Kept",
    "KeyLost",
    "KeyStore",
    "KeyUnavailable",
    "Left",
    "LinkRefused",
    "NoSuchPool",
    "Pool",
    "Terms",
    "WrongBroker",
    "join",
    "known",
    "leave",
    "leave_all",
    "look",
    "pools",
]
