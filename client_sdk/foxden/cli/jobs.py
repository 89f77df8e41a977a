"""foxden jobs: list, show, cancel, retry. Prompts are not printed: terminals have histories."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from foxden.cli import _output
from foxden.jobs import JobInfo


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|cancel|retry")
    listing = actions.add_parser("list", help="the newest jobs")
    listing.add_argument(
        "--state", metavar="STATE", help="queued, running, done, failed, partial, ..."
    )
    listing.add_argument("--limit", type=int, default=50, metavar="N")
    texts = {
        "show": "one job with every attempt",
        "cancel": "stop a job",
        "retry": "queue its failed images again",
    }
    for name, text in texts.items():
        actions.add_parser(name, help=text).add_argument("job", help="its id")


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        if args.action == "list":
            jobs = [job.info for job in client.jobs(args.state, args.limit)]
            return _output.answer(args, {"jobs": [_described(job) for job in jobs]}, _listed(jobs))
        act = {"cancel": client.cancel, "retry": client.retry}.get(args.action, client.get)
        job = act(args.job)
    text = _shown(job.info) if args.action == "show" else f"{job.id}: {job.state}"
    return _output.answer(args, _described(job.info), text)


def _described(job: JobInfo) -> dict[str, Any]:
    described = dataclasses.asdict(job)
    del described["prompt"]
    return described


def _listed(jobs: list[JobInfo]) -> str:
    if not jobs:
        return "no jobs"
    return _output.table(
        ("JOB", "STATE", "DONE", "MODEL", "CREATED"),
        [
            (job.id, job.state, f"{job.done}/{job.count}", job.model, _output.when(job.created))
            for job in jobs
        ],
    )


def _shown(job: JobInfo) -> str:
    lines = [
        f"{job.id}: {job.state}, {job.done} of {job.count} done",
        f"  model {job.model or '-'}, seed {job.seed}, {job.priority}, by {job.member or '-'}",
        f"  created {_output.when(job.created)}, ended {_output.when(job.ended)}",
    ]
    if job.reason:
        lines.append(f"  {job.reason}")
    for task in job.tasks:
        on = f" on {task.card}" if task.card else ""
        why = f": {task.reason}" if task.reason else ""
        lines.append(f"  image {task.index}: {task.state}{on}{why}")
        for tried in task.attempts:
            why = f": {tried.reason}" if tried.reason else ""
            times = f"{_output.when(tried.started)} to {_output.when(tried.ended, 'now')}"
            lines.append(f"    {times}: {tried.outcome or 'running'} on {tried.card}{why}")
    return "\n".join(lines)
