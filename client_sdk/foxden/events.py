"""What happens to a job, as `watch()` tells it. The last is Done, Failed or Cancelled."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from foxden.results import Picture

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Queued:
    """The job waits. Comes again whenever its place changes."""

    position: int  # images of the pool that start before this job's first; 0: next
    eta_p50: float | None = None  # seconds until the job is done, as likely as not; None: unknown
    eta_p90: float | None = None
    waiting_for: str = ""  # what must happen first, where no card that is online can run it


@dataclass(frozen=True)
class Started:
    """A card began with an image; again with another card where it moved."""

    index: int
    card: str


@dataclass(frozen=True)
class Progress:
    """A card finished a step of an image."""

    index: int
    step: int  # finished steps, 1 to `steps`
    steps: int
    preview_data: bytes = field(default=b"", repr=False)  # a small JPEG or WebP, or empty

    @cached_property
    def preview(self) -> Image | None:
        """The image so far, small, as a PIL.Image; None where none was asked for."""
        if not self.preview_data:
            return None
        from PIL import Image

        image = Image.open(io.BytesIO(self.preview_data))
        image.load()
        return image


@dataclass(frozen=True)
class PictureReady:
    """An image is finished and its bytes are here."""

    index: int
    picture: Picture


@dataclass(frozen=True)
class TaskFailed:
    """One image of several will not be made; the others go on."""

    index: int
    reason: str
    state: str = "failed"  # failed, cancelled or expired


@dataclass(frozen=True)
class Done:
    """Every image is finished. The last event."""


@dataclass(frozen=True)
class Failed:
    """The job ended without all its images. The last event."""

    reason: str
    state: str = "failed"  # failed, expired or partial


@dataclass(frozen=True)
class Cancelled:
    """Somebody cancelled the job before any image was finished. The last event."""

    reason: str = ""


Event = Queued | Started | Progress | PictureReady | TaskFailed | Done | Failed | Cancelled
Last = Done | Failed | Cancelled
