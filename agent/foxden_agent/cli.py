"""`foxden agent`: look after this machine's cards until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from foxden_proto import arguments, logs
from foxden_proto.address import AddressError, parse
from foxden_proto.home import home
from foxden_proto.programs import Restarts, started_again, until_stopped
from foxden_proto.timers import Timers

if TYPE_CHECKING:
    from foxden_agent.app import Running
    from foxden_agent.owners_side import OwnersSide
    from foxden_agent.page.plugs import Membership
    from foxden_agent.page.shown import Shown
    from foxden_agent.settings import AgentSettings

log = logging.getLogger(__name__)

REFUSED = 4  # exit code: the broker does not take the token
_PAGE_PORT = 7481
_MOST_DEATHS = 4  # within a minute; then a person has to look


class AgentCommand:
    """The command as the `foxden` program plugs it in."""

    name = "agent"
    help = "run an agent: serve this machine's cards to a broker"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        text = "your own broker's address, foxden://…; without: the pools that were joined"
        add("--broker", metavar="URL", help=text)
        add("--token", help="a token of scope agent (FOXDEN_TOKEN)")
        add("--device", type=_device, default="auto", help="auto, cpu or cuda:N (auto)")
        add("--models", type=Path, help="the model folder (models/ in the home folder)")
        add(
            "--vram-budget",
            type=_gigabytes,
            default=0,
            metavar="GB",
            help="the most of each card's memory that is used (all but what the desktop needs)",
        )
        add(
            "--idle-unload",
            type=_minutes,
            default=10.0,
            metavar="MINUTES",
            help="without work for so long the engine ends; 0: never (10)",
        )
        add("--name", default="", help="what people see (the machine's name)")
        text = "decide by recorded readings instead of the card's own: see readings/"
        add("--replay", type=Path, metavar="FILE", help=text)
        text = "so many times as fast as they were recorded, 0.1 to 1000 (60)"
        add("--replay-speed", type=_speed, default=60.0, metavar="TIMES", help=text)
        add("--record", type=Path, metavar="FILE", help="write the readings to this file")
        add("--no-page", dest="page", action="store_false", help="serve no page for the owner")
        text = "of the owner's page on 127.0.0.1; another where it is taken (7481)"
        add("--page-port", type=arguments.port, default=_PAGE_PORT, metavar="PORT", help=text)
        add("--no-tray", dest="tray", action="store_false", help="show no icon in the tray")
        add("--log-format", choices=logs.FORMATS, default="text", help="of the log lines (text)")
        text = "log into this file, rotated, instead of the error stream"
        add("--log-file", type=Path, metavar="FILE", help=text)
        add("--supervised", action="store_true", help=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace) -> int:
        _leave_no_memory_behind()
        logs.set_up(args.log_format, file=args.log_file)
        # One line per request would drown the log, and it would name every picture.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            return asyncio.run(_run(args))
        except KeyboardInterrupt:
            return 130


COMMAND = AgentCommand()


def _leave_no_memory_behind() -> None:
    """No core file of this program, nor of the engines that it starts: a crash would write prompts
    and pictures to the owner's disk."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.1 <= speed <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a speed: use 0.1 to 1000")
    return speed


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda:\d{1,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device: use auto, cpu or cuda:N")
    return text


def _gigabytes(text: str) -> int:
    return int(arguments.gigabytes(text) * 1024**3)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: use minutes, such as 10; 0: never")
    return minutes


async def _run(args: argparse.Namespace) -> int:
    from foxden_agent import app, identity
    from foxden_agent.engine_errors import EngineFailed
    from foxden_agent.link_driver import LinkRefused
    from foxden_agent.owners_side import OwnersSide, beside_the_agent
    from foxden_agent.updating import yielding
    from foxden_proto.trust import WrongBroker

    try:
        given = _given(args)
        if args.models and not args.models.is_dir():
            raise app.StartError(f"There is no folder {args.models}: check --models.")
        side = OwnersSide(
            home=home(args.home),
            page=args.page,
            page_port=args.page_port,
            tray=args.tray,
            supervised=args.supervised,
            device=args.device,
            models=args.models,
        )
        timers = Timers.from_environment()
        with app.installation(side.folder):
            async with beside_the_agent(side) as shown:
                await _live(args, side, shown, given, timers)
    except (LinkRefused, WrongBroker) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except (AddressError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except yielding.RestartAsked:
        return yielding.EXIT_CODE
    except (app.StartError, identity.HomeInUse, identity.CardInUse, EngineFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"The agent cannot go on ({error.strerror or error}): "
            f"see that {home(args.home)} can be written and has space, then start it again.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        log.exception("the agent has to stop")
        print(
            f"The agent failed again and again ({type(error).__name__}: {error}). It needs "
            "attention: run `foxden doctor`, and `foxden doctor --bundle FILE` for who helps you.",
            file=sys.stderr,
        )
        return 1
    return 0


def _given(args: argparse.Namespace) -> Membership | None:
    """What the command line says of where the agent belongs; None: it does not say."""
    from foxden_agent import app
    from foxden_agent.page.plugs import Membership

    if not args.broker:
        return None
    token = args.token or os.environ.get("FOXDEN_TOKEN", "")
    if not token:
        raise app.StartError(
            "No token: give --token or set FOXDEN_TOKEN to a token of scope agent."
        )
    return Membership(parse(args.broker), token)


async def _live(
    args: argparse.Namespace,
    side: OwnersSide,
    shown: Shown,
    given: Membership | None,
    timers: Timers,
) -> None:
    """Serve a broker: the one that was given, or joined before, or on the page now."""
    from foxden_agent import app, identity
    from foxden_agent.engine_errors import EngineFailed
    from foxden_agent.joined_pools import IdentityChanged
    from foxden_agent.link_driver import LinkRefused
    from foxden_agent.owners_side import first_run, plugs
    from foxden_agent.updating import yielding
    from foxden_proto.trust import WrongBroker

    joins, installs = plugs(side.folder)
    membership = given or next(iter(joins.memberships()), None)
    if given is None and shown.served and not installs.ready():
        membership = None  # its first run fetches the engine
    in_use = (identity.HomeInUse, identity.CardInUse)
    stops = (LinkRefused, WrongBroker, app.StartError, yielding.RestartAsked)
    final = (*stops, *in_use, EngineFailed, IdentityChanged, OSError)
    # One that is supervised is started again as a new process, which is better still.
    most = 1 if side.supervised else _MOST_DEATHS
    while True:
        if membership is None:
            if not shown.served:
                raise app.StartError(
                    "There is nobody to serve: join a pool with `foxden join LINK`, or give "
                    "--broker and --token for a broker of your own."
                )
            membership = await first_run(side, shown, timers)
            if membership is None:
                return
        settings = _settings(args, side, membership, timers)
        shown.broker = membership.account or membership.broker.grpc_target
        shown.problem = ""
        try:
            await started_again(
                partial(_serve, settings, shown, as_json=args.json),
                Restarts(most),
                final=final,
            )
        except (LinkRefused, WrongBroker) as error:
            if given is not None or not shown.served:
                raise
            log.error("%s", error)
            shown.problem = str(error)  # its owner joins again, or elsewhere
            membership = None
        except IdentityChanged as error:
            log.warning("%s: the agent starts again with that id", error)
        else:
            return


def _settings(
    args: argparse.Namespace, side: OwnersSide, membership: Membership, timers: Timers
) -> AgentSettings:
    from foxden_agent.settings import AgentSettings

    return AgentSettings(
        home=side.home,
        # Without a token it is a joined pool: the agent serves all of them, by their keys.
        broker=membership.broker if membership.token else None,
        token=membership.token,
        device=args.device,
        models=args.models,
        name=args.name or membership.name,
        replay=args.replay,
        replay_speed=args.replay_speed,
        record=args.record,
        vram_budget=args.vram_budget,
        idle_unload=args.idle_unload * 60,
        supervised=side.supervised,
        timers=timers,
    )


async def _serve(settings: AgentSettings, shown: Shown, *, as_json: bool) -> None:
    """Run the agent until it is told to stop. Raises what app.agent and its loops raise."""
    from foxden_agent import app

    async with app.agent(settings) as running:
        shown.seen = running.seen
        ready = asyncio.create_task(_say_ready(running, shown, as_json=as_json))
        try:
            await until_stopped(running.failed, supervised=settings.supervised, also=shown.stop)
        finally:
            shown.seen = None
            ready.cancel()


async def _say_ready(running: Running, shown: Shown, *, as_json: bool) -> None:
    await running.online.wait()
    if shown.first_run is not None:
        shown.first_run.went_online()
    names = [card.name for card in running.cards]
    if as_json:
        print(json.dumps({"agent_id": running.agent_id, "cards": names}), flush=True)
    else:
        print(f"Online with {', '.join(names)}. Stop with Ctrl-C.", flush=True)
