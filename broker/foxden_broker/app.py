"""The broker put together: store, accounts, loops and doors, in the order they start."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from foxden_broker import dispatcher, http_api, keeper, sweeper
from foxden_broker.account import Account, now_ms
from foxden_broker.auth import Doorkeeper
from foxden_broker.backup import Copier
from foxden_broker.blobs import BlobStore
from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.forwarding import Forwarding
from foxden_broker.grpc_api import AdminService, Door, GenerationService, PoolService
from foxden_broker.joining.enrolment import Enrolment
from foxden_broker.metrics import Metrics, metered
from foxden_broker.peer_api import PeerService
from foxden_broker.peers import FRAME_BYTES as PEER_BYTES
from foxden_broker.peers import Peers, Seal, ca_for_peers
from foxden_broker.quotas import Defaults
from foxden_broker.replicas import Replicas
from foxden_broker.settings import BrokerSettings
from foxden_broker.store.base import Store
from foxden_broker.store.sql_store import open_store
from foxden_broker.tls import Certificate, CertificateError, own_certificate
from foxden_broker.tokens import new_token, random_id, split
from foxden_broker.uploads import Signer
from foxden_proto import limits
from foxden_proto.address import Address
from foxden_proto.home import write_private
from foxden_proto.programs import Loop, watched
from foxden_proto.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    peer_pb2_grpc,
    pool_pb2,
    pool_pb2_grpc,
)

log = logging.getLogger(__name__)


class StartError(Exception):
    """The broker cannot start; the text says why and what to do."""


@dataclass(frozen=True)
class Running:
    """A broker that is ready: where it is, and the token it made for its administrator."""

    address: Address
    http_url: str
    token: str
    failed: asyncio.Future[None]  # ends with an exception when a loop of the broker dies


@asynccontextmanager
async def broker(settings: BrokerSettings) -> AsyncIterator[Running]:
    """Run a broker for as long as the context lasts. Raises StartError, or StoreError."""
    _make_folder(settings)
    certificate = _certificate(settings)
    with _listen(settings.host, settings.http_port) as http_socket:
        metrics = Metrics()
        opened = await open_store(settings.database_url or _sqlite_url(settings))
        store = metered(opened, metrics)
        replicas: Replicas | None = None
        try:
            accounts, replicas = await _accounts(settings, store, metrics)
            token = await _admin_token(settings, store, next(iter(accounts)))
            doorkeeper = Doorkeeper(store)
            copier = Copier(settings.folder, store, accounts, sqlite=not settings.postgresql)
            enrolment = Enrolment(store, accounts, Signer(await _signing_key(settings, store)))
            door = Door(accounts, store, doorkeeper, metrics, copier)
            server, grpc_port = await _grpc(settings, certificate, door, replicas)
            http = _http(settings, certificate, accounts, doorkeeper, metrics, replicas, enrolment)
            loops: list[Loop] = [
                ("http", _serve(http, http_socket)),
                ("event loop's lag", metrics.watch_the_loop()),
            ]
            if replicas is not None:
                replicas.advertise(
                    settings.advertised(grpc_port), ca_for_peers(certificate), version("foxden")
                )
                loops.append(("replicas", replicas.run()))
            else:
                keep = sweeper.Keep.of(settings)
                loops += [loop for a in accounts.values() for loop in _account_loops(keep, a)]
            async with watched(loops) as failed:
                if replicas is not None:
                    await replicas.settled()
                http_port = http_socket.getsockname()[1]
                pin = certificate.pin if certificate else ""
                address = Address(settings.dialled_host, grpc_port, http_port, pin)
                door.address = address
                try:
                    yield Running(address, address.http_url, token, failed)
                finally:
                    if replicas is not None:  # first: another broker can take over meanwhile
                        await replicas.stop()
                    await server.stop(grace=0.5)
                    for account in accounts.values():
                        for session in account.sessions.values():
                            await session.close("the broker is stopping")
        finally:
            if replicas is not None:
                await replicas.peers.close()
            await store.close()


def _make_folder(settings: BrokerSettings) -> None:
    try:
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = settings.folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"The folder {settings.folder} cannot be written ({error.strerror}): "
            "choose another with --home, or give yourself the right to write there."
        ) from None


def _certificate(settings: BrokerSettings) -> Certificate | None:
    if settings.plain:
        return None
    if settings.tls_cert and settings.tls_key:
        for path in (settings.tls_cert, settings.tls_key):
            if not path.is_file():
                raise StartError(f"There is no certificate file {path}: check --tls-cert.")
        return Certificate(settings.tls_cert, settings.tls_key)
    try:
        return own_certificate(settings.folder / "tls", dt.datetime.now(dt.UTC), apart=True)
    except CertificateError as error:
        raise StartError(str(error)) from error


def _sqlite_url(settings: BrokerSettings) -> str:
    return f"sqlite:///{settings.folder / 'foxden.db'}"


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Bind the HTTP port before anything else is touched: a taken port is the likeliest fault."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise StartError(_taken("HTTP", host, port, error.strerror or str(error))) from None
        listener.listen(1024)
        yield listener


def _taken(what: str, host: str, port: int, why: str) -> str:
    option = f"--{what.lower()}-port"
    return (
        f"The {what} port {port} on {host} cannot be opened ({why}): "
        f"stop the other program, or choose another port with {option} (0 for any free one)."
    )


async def _accounts(
    settings: BrokerSettings, store: Store, metrics: Metrics
) -> tuple[dict[str, Account], Replicas | None]:
    """The accounts, loaded where this broker alone plans for them; otherwise the replicas decide
    by and by who does."""
    ids = list(await store.accounts())
    if not ids:
        # Replicas that start together on an empty database must make one account, not two.
        agreed = await store.secret("first-account", random_id(8).encode())
        ids = [agreed.decode()]
        await store.ensure_account(ids[0], "main", now_ms())
    if settings.blobs.startswith("s3://"):
        from foxden_broker.blobs_s3 import check_s3

        await check_s3(settings.blobs, settings.s3_endpoint, settings.s3_region)
    signer = Signer(await _signing_key(settings, store))
    limits = Defaults(settings.most_queued, settings.most_queued_in_account)
    blobs: dict[str, BlobStore] = {}

    def new_account(account_id: str, store: Store) -> Account:
        if account_id not in blobs:  # its accounts come and go, with each change of the planner
            blobs[account_id] = _blobs(settings, ids, account_id)
        kept = blobs[account_id]
        return Account(account_id, store, kept, signer, settings.timers, limits, metrics)

    if settings.shared:
        seal = Seal(await store.secret("peers", secrets.token_bytes(32)))
        replica_id, before = _replica_ids(settings)
        replicas = Replicas(
            replica_id,
            before,
            store,
            new_account,
            functools.partial(_account_loops, sweeper.Keep.of(settings)),
            Peers(replica_id, seal),
            settings.timers,
            ids,
        )
        metrics.of_accounts(replicas.accounts)
        return replicas.accounts, replicas
    accounts = {i: new_account(i, store) for i in ids}
    for account in accounts.values():
        await account.load()
    metrics.of_accounts(accounts)
    return accounts, None


def _account_loops(keep: sweeper.Keep, account: Account) -> list[Loop]:
    """What runs for an account in the broker that plans for it."""
    return [
        (f"dispatcher {account.account_id}", dispatcher.run(account)),
        (f"keeper {account.account_id}", keeper.run(account)),
        (f"sweeper {account.account_id}", sweeper.run(account, keep)),
    ]


def _replica_ids(settings: BrokerSettings) -> tuple[str, str]:
    """This run's id and that of the run before, whose accounts need not wait for their leases to
    run out. New for each run: a home may have been copied."""
    path = settings.folder / "replica-id"
    before = path.read_text().strip() if path.exists() else ""
    replica_id = random_id(12)
    write_private(path, replica_id)
    return replica_id, before


async def _signing_key(settings: BrokerSettings, store: Store) -> bytes:
    """One key for all brokers of a database: a picture is PUT to any of them."""
    path = settings.folder / "signing.key"
    if not settings.shared:
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return bytes.fromhex(path.read_text())
    own = bytes.fromhex(path.read_text()) if path.exists() else secrets.token_bytes(32)
    return await store.secret("signing-key", own)


def _blobs(settings: BrokerSettings, account_ids: list[str], account_id: str) -> BlobStore:
    """The account's own place: what nobody in it refers to can be deleted."""
    if settings.blobs.startswith("s3://"):
        from foxden_broker.blobs_s3 import open_s3

        return open_s3(settings.blobs, account_id, settings.s3_endpoint, settings.s3_region)
    if settings.blobs:
        return FolderBlobs(Path(settings.blobs) / account_id, shared=settings.shared)
    root = settings.folder / "blobs"
    before = root / "tmp"  # until 0.1 there was one account, and one folder
    if before.is_dir() and len(account_ids) == 1 and not (root / account_id).exists():
        old = root.rename(root.with_name("blobs.moving"))
        root.mkdir()
        old.rename(root / account_id)
    return FolderBlobs(root / account_id, shared=settings.shared)


