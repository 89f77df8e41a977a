"""`foxden agent`: look after this machine's cards until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foxden_proto import logs
from foxden_proto.address import AddressError, parse
from foxden_proto.home import home
from foxden_proto.programs import Restarts, started_again, until_stopped
from foxden_proto.timers import Timers

if TYPE_CHECKING:
    from foxden_agent.app import Running
    from foxden_agent.settings import AgentSettings

log = logging.getLogger(__name__)

REFUSED = 4  # exit code: the broker does not take the token
_MOST_DEATHS = 4  # within a minute; then a person has to look


class AgentCommand:
    """The command as the `foxden` program plugs it in."""

    name = "agent"
    help = "run an agent: serve this machine's cards to a broker"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--broker", required=True, metavar="URL", help="the broker's address: foxden://…")
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
        add("--name", default="", help="what people see (the machine's name)")
        text = "decide by recorded readings instead of the card's own: see readings/"
        add("--replay", type=Path, metavar="FILE", help=text)
        text = "so many times as fast as they were recorded, 0.1 to 1000 (60)"
        add("--replay-speed", type=_speed, default=60.0, metavar="TIMES", help=text)
        add("--record", type=Path, metavar="FILE", help="write the readings to this file")
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
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0.5 <= gigabytes <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no budget: use GB from 0.5 up, such as 6.5")
    return int(gigabytes * 1024**3)


async def _run(args: argparse.Namespace) -> int:
    from foxden_agent import app, identity
    from foxden_agent.engine_client import EngineFailed
    from foxden_agent.link_driver import LinkRefused
    from foxden_agent.settings import AgentSettings
    from foxden_proto.trust import WrongBroker

    token = args.token or os.environ.get("FOXDEN_TOKEN", "")
    try:
        if not token:
            raise app.StartError(
                "No token: give --token or set FOXDEN_TOKEN to a token of scope agent."
            )
        if args.models and not args.models.is_dir():
            raise app.StartError(f"There is no folder {args.models}: check --models.")
        settings = AgentSettings(
            home=home(args.home),
            broker=parse(args.broker),
            token=token,
            device=args.device,
            models=args.models,
            name=args.name,
            replay=args.replay,
            replay_speed=args.replay_speed,
            record=args.record,
            vram_budget=args.vram_budget,
            supervised=args.supervised,
            timers=Timers.from_environment(),
        )
        in_use = (identity.HomeInUse, identity.CardInUse)
        final = (LinkRefused, WrongBroker, app.StartError, *in_use, EngineFailed, OSError)
        # One that is supervised is started again as a new process, which is better still.
        most = 1 if settings.supervised else _MOST_DEATHS
        await started_again(
            lambda: _serve(settings, as_json=args.json), Restarts(most), final=final
        )
    except (LinkRefused, WrongBroker) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except (AddressError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
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


async def _serve(settings: AgentSettings, *, as_json: bool) -> None:
    """Run the agent until it is told to stop. Raises what app.agent and its loops raise."""
    from foxden_agent import app

    async with app.agent(settings) as running:
        ready = asyncio.create_task(_say_ready(running, as_json=as_json))
        try:
            await until_stopped(running.failed, supervised=settings.supervised)
        finally:
            ready.cancel()


async def _say_ready(running: Running, *, as_json: bool) -> None:
    await running.online.wait()
    names = [card.name for card in running.cards]
    if as_json:
        print(json.dumps({"agent_id": running.agent_id, "cards": names}), flush=True)
    else:
        print(f"Online with {', '.join(names)}. Stop with Ctrl-C.", flush=True)
