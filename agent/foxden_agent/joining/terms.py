"""What joining means, in words that an owner can hold us to. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from foxden_proto.join_links import JoinLink

MAY = (
    "Its members' pictures are drawn on your card, when you do not need it yourself.",
    "Its administrator sees this machine's name, its cards with their models, temperature and "
    "load, and whether they are free.",
    "Your card's memory and power are used within what `foxden policy` says.",
)
NEVER = (
    "It cannot run programs here, read your files, or see your screen.",
    "It cannot reach this machine by itself: this machine calls the broker, never the other way.",
    "Its prompts and pictures are never written to your disk.",
    "It never comes first: `foxden pause` or a game takes the card back at once, and `foxden "
    "leave` ends it all.",
)


@dataclass(frozen=True)
class Terms:
    """Whom one would join with a link. `expires_ms`: Unix milliseconds, of the link."""

    link: JoinLink
    account_id: str
    account_name: str
    approve: bool  # the pool's administrator has to say yes first
    expires_ms: int
    may: tuple[str, ...] = MAY
    never: tuple[str, ...] = NEVER

    @property
    def broker(self) -> str:
        """Where the broker is, for people."""
        return self.link.address.grpc_target

    @property
    def known_by(self) -> str:
        """How the broker was recognised, for people."""
        address = self.link.address
        if address.pin:
            return f"the certificate in the link ({address.pin[:16]}…)"
        return "this machine itself" if address.plain else "a public certificate"
