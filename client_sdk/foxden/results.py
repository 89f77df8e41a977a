"""What a job gives back: pictures, and the sequence of them."""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN_IN_NOTEBOOK = 12


@dataclass(frozen=True)
class Picture:
    """One finished image and where it came from."""

    index: int  # 0 to count - 1 within its job
    seed: int  # the seed of exactly this image
    width: int  # pixels
    height: int
    card: str  # display name of the card that made it
    model: str
    seconds: float  # on the card
    job_id: str
    sha256: str  # of `data`, lower-case hex
    data: bytes = field(repr=False, compare=False)  # the file as the card wrote it

    @cached_property
    def image(self) -> Image:
        """The decoded picture, always the same object: copy it before drawing on it."""
        from PIL import Image

        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image

    @property
    def infotext(self) -> str:
        """The request in the field's text form, from the file itself; empty where it has none."""
        from PIL import Image

        with Image.open(io.BytesIO(self.data)) as image:
            return str(image.info.get("parameters", ""))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture, all of it or nothing, and return where.

        With the suffix .png these are the bytes as the card wrote them, infotext included; any
        other suffix that Pillow knows is encoded here. Raises ValueError for an unknown suffix,
        OSError where the file cannot be written.
        """
        target = Path(path)
        data = self.data if target.suffix.lower() == ".png" else self._encoded(target)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            _give_usual_rights(temporary)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    def _encoded(self, target: Path) -> bytes:
        from PIL import Image

        kind = Image.registered_extensions().get(target.suffix.lower())
        if kind is None:
            raise ValueError(f"no picture format is called {target.suffix!r}: use .png")
        stream = io.BytesIO()
        image = self.image.convert("RGB") if kind == "JPEG" else self.image
        image.save(stream, kind)
        return stream.getvalue()

    def _repr_png_(self) -> bytes | None:
        return self.data if self.data.startswith(b"\x89PNG") else None


def _give_usual_rights(path: str) -> None:
    """mkstemp makes a private file; a picture gets the rights that any new file would."""
    mask = os.umask(0o077)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)


class Result(Sequence[Picture]):
    """The pictures of one job, by index. A Sequence, immutable; shows itself in a notebook."""

    __slots__ = ("_job_id", "_pictures")

    def __init__(self, job_id: str, pictures: Sequence[Picture]) -> None:
        self._job_id = job_id
        self._pictures = tuple(sorted(pictures, key=lambda picture: picture.index))

    @property
    def job_id(self) -> str:
        return self._job_id

    @property
    def image(self) -> Image:
        """The first picture as a PIL.Image."""
        return self._pictures[0].image

    @property
    def images(self) -> list[Image]:
        """Every picture as a PIL.Image."""
        return [picture.image for picture in self._pictures]

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Picture, ...]: ...
    def __getitem__(self, index: int | slice) -> Picture | tuple[Picture, ...]:
        return self._pictures[index]

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self._pictures)

    def __repr__(self) -> str:
        first = f", first {self._pictures[0]!r}" if self._pictures else ""
        return f"<Result of job {self._job_id}: {len(self)} picture(s){first}>"

    def _repr_html_(self) -> str:
        cells = "".join(_cell(picture) for picture in self._pictures[:_SHOWN_IN_NOTEBOOK])
        more = len(self) - _SHOWN_IN_NOTEBOOK
        rest = f"<p>and {more} more</p>" if more > 0 else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{cells}</div>{rest}'


def _cell(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode("ascii")
    text = html.escape(f"seed {picture.seed} · {picture.card} · {picture.seconds:.1f} s")
    return (
        f'<figure style="margin:0"><img src="data:image/png;base64,{data}" '
        f'style="max-width:256px"><figcaption>{text}</figcaption></figure>'
    )
