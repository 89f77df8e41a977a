"""A hub of models on loopback, as huggingface_hub calls one, that can misbehave.

Two servers, as with the real one: the hub itself, and the store to which it sends whoever wants a
big file. Paths of faults are those of the repository.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import ssl
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from safetensors.numpy import load, save

from foxden_agent.models import DEMO_MODEL

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BIG = (".safetensors", ".bin", ".ckpt")  # kept in LFS
UNET = "unet/diffusion_pytorch_model.safetensors"
UNET_16 = "unet/diffusion_pytorch_model.fp16.safetensors"


@dataclass
class Repo:
    """A repository at its one commit."""

    files: dict[str, bytes]
    licence: str = "apache-2.0"
    commit: str = COMMIT
    gated: bool = False


@dataclass(frozen=True)
class Asked:
    """A request that was heard."""

    server: str  # hub or store
    path: str
    range: str
    authorization: str
    agent: str


@dataclass
class Hub:
    """What it has, what goes wrong with it, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    spoilt: set[str] = field(default_factory=set)  # files with another byte than the list says
    status: dict[str, int] = field(default_factory=dict)  # answers for a file, or for "api"
    held: dict[str, tuple[int, Event]] = field(default_factory=dict)  # stops there until it is set
    holding: Event = field(default_factory=Event)  # one is held now
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)
    address: str = ""
    store: str = ""

    def of(self, path: str) -> list[Asked]:
        """The requests for the bytes of a file."""
        return [one for one in self.asked if one.server == "store" and one.path.endswith(path)]


def demo_files() -> dict[str, bytes]:
    """The demo model in the layout of a hub, among what nobody should fetch."""
    files = {
        str(path.relative_to(DEMO_MODEL)): path.read_bytes()
        for path in DEMO_MODEL.rglob("*")
        if path.is_file() and path.name != "foxden.json"
    }
    half = {name: told.astype(np.float16) for name, told in load(files[UNET]).items()}
    index = json.loads(files["model_index.json"])
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    return files | {
        "model_index.json": json.dumps(index).encode(),
        UNET_16: save(half),
        **dict.fromkeys(ODD, b"not for you"),
    }


# What no fetch may ever bring: pickles, code, copies, names that lead elsewhere.
ODD = (
    *("unet/diffusion_pytorch_model.bin", "demo.ckpt", "demo.safetensors", "vae/model.pt"),
    *("pipeline.py", "unet/modeling_unet.py", "unet/model.pkl", "setup.sh"),
    *("../outside.json", "unet/../../outside.json", "/tmp/outside.json", "unet/../outside.json"),
    *("unet/more/config.json", "unet\\outside.json", ".hidden/config.json", "unet/.hidden.json"),
    *(
        "safety_checker/model.safetensors",
        "README.md",
        "foxden.json",
        "unet/diffusion_flax.msgpack",
    ),
)


def big_files(size: int = 8_000_000) -> dict[str, bytes]:
    """A model with a unet of many bytes that mean nothing: for tests of the way alone."""
    weights = np.random.default_rng(7).bytes(size)
    return {
        "model_index.json": json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "unet": ["diffusers", "UNet2DConditionModel"],
            }
        ).encode(),
        "unet/config.json": b"{}",
        UNET: weights,
    }


def certificate(folder: Path) -> Path:
    """A PEM of a key and of a certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a company's network")])
    now = dt.datetime.now(dt.UTC)
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = folder / "company.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *kinds)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return pem


@contextmanager
def serving(hub: Hub, certificate: Path | None = None) -> Iterator[Hub]:
    """Serve it for as long as the context lasts; with a PEM of key and certificate over TLS."""
    servers = []
    for name in ("hub", "store"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    scheme = "http" if certificate is None else "https"
    hub.address, hub.store = (f"{scheme}://127.0.0.1:{one.server_address[1]}" for one in servers)
    try:
        yield hub
    finally:
        for _, event in hub.held.values():
            event.set()
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    name: str

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = [self.headers.get(one, "") for one in ("Range", "Authorization", "User-Agent")]
        self.hub.asked.append(Asked(self.name, path, *headers))
        parts = path.strip("/").split("/")
        if self.name == "hub" and parts[:2] == ["api", "models"]:
            self._list("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "")
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "")

    def _list(self, name: str, revision: str) -> None:
        repo = self.hub.repos.get(name)
        if status := self.hub.status.get("api"):
            self._refuse(status, "")
        elif repo is None:
            self._refuse(401, "RepoNotFound")
        elif revision not in ("", "main", repo.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            self._json(
                {
                    "id": name,
                    "sha": repo.commit,
                    "gated": "auto" if repo.gated else False,
                    "cardData": {"license": repo.licence},
                    "siblings": [
                        {"rfilename": path, **_about(path, data)}
                        for path, data in repo.files.items()
                    ],
                }
            )

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos[name]
        if repo.gated and self.headers.get("Authorization") != "Bearer hf_agreed":
            self._refuse(401, "GatedRepo")
        elif status := self.hub.status.get(path):
            self._refuse(status, "EntryNotFound" if status == 404 else "")
        elif revision != repo.commit or path not in repo.files:
            self._refuse(404, "EntryNotFound")
        elif self.name == "hub" and path.endswith(_BIG):
            self.send_response(302)
            self.send_header("Location", self.hub.store + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._bytes(path, repo.files[path])

    def _bytes(self, path: str, data: bytes) -> None:
        if path in self.hub.spoilt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = self.headers.get("Range", "") if self.hub.ranges else ""
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cuts = self.hub.cuts[path]
        end = start + cuts.pop(0) if cuts else len(data)
        if path in self.hub.held:
            stop, go_on = self.hub.held[path]
            self.wfile.write(data[start:stop])
            self.hub.holding.set()
            go_on.wait(60)
            start = max(start, stop)
        with suppress(OSError):  # who asked is gone
            self.wfile.write(data[start:end])
        if end < len(data):
            self.close_connection = True

    def _json(self, told: object) -> None:
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _about(path: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    told: dict[str, object] = {"size": len(data), "blobId": blob}
    if path.endswith(_BIG):
        sha256 = hashlib.sha256(data).hexdigest()
        told["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return told
