"""The broker's settings: few, frozen, resolved once from flags and environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foxden_proto.address import Address
from foxden_proto.limits import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT
from foxden_proto.timers import Timers


@dataclass(frozen=True)
class BrokerSettings:
    """How one broker runs."""

    home: Path  # holds everything it writes, in `broker/`
    host: str = "127.0.0.1"  # address to listen on
    grpc_port: int = DEFAULT_GRPC_PORT  # 0: any free one
    http_port: int = DEFAULT_HTTP_PORT  # 0: any free one
    public_host: str = ""  # name or address that clients dial; empty: `host`
    database_url: str = ""  # empty: SQLite in the home folder
    advertise: str = ""  # host:port at which other brokers dial this one; empty: as clients do
    blobs: str = ""  # a folder, or s3://bucket/prefix; empty: in the home folder
    s3_endpoint: str = ""  # URL of an S3 that is not Amazon's
    s3_region: str = ""  # of the bucket; empty: as the environment says
    tls_cert: Path | None = None  # PEM chain; with tls_key, instead of the broker's own CA
    tls_key: Path | None = None
    keep_results_days: float = 30.0  # pictures and uploads are swept after; 0: never
    keep_bytes: int = 0  # of pictures and uploads per account, the oldest go first; 0: no limit
    keep_history_days: float = 365.0  # what is known of a job is forgotten after; 0: never
    most_queued: int = 10_000  # images of one member that wait; 0: no limit
    most_queued_in_account: int = 100_000  # images of all members together; 0: no limit
    metrics_open: bool = False  # tell /metrics without a token
    supervised: bool = False  # stop when standard input closes
    timers: Timers = field(default_factory=Timers)

    @property
    def folder(self) -> Path:
        return self.home / "broker"

    @property
    def dialled_host(self) -> str:
        return self.public_host or ("127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host)  # noqa: S104

    @property
    def shared(self) -> bool:
        """Whether other brokers may use the same database."""
        return self.database_url.startswith("postgresql")

    def advertised(self, grpc_port: int) -> str:
        if self.advertise:
            return self.advertise
        return Address(self.dialled_host, grpc_port).grpc_target

    @property
    def plain(self) -> bool:
        """Plain text is spoken on loopback alone."""
        return Address(self.host).loopback and not self.public_host and self.tls_cert is None

    @property
    def postgresql(self) -> bool:
        return self.database_url.startswith("postgres")
