"""An archive of a running broker: fetched into a file, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import grpc.aio

from foxden._transport import Transport
from foxden.errors import FoxdenError, InvalidRequest
from foxden_proto.v1 import pool_pb2


async def fetch(transport: Transport, out: Path, with_pictures: bool) -> int:
    """Write the archive to `out` and return its bytes; begun again where the connection breaks.

    The temporary file is made 0600 before the first byte is in it: the archive holds keys.
    Raises InvalidRequest (`out`) where the file cannot be written.
    """
    try:
        file = await asyncio.to_thread(_Replacement, out)
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        size = await _receive(transport, file.stream, with_pictures)
        await asyncio.to_thread(file.settle)
    except OSError as error:
        file.discard()
        raise _unwritable(out, error) from None
    except BaseException:
        file.discard()
        raise
    return size


class _Replacement:
    """A new file beside `out` that takes its name once it is whole."""

    def __init__(self, out: Path) -> None:
        self._out = out
        folder = out.absolute().parent
        handle, self._temporary = tempfile.mkstemp(dir=folder, prefix=f".{out.name}.")
        self.stream: BinaryIO = os.fdopen(handle, "wb")

    def settle(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        Path(self._temporary).replace(self._out)

    def discard(self) -> None:
        self.stream.close()
        Path(self._temporary).unlink(missing_ok=True)


async def _receive(transport: Transport, file: BinaryIO, with_pictures: bool) -> int:
    request = pool_pb2.BackupRequest(with_pictures=with_pictures)
    patience = transport.patience()
    while True:
        try:
            admin = (await transport.stubs()).admin
            size = 0
            async for message in admin.Backup(request, metadata=transport.metadata):
                size += file.write(message.chunk)
                patience.renew()
            return size
        except (grpc.aio.AioRpcError, FoxdenError) as error:
            pause = patience.delay(error)
        file.seek(0)
        file.truncate()
        await asyncio.sleep(pause)


def _unwritable(out: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(
        f"{out} cannot be written ({error.strerror or error}): choose another with --out",
        field="out",
        allowed="a file in a folder that can be written",
    )
