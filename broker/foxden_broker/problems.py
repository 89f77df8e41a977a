"""The broker's wording of what is wrong with a request."""

from __future__ import annotations

from foxden_proto.problems import Problem, Reason


def invalid(field: str, what: str, allowed: str) -> Problem:
    """A field that cannot be used: what is wrong with it, and what it may be."""
    return Problem(
        Reason.INVALID_REQUEST,
        f"{what}: use {allowed}.",
        {"field": field, "allowed": allowed},
    )


def not_found(what: str, name: str) -> Problem:
    return Problem(
        Reason.NOT_FOUND,
        f"There is no {what} {name[:64]!r} in this account: check the id, or list what there is.",
    )


def swept(picture: str, seed: int) -> Problem:
    """A picture that was finished, fetched or not, and kept for its time."""
    return Problem(
        Reason.NOT_FOUND,
        f"The picture {picture} was kept for as long as this broker keeps results, and is gone: "
        f"submit the same request with seed {seed} to have it drawn again.",
    )


def storage_full() -> Problem:
    return Problem(
        Reason.STORAGE_FULL,
        "The broker's disk is full and nothing was stored: "
        "ask its administrator to free space, then try again.",
    )
