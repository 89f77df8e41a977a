"""The other brokers on the same database: how they are dialled, trusted and told who calls."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc

from foxden_broker.account import now_ms
from foxden_broker.store.base import Replica
from foxden_broker.tls import Certificate
from foxden_proto import limits
from foxden_proto.address import CERTIFICATE_NAME
from foxden_proto.v1 import peer_pb2 as pb
from foxden_proto.v1.peer_pb2_grpc import PeerStub

if TYPE_CHECKING:  # known to the type checker alone
    from foxden_proto.v1.peer_pb2_grpc import PeerAsyncStub

log = logging.getLogger(__name__)

SIGNATURE = "foxden-peer"  # the metadata of every Peer call
FORWARDED = "foxden-forwarded"  # the mark on a client's call that another broker passed on
_CLOCKS_APART_MS = 60_000
_POKE_SECONDS = 2.0
FRAME_BYTES = limits.FRAME_BYTES + limits.KIB  # a link frame inside a PeerFrame

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 16 * limits.MIB),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Seal:
    """Signs and checks who calls: HMAC-SHA256 with the secret that the database keeps.

    The secret itself never travels. A signature names caller, callee and time, so that it is good
    for one replica and a minute; what protects it on the way is TLS, or the loopback interface.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, caller: str, callee: str, at_ms: int) -> str:
        return f"{caller}:{at_ms}:{self._mac(caller, callee, at_ms)}"

    def why_refused(self, signature: str, callee: str, at_ms: int) -> str:
        """Empty where a replica that knows the secret signed this for `callee` just now."""
        caller, _, rest = signature.partition(":")
        text, _, mac = rest.partition(":")
        if not text.isdecimal() or len(text) > 15:
            return "the call is not signed"
        if not hmac.compare_digest(mac.encode(), self._mac(caller, callee, int(text)).encode()):
            return "the signature is wrong"
        if abs(int(text) - at_ms) > _CLOCKS_APART_MS:
            return "the clocks of the two brokers are more than a minute apart"
        return ""

    def _mac(self, caller: str, callee: str, at_ms: int) -> str:
        words = "\n".join(("peer", caller, callee, str(at_ms)))
        return hmac.new(self._secret, words.encode(), sha256).hexdigest()


def ca_for_peers(certificate: Certificate | None) -> str:
    """What a peer has to trust to dial a broker with this certificate; empty for plain text.

    For a certificate from elsewhere it is that certificate itself: the database, which only
    brokers can write, vouches for it, whatever name or address it is dialled by.
    """
    if certificate is None:
        return ""
    return certificate.ca_pem or certificate.certificate.read_text()


def _name_in(ca_pem: str) -> str:
    """The name that a server with this certificate, or with one that this CA signed, shows."""
    from cryptography import x509  # a tenth of the memory of a broker that has no peers

    certificate = x509.load_pem_x509_certificate(ca_pem.encode())
    with suppress(x509.ExtensionNotFound):
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return CERTIFICATE_NAME
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return CERTIFICATE_NAME
    names = found.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return next(iter([*names, *addresses]), CERTIFICATE_NAME).replace("*", "broker")


class Peers:
    """Channels to the other replicas, opened at the first call and kept."""

    def __init__(self, me: str, seal: Seal) -> None:
        self._me = me
        self._seal = seal
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    def channel(self, replica: Replica) -> grpc.aio.Channel:
        where = (replica.address, replica.ca_pem)
        if where not in self._channels:
            self._channels[where] = _open(replica)
        return self._channels[where]

    def stub(self, replica: Replica) -> PeerAsyncStub:
        return PeerStub(self.channel(replica))

    def signature(self, replica: Replica) -> tuple[tuple[str, str], ...]:
        """The metadata of a Peer call."""
        return ((SIGNATURE, self._seal.sign(self._me, replica.replica_id, now_ms())),)

    def check(self, metadata: Mapping[str, str | bytes]) -> str:
        """Why a Peer call to this replica is refused; empty where it is not."""
        signature = metadata.get(SIGNATURE, "")
        text = signature if isinstance(signature, str) else ""
        return self._seal.why_refused(text, self._me, now_ms())

    async def poke(self, replica: Replica, account_id: str) -> None:
        """Hint that something changed. It may get lost; polling finds it too."""
        try:
            await self.stub(replica).Poke(
                pb.PokeRequest(account_id=account_id),
                metadata=self.signature(replica),
                timeout=_POKE_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            log.debug("broker %s was not told: %s", replica.replica_id, error.details())

    async def keep(self, living: list[Replica]) -> None:
        """Close the channels to replicas that are gone."""
        wanted = {(replica.address, replica.ca_pem) for replica in living}
        for where in set(self._channels) - wanted:
            await self._channels.pop(where).close()

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))


def _open(replica: Replica) -> grpc.aio.Channel:
    if not replica.ca_pem:
        return grpc.aio.insecure_channel(replica.address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(replica.ca_pem.encode())
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", _name_in(replica.ca_pem))]
    return grpc.aio.secure_channel(replica.address, credentials, options=options)
