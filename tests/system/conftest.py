"""Pools of real processes for the system tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos.den import STORES, Den
from postgres import Cluster, Unavailable
from real_pool import Pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With two processes, tests that share a pool stay together; the others do by file."""
    for item in items:
        assert isinstance(item, pytest.Function)
        group = item.path.stem
        if "dens" in item.fixturenames:
            group = "dens"
        elif "calm_pool" in item.fixturenames:
            group = "calm pool"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """An empty pool of its own, for tests that break things."""
    made = Pool(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server that tests may restart."""
    try:
        made = Cluster()
    except Unavailable as why:
        pytest.skip(str(why))
    yield made
    made.close()


@pytest.fixture(params=STORES)
def pool_on_each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    """As `pool`, on SQLite and on PostgreSQL."""
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("cluster").new_database()
    made = Pool(tmp_path, url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def dens(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Den]]:
    """The den on a store, made when it is first asked for, and mended."""
    made: dict[str, Den] = {}

    def den(store: str) -> Den:
        if store not in made:
            on_postgresql = store == "postgresql"
            cluster = request.getfixturevalue("cluster") if on_postgresql else None
            made[store] = Den(tmp_path_factory.mktemp("den"), cluster)
            made[store].start()
        made[store].mend()
        return made[store]

    yield den
    for one in made.values():
        one.close()


@pytest.fixture(params=STORES)
def den(request: pytest.FixtureRequest, dens: Callable[[str], Den]) -> Den:
    """Two agents behind relays on each store, all of it well: whatever breaks is started again for
    the next test."""
    return dens(request.param)


@pytest.fixture
def sqlite_den(dens: Callable[[str], Den]) -> Den:
    """The den for what has nothing to do with the store."""
    return dens("sqlite")


@pytest.fixture
def postgresql_den(dens: Callable[[str], Den]) -> Den:
    """The den whose database can be broken; SQLite dies with its broker, and is tested so."""
    return dens("postgresql")


@pytest.fixture(scope="session")
def calm_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """One broker and one agent that every test which breaks nothing shares."""
    made = Pool(tmp_path_factory.mktemp("calm"))
    made.start_broker()
    made.start_agent("one")
    yield made
    made.close()
