"""Who is between a machine and its broker learns nothing: certificates, impostors, no network."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from foxden_agent import joining
from foxden_broker.tls import own_certificate
from foxden_proto import join_links
from foxden_proto.address import Address

Den = Any  # of conftest.py


class Impostor:
    """A TLS server with a CA of its own in the broker's place. It tells whatever CA it is given at
    /ca.pem, and keeps every byte that it can read."""

    def __init__(self, folder: Path) -> None:
        self.own = own_certificate(folder, dt.datetime.now(dt.UTC))
        self.heard = b""
        self.told_ca = self.own.ca_pem
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.heard += data
                body = self.told_ca.encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture
async def impostor(tmp_path: Path) -> AsyncIterator[Impostor]:
    made = Impostor(tmp_path / "impostor")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.own.certificate, made.own.key)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


def towards(link: str, impostor: Impostor) -> str:
    read = join_links.read(link)
    there = Address("localhost", read.address.grpc_port, impostor.port, read.address.pin)
    return replace(read, address=there).text()


@pytest.mark.parametrize("passes_on_the_real_ca", [False, True])
async def test_man_in_the_middle_on_first_contact_gets_no_byte_of_the_secret(
    den: Den, impostor: Impostor, passes_on_the_real_ca: bool
) -> None:
    link = await den.link()
    if passes_on_the_real_ca:  # it is public
        impostor.told_ca = (den._folder / "broker" / "broker" / "tls" / "ca.pem").read_text()
    pc = den.machine()
    caught = towards(link, impostor)
    for do in (lambda: joining.look(caught), lambda: pc.join(caught)):
        with pytest.raises(joining.WrongBroker, match="was told nothing") as error:
            await do()
        assert "ask the administrator" in str(error.value)
    assert b"/ca.pem" in impostor.heard
    assert b"/v1/join" not in impostor.heard
    assert join_links.read(link).secret.encode() not in impostor.heard
    assert joining.pools(pc.folder) == []
    assert not (pc.folder / "keys").exists()


async def test_broker_that_was_set_up_anew_is_another_one_and_its_new_link_works(den: Den) -> None:
    pc, link = den.machine(), await den.link()
    await pc.join(link)
    await den.stop()
    await den.start("anew")  # the same address, another CA
    with pytest.raises(joining.WrongBroker, match="set up anew"):
        await pc.join(link)
    joined = await pc.join(await den.link())
    assert not joined.again
    assert len(joining.pools(pc.folder)) == 2


async def test_no_network_at_join_says_so_and_leaves_nothing_used_up(
    den: Den, monkeypatch: pytest.MonkeyPatch
) -> None:
    pc, link = den.machine(), await den.link()
    await den.stop()
    with pytest.raises(joining.BrokerUnreachable, match="Nothing is used up"):
        await pc.join(link)
    assert joining.pools(pc.folder) == []
    await den.start()
    assert (await pc.join(link)).pool.enrolled


async def test_what_knows_no_join_links_is_named_as_such(den: Den, impostor: Impostor) -> None:
    """An older broker, or a proxy with the pinned CA's certificate."""
    read = join_links.read(await den.link())
    here = Address("localhost", 1, impostor.port, impostor.own.pin)
    impostor.told_ca = impostor.own.ca_pem
    with pytest.raises((joining.BrokerUnreachable, joining.LinkRefused)):
        await joining.look(replace(read, address=here).text())


@pytest.mark.parametrize("text", ["", "hello", "foxden://localhost:1", "https://pool.example/x"])
async def test_what_is_no_link_calls_nobody(text: str) -> None:
    with pytest.raises(joining.BadLink, match="copy the whole link"):
        await joining.look(text)
