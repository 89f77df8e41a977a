"""The container files and their page name options, ports and parts that exist. Nothing is run."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from foxden_broker.cli import COMMAND
from foxden_proto.limits import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "packaging" / "several_brokers"
PAGE = (ROOT / "docs" / "several-brokers.md").read_text()


def broker_parser() -> argparse.ArgumentParser:
    """As `python -m foxden_broker` builds it; what it does not know ends the test."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--home")
    parser.add_argument("--json", action="store_true")
    COMMAND.configure(parser)
    return parser


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text()


def brokers(compose: dict[str, Any]) -> dict[str, argparse.Namespace]:
    return {
        name: broker_parser().parse_args(service["command"])
        for name, service in compose["services"].items()
        if name.startswith("broker-")
    }


def test_compose_runs_two_brokers_with_options_that_exist(compose: dict[str, Any]) -> None:
    found = brokers(compose)
    assert len(found) == 2
    for name, arguments in found.items():
        assert arguments.advertise == f"{name}:{DEFAULT_GRPC_PORT}"
        assert arguments.database_url.startswith("postgresql://")
        assert arguments.blobs.startswith("s3://")
    differing = {
        key
        for key, value in vars(found["broker-1"]).items()
        if value != vars(found["broker-2"])[key]
    }
    assert differing == {"advertise"}  # one database, one bucket, one certificate, one name


def test_compose_names_only_services_and_volumes_that_it_has(compose: dict[str, Any]) -> None:
    services = set(compose["services"])
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= services
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source.startswith("./") or source in compose["volumes"]
        build = service.get("build")
        if build:
            assert (FOLDER / build["context"]).resolve() == ROOT
            assert (ROOT / build["dockerfile"]).is_file()
    for arguments in brokers(compose).values():
        assert re.fullmatch(r"http://(\w+):9000", arguments.s3_endpoint)[1] in services  # type: ignore[index]
        assert re.search(r"@(\w+)/", arguments.database_url)[1] in services  # type: ignore[index]


def test_compose_holds_no_secret(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "SECRET" in name:
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name


def test_balancer_leads_to_the_ports_of_the_brokers_and_publishes_them(
    compose: dict[str, Any],
) -> None:
    text = (FOLDER / "haproxy.cfg").read_text()
    servers = set(re.findall(r"^    server (\S+) (\S+):(\d+)$", text, re.MULTILINE))
    ports = {str(DEFAULT_GRPC_PORT), str(DEFAULT_HTTP_PORT)}
    assert servers == {(name, name, port) for name in brokers(compose) for port in ports}
    assert set(re.findall(r"bind :(\d+)", text)) == ports
    assert compose["services"]["balancer"]["ports"] == [f"{port}:{port}" for port in sorted(ports)]
    assert f"check port {DEFAULT_HTTP_PORT}" in text


def test_image_runs_the_broker_as_nobody_special_and_looks_after_its_health(
    dockerfile: str,
) -> None:
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)[1])  # type: ignore[index]
    command = json.loads(re.search(r"^CMD (.*)$", dockerfile, re.MULTILINE)[1])  # type: ignore[index]
    assert entry[:3] == ["python", "-m", "foxden_broker"]
    arguments = broker_parser().parse_args([*entry[3:], *command])
    assert arguments.host == "0.0.0.0"
    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE) == ["foxden"]
    exposed = re.search(r"^EXPOSE (.*)$", dockerfile, re.MULTILINE)
    assert exposed is not None
    assert exposed[1].split() == [str(DEFAULT_GRPC_PORT), str(DEFAULT_HTTP_PORT)]
    check = json.loads(re.search(r"^HEALTHCHECK .*CMD (.*)$", dockerfile, re.MULTILINE)[1])  # type: ignore[index]
    compile(check[2], "HEALTHCHECK", "exec")
    assert f":{DEFAULT_HTTP_PORT}/healthz" in check[2]


def test_image_copies_what_there_is_and_what_the_build_needs(dockerfile: str) -> None:
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert all((ROOT / word).exists() for word in copied)
    packages = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert packages is not None
    assert {package.partition("/")[0] for package in json.loads(packages[1])} <= set(copied)


def test_page_names_options_and_files_that_exist() -> None:
    options = {option for action in broker_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", PAGE)) <= options
    for path in re.findall(r"`((?:packaging|docs)/[\w./-]+)`", PAGE):
        assert (ROOT / path).exists(), path
