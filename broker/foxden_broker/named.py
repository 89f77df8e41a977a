"""What people mean when they name a card or an agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from foxden_broker.problems import invalid, not_found

T = TypeVar("T")


def the_one(
    what: str,
    name: str,
    things: Iterable[T],
    known_as: Callable[[T], tuple[str, str]],
    *,
    listed_by: str,
) -> T:
    """The thing with this id or name, or the only one whose id or name begins so.

    `what` is "card" or "agent"; `known_as` tells a thing's id and name, `listed_by` is the command
    that shows them all.
    Names count in any case, ids as they are. Raises Problem NOT_FOUND, or INVALID_REQUEST where
    none is named or several fit.
    """
    known = [(*known_as(thing), thing) for thing in things]
    for an_id, _, thing in known:
        if an_id == name:
            return thing
    if not name:
        raise invalid(what, f"no {what} is named", f"its id or name, see `{listed_by}`")
    low = name.lower()
    fits = [one for one in known if one[1].lower() == low]
    if not fits:
        fits = [one for one in known if one[1].lower().startswith(low) or one[0].startswith(name)]
    if not fits:
        raise not_found(what, name)
    if len(fits) > 1:
        several = ", ".join(sorted(f"{called} ({an_id})" for an_id, called, _ in fits[:5]))
        raise invalid(what, f"several {what}s fit {name[:64]!r}: {several}", "an id")
    return fits[0][2]
