"""Make keys for releases, and sign a release. The root key belongs on a machine without a network.

    python packaging/sign_release.py root-key  root.key                once; prints the public key
    python packaging/sign_release.py sign-key  root.key signing.key --days 180
    python packaging/sign_release.py release   signing.key folder --version 0.2.0 --share 0.1

`root-key` prints the line that packaging/update_root_key.pub takes. `sign-key` makes a signing key
and lies beside it what says that the root knows it (signing.key.json). `release` describes every
foxden-VERSION-PLATFORM.tar.xz or .zip of the folder in release.json, which lies beside them on the
server; the same command with a larger --share, and later --days, renews it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foxden_agent.updating.manifest import KEY_WORD, RELEASE_WORD

_DAY = 86_400.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    one = actions.add_parser("root-key")
    one.add_argument("root", type=Path)
    one = actions.add_parser("sign-key")
    one.add_argument("root", type=Path)
    one.add_argument("key", type=Path)
    one.add_argument("--days", type=float, default=180)
    one = actions.add_parser("release")
    one.add_argument("key", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("--version", required=True)
    one.add_argument("--minimum", default="0.0.0", help="the oldest version that can take it")
    one.add_argument("--share", type=float, default=1.0, help="of the agents, 0 to 1")
    one.add_argument("--days", type=float, default=60, help="that the description is believed")
    args = parser.parse_args(argv)
    if args.action == "root-key":
        print(public(make(args.root)).hex())
    elif args.action == "sign-key":
        root, key = load(args.root), make(args.key)
        told = {"key": text(public(key)), "expires": time.time() + args.days * _DAY}
        signed = envelope(root, KEY_WORD, told)
        args.key.with_name(f"{args.key.name}.json").write_text(json.dumps(signed))
    else:
        return release(args)
    return 0


def release(args: argparse.Namespace) -> int:
    """Write release.json."""
    files = {}
    pattern = re.compile(rf"foxden-{re.escape(args.version)}-([a-z]+-[a-z0-9_]+)\.(tar\.xz|zip)")
    for path in sorted(args.folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[match[1]] = {"name": path.name, "sha256": digest, "size": path.stat().st_size}
    if not files:
        print(f"There is no foxden-{args.version}-PLATFORM archive in {args.folder}.")
        return 1
    told = {
        "serial": int(time.time() * 1000),
        "version": args.version,
        "minimum": args.minimum,
        "share": args.share,
        "files": files,
        "expires": time.time() + args.days * _DAY,
    }
    key_part = json.loads(args.key.with_name(f"{args.key.name}.json").read_text())
    whole = {"key": key_part, "release": envelope(load(args.key), RELEASE_WORD, told)}
    (args.folder / "release.json").write_text(json.dumps(whole, indent=1))
    print(f"{args.folder / 'release.json'}: {args.version} for {', '.join(files)}")
    return 0


def envelope(key: Ed25519PrivateKey, word: bytes, told: dict[str, Any]) -> dict[str, str]:
    payload = json.dumps(told, sort_keys=True).encode()
    return {"payload": text(payload), "signature": text(key.sign(word + payload))}


def make(path: Path) -> Ed25519PrivateKey:
    """A new private key in a file that its owner alone can read; never over an old one."""
    key = Ed25519PrivateKey.generate()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(key.private_bytes_raw().hex() + "\n")
    return key


def load(path: Path) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    sys.exit(main())
