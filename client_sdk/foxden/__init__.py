"""Foxden: your own graphics cards as one private image endpoint.

    import foxden

    client = foxden.Client()
    client.generate("a red cube on a blue background").image.save("cube.png")

Names load when they are first used, so that `import foxden` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foxden import errors
from foxden.errors import (
    DeadlineExpired,
    FoxdenError,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    NoCardCanRun,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Timeout,
    Unauthorized,
    Unavailable,
    UnknownModel,
    WrongBroker,
)

if TYPE_CHECKING:
    from foxden import events, jobs, pool, results
    from foxden.client import AsyncClient
    from foxden.jobs import AsyncJob
    from foxden.pool import Card, Model, NewToken, Token
    from foxden.results import Picture, Result
    from foxden.sync import Client, Job

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Card",
    "Client",
    "DeadlineExpired",
    "FoxdenError",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Model",
    "NewToken",
    "NoCardCanRun",
    "NotFound",
    "PermissionDenied",
    "Picture",
    "QuotaExceeded",
    "Result",
    "Timeout",
    "Token",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "WrongBroker",
    "errors",
    "events",
    "jobs",
    "pool",
    "results",
]

_HOMES = {
    "AsyncClient": "foxden.client",
    "AsyncJob": "foxden.jobs",
    "Card": "foxden.pool",
    "Client": "foxden.sync",
    "Job": "foxden.sync",
    "Model": "foxden.pool",
    "NewToken": "foxden.pool",
    "Picture": "foxden.results",
    "Result": "foxden.results",
    "Token": "foxden.pool",
}
_MODULES = {"events", "jobs", "pool", "results"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"foxden.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("foxden")
    if name not in _HOMES:
        raise AttributeError(f"module 'foxden' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
