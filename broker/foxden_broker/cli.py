"""`foxden broker`: run a broker until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import logging
import re
import sys
from pathlib import Path

from foxden_proto import logs
from foxden_proto.home import home
from foxden_proto.limits import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT
from foxden_proto.programs import until_stopped
from foxden_proto.timers import Timers

_YOUNG_OBJECTS = 10_000  # so many new ones before the collector looks at them


class BrokerCommand:
    """The command as the `foxden` program plugs it in."""

    name = "broker"
    help = "run a broker: the queue that cards and programs connect to"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        add("--public-host", default="", help="name or address that agents and programs dial")
        add("--grpc-port", type=_port, default=DEFAULT_GRPC_PORT, help="0: any free one (7433)")
        add("--http-port", type=_port, default=DEFAULT_HTTP_PORT, help="0: any free one (7480)")
        add("--database-url", default="", help="where jobs are kept (SQLite in the home folder)")
        add(
            "--advertise",
            type=_host_port,
            default=None,
            metavar="HOST:PORT",
            help="where other brokers on the same PostgreSQL dial this one's gRPC port",
        )
        add("--blobs", default="", help="where pictures are kept: a folder, or s3://BUCKET/PREFIX")
        add("--s3-endpoint", default="", help="URL of the S3 server, where it is not Amazon's")
        add("--s3-region", default="", help="region of the bucket")
        add("--tls-cert", type=Path, help="PEM certificate chain, instead of the broker's own CA")
        add("--tls-key", type=Path, help="PEM key of --tls-cert")
        limit = functools.partial(add, type=_days, metavar="DAYS")
        limit("--keep-results", default=30.0, help="pictures are swept after; 0: never (30)")
        limit("--keep-history", default=365.0, help="jobs are forgotten after; 0: never (365)")
        add(
            "--keep-bytes",
            type=_size,
            default=0,
            metavar="SIZE",
            help="of pictures, e.g. 500G: the oldest go first; 0: no limit (0)",
        )
        limit = functools.partial(add, type=_images, metavar="N")
        text = "images of one member that may wait; 0: no limit (10000)"
        limit("--most-queued", default=10_000, help=text)
        text = "images of everybody that may wait; 0: no limit (100000)"
        limit("--most-queued-in-account", default=100_000, help=text)
        add("--metrics-open", action="store_true", help="tell /metrics without a token")
        add("--log-format", choices=logs.FORMATS, default="text", help="of the log lines (text)")
        text = "log into this file, rotated, instead of the error stream"
        add("--log-file", type=Path, metavar="FILE", help=text)
        add("--supervised", action="store_true", help=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace) -> int:
        logs.set_up(args.log_format, file=args.log_file)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        try:
            return asyncio.run(_run(args))
        except KeyboardInterrupt:
            return 130


COMMAND = BrokerCommand()


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: use 0 to 65535")
    return port


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} is no number of days: use 0 to 36500")
    return days


def _images(text: str) -> int:
    images = int(text)
    if images < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of images: use 0 or more")
    return images


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 500G, 2T or bytes")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT: write broker-1:7433")
    return text


async def _run(args: argparse.Namespace) -> int:
    from foxden_broker.app import StartError, broker
    from foxden_broker.settings import BrokerSettings
    from foxden_broker.store.base import StoreError

    try:
        if bool(args.tls_cert) != bool(args.tls_key):
            raise StartError("--tls-cert and --tls-key belong together: give both.")
        settings = BrokerSettings(
            home=home(args.home),
            host=args.host,
            grpc_port=args.grpc_port,
            http_port=args.http_port,
            public_host=args.public_host,
            database_url=args.database_url,
            advertise=args.advertise or "",
            blobs=args.blobs,
            s3_endpoint=args.s3_endpoint,
            s3_region=args.s3_region,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            keep_results_days=args.keep_results,
            keep_bytes=args.keep_bytes,
            keep_history_days=args.keep_history,
            most_queued=args.most_queued,
            most_queued_in_account=args.most_queued_in_account,
            metrics_open=args.metrics_open,
            supervised=args.supervised,
            timers=Timers.from_environment(),
        )
        async with broker(settings) as running:
            _seldom_collect_garbage()
            ready = {
                "url": str(running.address),
                "http": running.http_url,
                "token": running.token,
            }
            if args.json:
                print(json.dumps(ready), flush=True)
            else:
                print(f"The broker is ready at {ready['url']}")
                print(f"Its administrator's token is in {settings.folder / 'admin-token'}")
                print("Log in with it:      foxden login", ready["url"])
                print("Let a PC join:       foxden join-link")
                print("Stop with Ctrl-C.", flush=True)
            await until_stopped(running.failed, supervised=settings.supervised)
    except (StartError, StoreError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"The broker cannot go on ({error.strerror or error}): "
            f"see that {home(args.home)} can be written and has space, then start it again.",
            file=sys.stderr,
        )
        return 1
    return 0


def _seldom_collect_garbage() -> None:
    """What is there at the start stays: a deep queue takes a second to look through, again and
    again. Next to nothing that the broker makes later has cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
