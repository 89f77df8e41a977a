"""What the first run needs of others: somebody who joins, who installs the engine, and who fetches
models.

They are asked on the event loop and must not block it. Their errors are sentences for the owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foxden_proto.address import Address


class CannotJoin(Exception):
    """The link is of no use (now); the text says why, and what to do."""


class CannotInstall(Exception):
    """The engine could not be installed; the text says why, and what to do."""


class CannotFetch(Exception):
    """A model could not be fetched; the text says why, and what to do."""


@dataclass(frozen=True)
class Terms:
    """What a join link offers, from a broker that was verified by the link's pin."""

    account: str
    broker: str  # where it is, for people
    approval: bool = False  # an administrator has to say yes first
    details: tuple[str, ...] = ()  # more sentences, such as when the link expires


@dataclass(frozen=True)
class Membership:
    """Where this agent belongs, and how it says who it is."""

    broker: Address
    token: str = field(repr=False)  # of scope agent; empty where this machine has a key for it
    account: str = ""
    name: str = ""  # of this PC, as the pool is to see it; empty: the machine's
    fetch_engine: bool = False  # unasked: nobody sits there, and who joined it has agreed
    key_id: str = ""  # of the key that it says so with; empty where there is a token


class Joins(Protocol):
    """Knows what this installation has joined, and joins."""

    def memberships(self) -> Sequence[Membership]:
        """What was joined, here or by command."""
        ...

    async def look(self, link: str) -> Terms:
        """Verify the broker that the link names, and ask for its terms. Nothing secret is said to a
        broker that the pin does not prove. Raises CannotJoin."""
        ...

    async def join(self, link: str, name: str) -> Membership:
        """Join, keep it for the next start, and answer with it. Waits for an administrator where
        `Terms.approval` says so. Raises CannotJoin; cancelling it changes nothing that counts."""
        ...


@dataclass(frozen=True)
class Part:
    """One thing that has to be fetched."""

    name: str  # "torch 2.13.0 for CUDA 13.0"
    size: int  # bytes
    note: str = ""  # what the owner should know of it, such as that it cannot be checked


@dataclass(frozen=True)
class Progress:
    """How far the installation is."""

    doing: str  # "fetching torch"
    done: int = 0  # bytes
    total: int = 0  # bytes; 0: not known


class Installs(Protocol):
    """Makes the engine's environment."""

    def ready(self) -> bool:
        """Whether an engine can be started: then nothing is fetched."""
        ...

    async def plan(self) -> tuple[Part, ...]:
        """What has to be fetched, with its size. Raises CannotInstall."""
        ...

    async def install(self, tell: Callable[[Progress], None]) -> None:
        """Fetch and install all of it; goes on where it was broken off. Raises CannotInstall."""
        ...


@dataclass(frozen=True)
class Offer:
    """A model that a new PC may begin with."""

    id: str
    title: str
    good_for: str  # one sentence
    licence: str
    memory: int  # bytes of a card that draws with it well
    fits: bool  # whether this PC's card has them
    size: int = 0  # bytes to be fetched
    problem: str = ""  # why it cannot be fetched now; then it has no size


class Models(Protocol):
    """Fetches models into the model folder."""

    def present(self) -> bool:
        """Whether the owner has models of his own there: then nothing is offered."""
        ...

    async def offers(self) -> tuple[Offer, ...]:
        """What there is to choose from now, the best for this PC first. Raises CannotFetch where
        none of it can be had."""
        ...

    async def fetch(self, offer_id: str, tell: Callable[[Progress], None]) -> None:
        """Fetch one of them; goes on where it was broken off. Raises CannotFetch."""
        ...
