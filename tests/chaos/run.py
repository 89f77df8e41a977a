"""Break a pool again and again under load; print a verdict per invariant and how long it was down.

    python tests/chaos/run.py [--store sqlite|postgresql] [--kills N] [--faults N] [--seed S]

Every process is real and its protocol timers run three times faster; the engine is diffusers on the
demo model, on one thread. The broker is killed `kills` times at random moments, each other fault
strikes `faults` times. The exit code is 1 where an invariant was broken. That a machine was too
busy to start a program in time is said, and breaks none.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "support")]  # as pytest's `pythonpath` does

from postgres import Cluster, Unavailable  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from chaos import faults, recovery  # noqa: E402
from chaos.den import STORES, Den  # noqa: E402
from chaos.invariants import Verdict  # noqa: E402
from chaos.recovery import Recovery  # noqa: E402
from chaos.striking import strike  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=STORES, help="one of the stores (both)")
    parser.add_argument("--kills", type=int, default=100, help="of the broker, per store (100)")
    parser.add_argument("--faults", type=int, default=5, help="of each other kind, per store (5)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    console = Console()
    console.print(f"seed {arguments.seed}; {recovery.machine()}")
    stores = [arguments.store] if arguments.store else list(STORES)
    held = [
        run(store, arguments.kills, arguments.faults, arguments.seed, console) for store in stores
    ]
    return 0 if all(held) else 1


def run(store: str, kills: int, others: int, seed: int, console: Console) -> bool:
    """One store's turn; prints its tables. True where everything held."""
    draw = random.Random(seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foxden-chaos-")))
        cluster = None
        if store == "postgresql":
            try:
                cluster = Cluster()
            except Unavailable as why:
                console.print(f"postgresql: {why}")
                return False
            stack.callback(cluster.close)
        den = Den(folder, cluster)
        stack.callback(den.close)
        den.start()
        strikes: list[tuple[faults.Fault, int]] = [
            (faults.BrokerKilled(den), kills),
            (faults.AgentKilled(den), others),
            (faults.EngineKilled(den), others),
            (faults.LinksReset(den), others),
            (faults.LinkBlackHoled(den), others),
            (faults.LinksSlowed(den, draw), others),
        ]
        if cluster is not None:
            strikes.append((faults.DatabaseRestarted(cluster), others))
            strikes.append((faults.BackendsTerminated(cluster), others))
        recoveries: dict[str, list[Recovery]] = {}
        with den.load(seed) as load:
            for fault, times in strikes:
                with console.status(f"{store}: {fault.name}, {times} times"):
                    recoveries[fault.name] = strike(fault, times, load, draw, (0.1, 1.5))
        verdicts = den.verdicts(load)
    killed = recoveries[faults.BrokerKilled.name]
    verdicts.append(recovery.verdict(killed))
    console.print(_recovery_table(store, recoveries))
    console.print(_verdict_table(store, verdicts))
    console.print(f"{store}: {recovery.told(killed)}")
    return all(verdict.holds for verdict in verdicts)


def _recovery_table(store: str, recoveries: dict[str, list[Recovery]]) -> Table:
    table = Table(title=f"{store}: from the fault to the next new job's last picture")
    for heading in ("fault", "times", "median", "worst"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name, all_of_it in recoveries.items():
        if seconds := [one.finished for one in all_of_it]:
            median = f"{statistics.median(seconds):.1f} s"
            table.add_row(name, str(len(seconds)), median, f"{max(seconds):.1f} s")
    return table


def _verdict_table(store: str, verdicts: list[Verdict]) -> Table:
    table = Table(title=f"{store}: what has to hold")
    for heading in ("invariant", "looked at", "verdict"):
        table.add_column(heading, justify="right" if heading == "looked at" else "left")
    for verdict in verdicts:
        word = "holds" if verdict.holds else f"BROKEN {len(verdict.broken)} times: "
        word += "; ".join(verdict.broken[:3])
        if verdict.note:
            word += f" ({verdict.note})"
        table.add_row(verdict.invariant, str(verdict.looked_at), word)
    return table


if __name__ == "__main__":
    sys.exit(main())
