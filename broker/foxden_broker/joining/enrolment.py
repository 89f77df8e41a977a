"""What a machine may ask before it has a link: what a join link is for, to be let in, to leave."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Container

from foxden_broker.joining import links
from foxden_broker.joining.enrolled import Lately
from foxden_broker.joining.tries import Tries
from foxden_broker.store.base import Agent, JoinLink, Store
from foxden_broker.uploads import Signer
from foxden_proto import limits, logs, proofs
from foxden_proto.join_links import Refusal, split_bearer
from foxden_proto.v1 import join_pb2 as pb

log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NAME_CHARACTERS = 100
_VERSION_CHARACTERS = 40
_NONCE_SECONDS = 60


class Refused(Exception):
    """A machine is not let in, or out; the text is for its owner."""

    def __init__(self, why: Refusal, message: str = "", retry_after: float = 0.0) -> None:
        self.why = why
        self.message = message or links.SENTENCES[why]
        self.retry_after = retry_after
        super().__init__(self.message)


class Enrolment:
    """One broker's door for machines that join. `signer` makes the nonces of those that leave."""

    def __init__(self, store: Store, accounts: Container[str], signer: Signer) -> None:
        self._store = store
        self._accounts = accounts
        self._signer = signer
        self._tries = Tries()
        self._lately: dict[str, Lately[dict[str, JoinLink]]] = {}  # by account

    async def look(self, bearer: str, address: str, now_ms: int) -> pb.LookResponse:
        """What the link is for. Raises Refused, StoreError."""
        link = await self._link(bearer, address)
        if (over := links.why_over(link, now_ms)) is not None:
            raise Refused(over)
        return pb.LookResponse(
            account_id=link.account_id,
            account_name=await self._store.account_name(link.account_id),
            approve=link.approve,
            expires_ms=link.expires_ms,
        )

    async def enrol(
        self, bearer: str, address: str, request: pb.EnrolRequest, now_ms: int
    ) -> pb.EnrolResponse:
        """Let a key in. The same again is answered the same. Raises Refused, StoreError."""
        link = await self._link(bearer, address)
        agent = _agent(link, request, address)
        done = await self._store.enrol(agent, now_ms)
        if done.agent is None:
            raise Refused(done.refusal or Refusal.UNKNOWN)
        if not done.again:
            log.info(
                *("%s (%s) has joined by link %s", agent.name, agent.agent_id, link.link_id),
                extra=logs.fields(agent=agent.agent_id, account=link.account_id),
            )
        return pb.EnrolResponse(
            account_id=link.account_id,
            account_name=await self._store.account_name(link.account_id),
            pending=not done.agent.approved_ms,
        )

    async def leave(self, request: pb.LeaveRequest, now: float) -> pb.LeaveResponse:
        """A nonce to sign; or, with its signature, the end of this agent's key. `now`: Unix
        seconds. Raises Refused, StoreError."""
        account_id, agent_id = request.account_id, request.agent_id
        if account_id not in self._accounts or not _ID.fullmatch(agent_id):
            raise Refused(Refusal.UNKNOWN, "The broker knows no such agent: nothing is left of it.")
        if not request.signature:
            return pb.LeaveResponse(nonce=self._nonce(account_id, agent_id, int(now)))
        agent = await self._store.agent(account_id, agent_id)
        if agent is None:
            return pb.LeaveResponse(left=True)  # said twice: the first answer was lost
        if not self._is_fresh(request, now):
            raise Refused(Refusal.INVALID, "This took more than a minute: leave again.")
        signed = proofs.leave_statement(request.nonce, account_id, agent_id, agent.audience)
        if not verifies(agent.public_key, request.signature, signed):
            raise Refused(Refusal.INVALID, "That is not signed with the key of this agent.")
        await self._store.forget_agent(account_id, agent_id, agent.public_key)
        log.info(
            *("%s (%s) has left", agent.name, agent_id),
            extra=logs.fields(agent=agent_id, account=account_id),
        )
        return pb.LeaveResponse(left=True)

    async def _link(self, bearer: str, address: str) -> JoinLink:
        """The link whose secret was sent. Nothing is told to one who has another."""
        now = time.monotonic()
        pause = self._tries.pause(address, now)
        parts = split_bearer(bearer)
        link = None
        if parts is not None and parts[0] in self._accounts:
            if pause > 0:  # others behind the same router may have a right one
                link = (await self._known_links(parts[0])).get(parts[1])
            else:
                link = await self._store.join_link(parts[0], parts[1])
        if links.opens(link, parts[2] if parts else "") and link is not None:
            return link
        if pause > 0:
            why = links.SENTENCES[Refusal.TOO_MANY_TRIES]
            again = f"{why} Check the link, and try again in {pause:.0f} s."
            raise Refused(Refusal.TOO_MANY_TRIES, again, pause)
        self._tries.failed(address, now)
        log.warning("a wrong join link was tried from %s", address)
        raise Refused(Refusal.UNKNOWN)

    async def _known_links(self, account_id: str) -> dict[str, JoinLink]:
        """By id, as they were two seconds ago at most: however many wrong ones come, the store is
        asked no more often."""

        async def ask() -> dict[str, JoinLink]:
            return {one.link_id: one for one in await self._store.join_links(account_id)}

        return await self._lately.setdefault(account_id, Lately(ask)).said()

    def _nonce(self, account_id: str, agent_id: str, second: int) -> bytes:
        """The time and a signature: nothing has to be remembered. Leaving twice does no harm."""
        told = second.to_bytes(8, "big")
        return told + self._signer.mark("leave", account_id, agent_id, str(second))[:24]

    def _is_fresh(self, request: pb.LeaveRequest, now: float) -> bool:
        second = int.from_bytes(request.nonce[:8], "big")
        if not 0 <= now - second <= _NONCE_SECONDS:
            return False
        expected = self._nonce(request.account_id, request.agent_id, second)
        return hmac.compare_digest(request.nonce, expected)


def verifies(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether the holder of this key signed the statement."""
    # A tenth of the memory of a broker whose agents all have tokens.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def _agent(link: JoinLink, told: pb.EnrolRequest, address: str) -> Agent:
    """Checked. Raises Refused INVALID."""
    if len(told.public_key) != proofs.PUBLIC_KEY_BYTES:
        raise _invalid("the public key is not 32 bytes")
    if not _ID.fullmatch(told.agent_id):
        raise _invalid("the agent's id is not 1 to 64 letters, digits, '_', '.', ':' or '-'")
    if len(told.cards) > limits.CARDS_PER_AGENT:
        raise _invalid(f"{len(told.cards)} cards; {limits.CARDS_PER_AGENT} at most")
    if not 0 < len(told.audience) <= proofs.AUDIENCE_CHARACTERS or not told.audience.isprintable():
        raise _invalid("it does not say which broker it means")
    return Agent(
        link.account_id,
        told.agent_id,
        told.public_key,
        told.audience,
        _text(told.agent_name, _NAME_CHARACTERS) or "a PC",
        _text(told.agent_version, _VERSION_CHARACTERS),
        tuple(_text(card, _NAME_CHARACTERS) or "a card" for card in told.cards),
        address[:64],
        link.link_id,
        joined_ms=0,
    )


def _text(said: str, most: int) -> str:
    """An administrator reads it on a terminal: nothing in it may move the cursor."""
    return "".join(c for c in said if c.isprintable())[:most]


def _invalid(what: str) -> Refused:
    sentence = f"The broker cannot read this agent's request ({what}): install the same version."
    return Refused(Refusal.INVALID, sentence)
