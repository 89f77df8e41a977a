"""Models fetched by the real library from a hub on loopback: what comes, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event

import psutil
import pytest
from hub_server import COMMIT, ODD, UNET, UNET_16, Hub, certificate, serving
from real_pool import wait_until
from tiny_disk import fill, tiny_disk

from foxden_agent.model_hub import child
from foxden_agent.model_hub.child import FetchFailed, ModelPlan, Progress
from foxden_agent.models import scan

DEMO, BIG = "foxes/tiny-demo", "foxes/many-bytes"


async def planned(home: Path, repo: str) -> ModelPlan:
    plan = (await child.plans(home, [repo]))[repo]
    assert isinstance(plan, ModelPlan), plan
    return plan


async def fetched(
    home: Path, repo: str, progress: Callable[[Progress], None] = lambda told: None
) -> Path:
    """Plan and fetch; returns where it lies."""
    models = home / "models"
    return models / await child.fetch(home, await planned(home, repo), models, {}, progress)


def below(folder: Path, pattern: str = "*") -> list[Path]:
    return [path for path in folder.rglob(pattern) if path.is_file()]


async def failure(home: Path, repo: str) -> FetchFailed:
    with pytest.raises(FetchFailed) as error:
        await fetched(home, repo)
    assert not (home / "models" / repo.partition("/")[2]).exists()
    return error.value


def offered(home: Path) -> list[str]:
    return [one.model.name for one in scan(home / "models", home / "hashes.json")]


async def test_plan_x_names_files_sizes_licence_and_the_commit(hub: Hub, tmp_path: Path) -> None:
    told = await child.plans(tmp_path, [DEMO, "foxes/nobody"])
    plan = told[DEMO]
    assert isinstance(plan, ModelPlan)
    assert (plan.revision, plan.licence) == (COMMIT, "apache-2.0")
    files = hub.repos[DEMO].files
    assert plan.size == sum(len(files[one.path]) for one in plan.files)
    assert UNET_16 in {one.path for one in plan.files}
    assert not {one.path for one in plan.files} & {*ODD, UNET}
    assert "knows no model foxes/nobody" in str(told["foxes/nobody"])
    assert not hub.of(".safetensors"), "a plan fetches no weights"


async def test_fetch_x_is_whole_offered_and_said_step_by_step(hub: Hub, tmp_path: Path) -> None:
    seen: list[Progress] = []
    folder = await fetched(tmp_path, DEMO, seen.append)
    assert seen[-1].done == seen[-1].total == (await planned(tmp_path, DEMO)).size
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (folder / UNET).read_bytes() == hub.repos[DEMO].files[UNET_16]
    kept = {path.suffix for path in below(tmp_path) if path.name != ".lock"}
    assert kept == {".json", ".txt", ".safetensors"}
    assert not below(tmp_path, "outside*")
    assert not (folder / "safety_checker").exists()
    facts = json.loads((folder / "foxden.json").read_text())
    assert (facts["source"], facts["revision"]) == (DEMO, COMMIT)
    assert offered(tmp_path) == ["foxden-demo", "tiny-demo"]


async def test_library_x_tells_nobody_what_runs_here_and_asks_for_nothing_else(
    hub: Hub, tmp_path: Path
) -> None:
    await fetched(tmp_path, DEMO)
    assert all(f"{DEMO}" in one.path for one in hub.asked)
    assert not [one.agent for one in hub.asked if "torch" in one.agent or "agent/" in one.agent]


async def test_fetched_already_x_nothing_is_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    folder = await fetched(tmp_path, DEMO)
    before = len(hub.of(".safetensors"))
    assert await fetched(tmp_path, DEMO) == folder
    assert len(hub.of(".safetensors")) == before


async def test_other_model_of_the_same_name_x_refused_and_left_as_it_is(
    hub: Hub, tmp_path: Path
) -> None:
    other = tmp_path / "models" / "tiny-demo"
    other.mkdir(parents=True)
    with pytest.raises(FetchFailed, match="rename that folder"):
        await fetched(tmp_path, DEMO)
    assert list(other.iterdir()) == []


async def test_connection_cut_x_only_the_rest_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET] = [3_000_000, 2_000_000]
    folder = await fetched(tmp_path, BIG)
    assert (folder / UNET).read_bytes() == hub.repos[BIG].files[UNET]
    begun = [int(one.range.removeprefix("bytes=").rstrip("-") or 0) for one in hub.of(UNET)]
    assert begun[0] == 0
    assert 2_700_000 < begun[1] <= 3_000_000
    assert 4_400_000 < begun[2] <= 5_000_000


async def test_server_without_ranges_x_begins_anew_and_is_right(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET], hub.ranges = [3_000_000], False
    folder = await fetched(tmp_path, BIG)
    assert (folder / UNET).read_bytes() == hub.repos[BIG].files[UNET]


async def test_network_gone_x_says_so_and_the_next_try_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[UNET] = [3_000_000, *[0] * 20]
    error = await failure(tmp_path, BIG)
    assert "connection broke" in str(error)
    assert error.again
    assert offered(tmp_path) == ["foxden-demo"]
    del hub.cuts[UNET]
    before = len(hub.of(UNET))
    await fetched(tmp_path, BIG)
    (again,) = hub.of(UNET)[before:]
    assert again.range != ""


async def test_wrong_bytes_x_nothing_is_offered(hub: Hub, tmp_path: Path) -> None:
    for path in ("unet/config.json", UNET):  # one outside of LFS, one in it
        hub.spoilt = {path}
        assert f"{path} has other bytes" in str(await failure(tmp_path, BIG))
        assert offered(tmp_path) == ["foxden-demo"]
        assert not below(tmp_path, "*.part")
    hub.spoilt = set()
    await fetched(tmp_path, BIG)


async def test_spoilt_rest_of_a_try_before_x_is_fetched_anew_by_itself(
    hub: Hub, tmp_path: Path
) -> None:
    part = tmp_path / "models/.fetching/many-bytes" / f"{UNET}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5_000_000)
    (part.parent / "leftover.safetensors").write_bytes(b"of another version")
    folder = await fetched(tmp_path, BIG)
    assert (folder / UNET).read_bytes() == hub.repos[BIG].files[UNET]
    assert sorted(one.name for one in (folder / "unet").iterdir()) == [
        *("config.json", "diffusion_pytorch_model.safetensors")
    ]


async def test_hub_moves_on_after_the_plan_x_the_planned_commit_or_none(
    hub: Hub, tmp_path: Path
) -> None:
    plan = await planned(tmp_path, DEMO)
    hub.repos[DEMO].commit = "f" * 40
    with pytest.raises(FetchFailed, match="no such version") as error:
        await child.fetch(tmp_path, plan, tmp_path / "models", {}, lambda told: None)
    assert error.value.again


@pytest.mark.parametrize(
    ("status", "words", "again"),
    [
        (404, "no such version or file", True),
        (401, "refuses foxes/many-bytes to you", False),
        (403, "HF_TOKEN", False),
        (503, "has trouble of its own (503)", True),
    ],
)
@pytest.mark.parametrize("where", ["api", UNET])
async def test_refused_by_the_hub_x_a_sentence_and_what_to_do(
    hub: Hub, tmp_path: Path, where: str, status: int, words: str, again: bool
) -> None:
    if where == "api":
        hub.status["api"] = status
        error = (await child.plans(tmp_path, [BIG]))[BIG]
        assert isinstance(error, FetchFailed)
    else:
        hub.status[UNET] = status
        error = await failure(tmp_path, BIG)
    assert words in str(error)
    assert error.again == again


async def test_gated_model_x_says_what_to_do_and_comes_with_the_token_which_the_store_never_sees(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[DEMO].gated = True
    error = (await child.plans(tmp_path, [DEMO]))[DEMO]
    assert "agreed to its maker's terms" in str(error)
    assert "HF_TOKEN=… foxden fetch-model foxes/tiny-demo" in str(error)
    monkeypatch.setenv("HF_TOKEN", "hf_agreed")
    hub.repos[DEMO].gated = False  # the store of this test has no tokens to look at
    await fetched(tmp_path, DEMO)
    assert {one.authorization for one in hub.asked if one.server == "hub"} >= {"Bearer hf_agreed"}
    assert {one.authorization for one in hub.asked if one.server == "store"} == {""}


async def test_nobody_answers_x_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = (await child.plans(tmp_path, [DEMO]))[DEMO]
    assert "127.0.0.1:9 does not answer" in str(error)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in str((await child.plans(tmp_path, [DEMO]))[DEMO])


async def test_proxy_x_is_used_and_its_refusal_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("HTTPS_PROXY", hub.address)  # which knows no CONNECT
    error = (await child.plans(tmp_path, [DEMO]))[DEMO]
    assert "The proxy did not let the call to hub.invalid through" in str(error)


async def test_company_certificate_x_named_until_ssl_cert_file_knows_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    with serving(Hub(hub.repos), pem) as tls:
        monkeypatch.setenv("HF_ENDPOINT", tls.address)
        error = (await child.plans(tmp_path, [DEMO]))[DEMO]
        assert "SSL_CERT_FILE" in str(error)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        await fetched(tmp_path, DEMO)


async def test_disk_too_small_x_said_before_anything_comes(hub: Hub, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "60m") as disk:
        error = await failure(disk, BIG)
        assert "needs 0.1 GB" in str(error)
        assert not hub.of(UNET)


async def test_disk_fills_up_meanwhile_x_said_and_gone_on_with_when_there_is_space(
    hub: Hub, tmp_path: Path
) -> None:
    with tiny_disk(tmp_path / "disk", "130m") as disk:
        hub.held[UNET] = (2_000_000, Event())
        fetching = asyncio.create_task(failure(disk, BIG))
        await asyncio.to_thread(hub.holding.wait, 60)
        filler = await asyncio.to_thread(fill, disk)
        hub.held[UNET][1].set()
        error = await fetching
        assert "The disk is full." in str(error)
        filler.unlink()
        del hub.held[UNET]
        await fetched(disk, BIG)


async def killed_in_the_middle(hub: Hub, home: Path) -> None:
    hub.held[UNET] = (5_000_000, Event())
    fetching = asyncio.create_task(failure(home, BIG))
    await asyncio.to_thread(hub.holding.wait, 60)
    part = home / "models/.fetching/many-bytes" / f"{UNET}.part"
    await asyncio.to_thread(wait_until, lambda: part.stat().st_size >= 4_000_000)
    (process,) = [
        one for one in psutil.Process().children() if "foxden_agent.engine.hub" in one.cmdline()
    ]
    process.send_signal(signal.SIGKILL)
    error = await fetching
    assert error.again


async def test_killed_in_the_middle_x_goes_on_from_there(hub: Hub, tmp_path: Path) -> None:
    await killed_in_the_middle(hub, tmp_path)
    assert offered(tmp_path) == ["foxden-demo"]
    hub.held.pop(UNET)[1].set()
    folder = await fetched(tmp_path, BIG)
    assert (folder / UNET).read_bytes() == hub.repos[BIG].files[UNET]
    assert int(hub.of(UNET)[-1].range.removeprefix("bytes=").rstrip("-")) >= 4_000_000


async def test_two_at_once_x_the_second_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.held[UNET] = (1_000_000, Event())
    first = asyncio.create_task(fetched(tmp_path, BIG))
    await asyncio.to_thread(hub.holding.wait, 60)
    with pytest.raises(FetchFailed, match="Another model is being fetched"):
        await fetched(tmp_path, DEMO)
    hub.held[UNET][1].set()
    await first


async def test_cancelled_x_the_child_is_gone_and_lets_go_of_the_folder(
    hub: Hub, tmp_path: Path
) -> None:
    hub.held[UNET] = (1_000_000, Event())
    fetching = asyncio.create_task(fetched(tmp_path, BIG))
    await asyncio.to_thread(hub.holding.wait, 60)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    children = [one.cmdline() for one in psutil.Process().children()]
    assert not [words for words in children if "foxden_agent.engine.hub" in words]
    await fetched(tmp_path, DEMO)


@pytest.mark.parametrize(
    ("path", "told", "words"),
    [
        ("model_index.json", b"[]", "holds no JSON object"),
        ("model_index.json", b'{"_class_name": "WanPipeline"}', "can't be drawn with"),
        (UNET, None, "not there as diffusion_pytorch_model.safetensors"),
        ("model_index.json", None, "only models in diffusers' own layout"),
    ],
)
async def test_repository_that_is_no_model_for_us_x_says_why(
    hub: Hub, tmp_path: Path, path: str, told: bytes | None, words: str
) -> None:
    files = hub.repos[BIG].files
    if told is None:
        del files[path]
    else:
        files[path] = told
    error = (await child.plans(tmp_path, [BIG]))[BIG]
    assert f"{BIG} can't be used" in str(error)
    assert words in str(error)