async def _admin_token(settings: BrokerSettings, store: Store, account_id: str) -> str:
    """The administrator's own token: made at the first start, and again if it was revoked."""
    path = settings.folder / "admin-token"
    if path.exists() and (parts := split(path.read_text().strip())) is not None:
        known = await store.token(parts[0], parts[1])
        if known is not None and not known.revoked_ms:
            return path.read_text().strip()
    scopes = frozenset({"admin", "generate"})
    token, text = new_token(account_id, "administrator", scopes, now_ms())
    await store.add_token(token)
    write_private(path, text)
    return text


async def _grpc(
    settings: BrokerSettings,
    certificate: Certificate | None,
    door: Door,
    replicas: Replicas | None,
) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        interceptors=[Forwarding(replicas, door.keeper)] if replicas else [],
        options=[
            # Two brokers on one port would share its calls and each lose half of them.
            ("grpc.so_reuseport", 0),
            # A frame from a peer is a little larger than what it carries.
            ("grpc.max_receive_message_length", PEER_BYTES if replicas else limits.REQUEST_BYTES),
            ("grpc.max_metadata_size", 16 * limits.KIB),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ],
    )
    generation_pb2_grpc.add_GenerationServicer_to_server(GenerationService(door), server)
    pool_pb2_grpc.add_PoolServicer_to_server(PoolService(door), server)
    pool_pb2_grpc.add_AdminServicer_to_server(AdminService(door), server)
    if replicas is not None:
        peer_pb2_grpc.add_PeerServicer_to_server(PeerService(replicas), server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    services = [
        generation_pb2.DESCRIPTOR.services_by_name["Generation"].full_name,
        *(pool_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("Pool", "Admin")),
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    ]
    reflection.enable_server_reflection(services, server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    target = f"{host}:{settings.grpc_port}"
    try:
        if certificate is None:
            port = server.add_insecure_port(target)
        else:
            pair = (certificate.key.read_bytes(), certificate.certificate.read_bytes())
            port = server.add_secure_port(target, grpc.ssl_server_credentials([pair]))
    except RuntimeError:
        why = "another program uses it, or you may not open it"
        raise StartError(_taken("gRPC", settings.host, settings.grpc_port, why)) from None
    await server.start()
    return server, port


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to the program: it stops more than its HTTP door."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http(
    settings: BrokerSettings,
    certificate: Certificate | None,
    accounts: dict[str, Account],
    doorkeeper: Doorkeeper,
    metrics: Metrics,
    replicas: Replicas | None,
    enrolment: Enrolment,
) -> _Uvicorn:
    ca_pem = certificate.ca_pem if certificate else ""
    app = http_api.create(
        accounts,
        doorkeeper,
        ca_pem,
        metrics,
        replicas,
        metrics_open=settings.metrics_open,
        enrolment=enrolment,
    )
    return _Uvicorn(
        uvicorn.Config(
            app,
            log_config=None,  # its lines go where ours go
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # nothing asks where a call came from
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=limits.FRAME_BYTES,
            ws_ping_interval=None,  # the link has heartbeats of its own
            ws_per_message_deflate=False,
            h11_max_incomplete_event_size=16 * limits.KIB,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            ssl_certfile=str(certificate.certificate) if certificate else None,
            ssl_keyfile=str(certificate.key) if certificate else None,
        )
    )


async def _serve(http: _Uvicorn, listener: socket.socket) -> None:
    """Serve until cancelled, then let open answers end."""
    serving = asyncio.create_task(http.serve(sockets=[listener]), name="uvicorn")
    try:
        await asyncio.shield(serving)
    finally:
        http.should_exit = True
        await asyncio.wait([serving], timeout=3)
