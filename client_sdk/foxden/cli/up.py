"""foxden up: this PC as a private endpoint, until it is told to stop."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from foxden import config
from foxden.cli import _output
from foxden.local import Endpoint, LocalPool, Settings, Stopped, stoppable
from foxden_proto import arguments
from foxden_proto import home as homes
from foxden_proto.limits import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grpc-port",
        type=arguments.port,
        default=DEFAULT_GRPC_PORT,
        metavar="PORT",
        help="0: any free one",
    )
    parser.add_argument(
        "--http-port",
        type=arguments.port,
        default=DEFAULT_HTTP_PORT,
        metavar="PORT",
        help="0: any free one",
    )
    add_card_options(parser)
    text = "play recorded readings of a card, sixty times as fast: see what its owner would see"
    parser.add_argument("--no-page", action="store_true", help="serve no page for the owner")
    parser.add_argument("--no-tray", action="store_true", help="show no icon in the tray")
    parser.add_argument("--replay", type=Path, metavar="FILE", help=text)


def add_card_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda:0; chosen if not given")
    parser.add_argument("--models", type=Path, metavar="DIR", help="the folder with model files")
    text = "the most of the card's memory that is used (all but what the desktop needs)"
    parser.add_argument("--vram-budget", type=arguments.gigabytes, metavar="GB", help=text)


def run(args: argparse.Namespace) -> int:
    home = homes.home(args.home)
    settings = Settings(
        *(home, args.grpc_port, args.http_port, args.device, args.models),
        replay=args.replay,
        vram_budget=args.vram_budget,
        page=not args.no_page,
        tray=not args.no_tray,
    )

    def remember(endpoint: Endpoint) -> None:
        config.write(home, endpoint.url, endpoint.token)

    try:
        with stoppable(), LocalPool(settings) as pool:
            _tell("starting the broker")
            endpoint = pool.start_broker()
            _tell("starting the engine (loading torch)")
            pool.start_agent(endpoint)
            remember(endpoint)
            pool.agent_ready()
            _announce(args, home, endpoint)
            pool.watch(endpoint, remember)
    except Stopped:  # how a service manager ends it: no failure
        return _output.DONE
    return _output.DONE


def _tell(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


def _announce(args: argparse.Namespace, home: Path, endpoint: Endpoint) -> None:
    if args.json:
        _output.print_json({"url": endpoint.url, "http": endpoint.http, "token": endpoint.token})
        return
    at = f" --home {args.home}" if args.home else ""
    given = f'home="{home}"' if args.home else ""
    page = "" if args.no_page else f"  foxden{at} page    # what your card does, and may do\n\n"
    print(
        f"""
Foxden is ready at {endpoint.url}
HTTP               {endpoint.http}
token              {endpoint.token}
                   (also in {home / config.FILE}, where the next two find it)

  foxden{at} generate "a red cube on a blue background" --out pictures/

  import foxden
  foxden.Client({given}).generate("a red cube on a blue background").image.save("cube.png")

{page}Stop with Ctrl-C.""",
        flush=True,
    )
