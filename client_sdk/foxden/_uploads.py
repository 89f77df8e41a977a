"""Sending a picture: what file it is, and its bytes in chunks."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foxden._transport import Transport
from foxden.errors import InvalidRequest
from foxden_proto.limits import CHUNK_BYTES, MIB, UPLOAD_BYTES
from foxden_proto.v1 import generation_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image

    Photo = Image | str | os.PathLike[str] | bytes
else:
    Photo = object

_ALLOWED = "a PIL.Image, a path or the bytes of a PNG, JPEG or WebP file of 64 MiB at most"
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class File:
    data: bytes
    media_type: str


def open_photo(photo: Photo) -> File:
    """The file to send for a photo. Raises InvalidRequest (`photo`)."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(photo, Image.Image):
        return _checked(_encoded(photo), "image/png")
    if isinstance(photo, (str, os.PathLike)):
        try:
            if Path(photo).stat().st_size > UPLOAD_BYTES:
                raise _too_large()
            data = Path(photo).read_bytes()
        except OSError as error:
            raise _refused(f"the photo cannot be read ({error.strerror})") from None
    elif isinstance(photo, (bytes, bytearray, memoryview)):
        data = bytes(photo)
    else:
        raise _refused(f"the photo is a {type(photo).__name__}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            media_type = _MEDIA_TYPES.get(image.format or "")
            if media_type is None:  # a format that the broker does not take: BMP, TIFF, ...
                return _checked(_encoded(image), "image/png")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        raise _refused("the photo is no picture that can be read") from None
    return _checked(data, media_type)


async def send(transport: Transport, file: File) -> str:
    """Upload a file and return its id; begun again where the connection breaks."""
    header = pb.UploadHeader(
        size=len(file.data),
        sha256=hashlib.sha256(file.data).hexdigest(),
        media_type=file.media_type,
    )

    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=header)
        for start in range(0, len(file.data), CHUNK_BYTES):
            yield pb.UploadRequest(chunk=file.data[start : start + CHUNK_BYTES])

    answer = await transport.call(
        lambda stubs: stubs.generation.Upload(messages(), metadata=transport.metadata)
    )
    return answer.upload_id


def _encoded(image: Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _checked(data: bytes, media_type: str) -> File:
    if len(data) > UPLOAD_BYTES:
        raise _too_large()
    return File(data, media_type)


def _too_large() -> InvalidRequest:
    return _refused(f"the photo is larger than {UPLOAD_BYTES // MIB} MiB")


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what}: give {_ALLOWED}", field="photo", allowed=_ALLOWED)
