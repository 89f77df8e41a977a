"""What went wrong with a hub, in plain sentences for the owner."""

from __future__ import annotations

import errno
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx

_FULL = (errno.ENOSPC, errno.EDQUOT)
_KEPT = "what was fetched is kept, and not fetched again"


def sentences(error: Exception, repo: str) -> tuple[str, str, bool]:
    """(what happened, what to do, whether the same may succeed as it is)."""
    hub = urlsplit(constants.ENDPOINT).netloc or constants.ENDPOINT
    match error:
        case GatedRepoError():
            return (
                f"{repo} is given only to those who have agreed to its maker's terms on {hub}.",
                f"Open {constants.ENDPOINT}/{repo} in your browser, log in and agree; make a token "
                "that may read at "
                f"{constants.ENDPOINT}/settings/tokens, and run `HF_TOKEN=… foxden fetch-model "
                f"{repo}`. Or choose another model.",
                False,
            )
        case RepositoryNotFoundError():
            return _unknown(repo, hub)
        case HfHubHTTPError(response=response) if response is not None:
            return _status(response.status_code, repo, hub)
        case HFValidationError():
            return (
                f"{repo!r} is no model's id.",
                "It is written MAKER/MODEL, as in its page's address.",
                False,
            )
        case OfflineModeIsEnabled():
            return (
                "HF_HUB_OFFLINE is set, which forbids any download.",
                "Unset it, then try again.",
                False,
            )
        case httpx.ProxyError():
            return (
                f"The proxy did not let the call to {hub} through.",
                "Set HTTPS_PROXY to http://name:password@proxy:port, as your network wants it.",
                False,
            )
        case httpx.TransportError() if "CERTIFICATE" in str(error):
            return (
                f"The certificate of {hub} is not trusted: something on this network looks into "
                "encrypted connections, or this PC's clock is wrong.",
                "Check the clock. Where your company's network does that, set SSL_CERT_FILE to a "
                "file with its certificates.",
                False,
            )
        case httpx.TransportError():
            return (
                f"{hub} does not answer, or the connection broke again and again.",
                f"Check this PC's connection, then try again: {_KEPT}. Behind a proxy, set "
                "HTTPS_PROXY.",
                True,
            )
        case OSError(errno=number) if number in _FULL:
            return (
                "The disk is full.",
                f"Make space, then try again: {_KEPT}.",
                True,
            )
        case OSError():
            return (
                f"{error.filename or 'The model folder'} cannot be written "
                f"({error.strerror or error}).",
                "See to its rights and to its disk, then try again.",
                True,
            )
    return (
        f"{hub} has answered with something that no hub says ({type(error).__name__}).",
        "Look whether HF_ENDPOINT is right; else try again later.",
        True,
    )


def _unknown(repo: str, hub: str) -> tuple[str, str, bool]:
    return (
        f"{hub} knows no model {repo}, or shows it only to those who may see it.",
        "Check the name; for a private model set HF_TOKEN to a token that may read it.",
        False,
    )


def _status(status: int, repo: str, hub: str) -> tuple[str, str, bool]:
    if status == 404:
        return (
            f"{hub} has no such version or file of {repo} (any more).",
            "Try again, so that it is looked at anew.",
            True,
        )
    if status in (401, 403):
        return (
            f"{hub} refuses {repo} to you ({status}).",
            f"Open {constants.ENDPOINT}/{repo} in your browser to see what it asks for; HF_TOKEN "
            "must hold a token that may read it. Or choose another model.",
            False,
        )
    if status == 429:
        return f"{hub} has had too many calls from here.", "Try again in some minutes.", True
    return f"{hub} has trouble of its own ({status}).", "Try again later.", True
