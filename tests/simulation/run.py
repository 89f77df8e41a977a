"""Run seeds of the whole-system simulation: `python tests/simulation/run.py --seeds 1000`.

Prints the seeds first, and of one that fails what was violated and the last events. One seed again:
`--start N --seeds 1 --trace`. Ends with 1 where a seed failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":
    # The order of a set of strings must not depend on the process that a seed runs in.
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated.world import Outcome, simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--most", type=int, default=5, help="stop after so many failed seeds")
    parser.add_argument("--trace", action="store_true", help="print the last events of each seed")
    parser.add_argument("--last", type=int, default=300, help="how many events to keep")
    parser.add_argument(
        "--twice", action="store_true", help="every message comes twice and nothing else happens"
    )
    options = parser.parse_args()
    seeds = range(options.start, options.start + options.seeds)
    print(f"seeds {seeds.start} to {seeds.stop - 1}", flush=True)
    began, outcomes, failed = time.process_time(), [], 0
    for seed in seeds:
        outcome = simulate(seed, options.last, 1.0 if options.twice else None)
        if options.twice and outcome.pictures != simulate(seed, 1, 0.0).pictures:
            outcome.violations.append("messages that came twice made another result")
        outcomes.append(outcome)
        if outcome.violations or options.trace:
            tell(outcome)
        failed += bool(outcome.violations)
        if failed >= options.most:
            break
    cpu = time.process_time() - began
    total = sum(outcome.seconds for outcome in outcomes)
    jobs, images = sum(o.jobs for o in outcomes), sum(o.images for o in outcomes)
    faults, events = sum(o.faults for o in outcomes), sum(o.events for o in outcomes)
    quiet = max(outcome.quiet_after for outcome in outcomes)
    print(
        f"{len(outcomes)} seeds, {failed} failed; {total / 3600:.1f} simulated hours in "
        f"{cpu:.0f} s of CPU; {jobs} jobs, {images} pictures, {faults} faults, {events} events; "
        f"quiet {quiet:.0f} s after the last fault at the most"
    )
    return 1 if failed else 0


def tell(outcome: Outcome) -> None:
    print(f"\nseed {outcome.seed} ({outcome.digest}):", flush=True)
    for line in outcome.trace:
        print("  " + line)
    for text in outcome.violations:
        print(f"  ! seed {outcome.seed} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
