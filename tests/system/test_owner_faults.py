"""What goes wrong on a card owner's PC, one fault after the other on one agent that really draws:
each has a plain sentence, mends by itself, and loses no picture.

Its engine is the real one on the processor and says it is cuda:0; NVML is the stand-in, so that the
driver can go. Its home is a disk that can be full, and its clocks can jump.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_of_a_card
import psutil
import pytest
from clock_shift import Clocks
from drawn import after_step, outcomes
from nvml_stand_in import GIB, StandIn, card
from real_pool import TIMERS, Pool, gone, wait_until
from safetensors.numpy import load_file, save_file
from tiny_disk import fill, tiny_disk

import foxden
from foxden.cli.main import main
from foxden_agent.models import DEMO_MODEL

pytestmark = [pytest.mark.system, pytest.mark.engine]

MARK = "zanzibar-quokka-4711"
PROMPT = f"a red cube on a blue background, {MARK}"
LONG = {"steps": 60, "width": 128, "height": 128, "seed": 7}
SHORT = {"steps": 4, "width": 64, "height": 64, "seed": 7}
HOUR = 3600
NOT_LOADED = 9


class Lent(Pool):
    """A broker and the agent `one`, whose card, disk, models and clocks can be harmed."""

    def __init__(self, folder: Path, home: Path) -> None:
        super().__init__(folder)
        self.home = home
        self.engine = engine_of_a_card.install(folder / "engine")
        self.clocks = Clocks(folder / "clocks")
        (folder / "nvml").mkdir()
        self.nvml = StandIn(folder / "nvml")
        self.nvml.build()
        self.nvml.cards[0] = card(
            name=engine_of_a_card.NAME,
            total=engine_of_a_card.MEMORY,
            used=GIB // 4,
            reserved=0,
            utilisation=0,
        )
        self.nvml.tell()
        self.models, self.tmp = folder / "models", folder / "tmp"
        self.tmp.mkdir()
        self.model = own_model(self.models / "mine")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.clocks.environment,
            "LD_LIBRARY_PATH": str(self.nvml.folder),
            "NVML_STAND_IN": str(self.nvml.control),
            "TMPDIR": str(self.tmp),
            "XDG_RUNTIME_DIR": str(self.tmp),  # where the locks of cards are
        }

    def start_one(self) -> None:
        more = ["--home", str(self.home), "--models", str(self.models)]
        more += ["--log-file", str(self.home / "agent.log")]
        self.start_agent(
            "one", arguments=more, device="cuda:0", engine=self.engine, **self.environment
        )

    @property
    def log(self) -> str:
        return (self.home / "agent.log").read_text()

    def state(self, word: str) -> None:
        """What becomes of engines that start from now on."""
        (self.engine.parent / "state").write_text(word)

    def card(self) -> foxden.Card:
        return next(one for one in self.client().cards() if one.name.endswith("in one"))

    def wait_for_mode(self, mode: str, seconds: float = 60) -> list[str]:
        """Until the pool says it of the card; its reasons."""
        wait_until(lambda: self.card().mode == mode, seconds, f"{self.card()}, and not {mode}")
        return list(self.card().reasons)

    def owner(self, *words: str) -> tuple[int, str]:
        """A command of the owner's: its exit code, and what it says of a failure."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            return main([*words, "--home", str(self.home)]), said.getvalue()

    def draw(self, *, hold: bool = False, **fields: Any) -> foxden.Job:
        """A picture that is being drawn. `hold`: its engine is stopped in a step, so that what
        comes to pass within a second finds it there."""
        job = self.client().submit(PROMPT, **{**LONG, **fields})
        after_step(job, 20)
        if hold:
            self.engine_of().suspend()
        return job

    def arrives(self, job: foxden.Job, *after: str) -> None:
        """Its one picture comes, after these attempts, and is accepted once."""
        assert len(job.result(timeout=120)) == 1
        assert outcomes(job) == list(after)
        assert len(self.rows("SELECT idx FROM picture WHERE job_id = ?", job.id)) == 1


def own_model(folder: Path) -> Path:
    """The demo model under another name and hash, in single precision, so that a processor draws
    with the file's own bytes. Returns its file of weights that every step reads."""
    shutil.copytree(DEMO_MODEL, folder)
    facts = json.loads((folder / "foxden.json").read_text())
    (folder / "foxden.json").write_text(json.dumps({**facts, "name": "mine"}))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: one.astype("float32") for name, one in load_file(weights).items()}
    save_file(tensors, weights)
    return weights


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    """Each test leaves it mended."""
    folder = tmp_path_factory.mktemp("lent")
    with tiny_disk(folder / "disk") as disk:
        made = Lent(folder, disk / "home")
        made.start_broker()
        made.start_one()
        try:
            yield made
        finally:
            made.close()


def test_driver_goes_while_it_draws_x_is_said_and_the_picture_goes_on_when_it_is_back(
    lent: Lent,
) -> None:
    job = lent.draw(hold=True)
    engine = lent.engine_of()

    lent.nvml.driver = {"init": NOT_LOADED, "restarted": 2}
    lent.nvml.tell()

    lent.wait_for_mode("broken")
    wait_until(lambda: "The NVIDIA driver is not loaded" in lent.card().reasons[0], 5)
    (why,) = lent.card().reasons
    assert "goes on by itself" in why
    assert "restart the PC if this stays" in why
    assert why in lent.log
    wait_until(lambda: gone([engine]), 5, "an engine is left on a card that is gone")
    lent.nvml.driver = {"restarted": 2}
    lent.nvml.tell()
    lent.arrives(job, "released", "finish")
    assert lent.card().mode == "ready"


def test_engine_dies_at_each_start_x_needs_attention_until_one_works(lent: Lent) -> None:
    job = lent.draw()
    lent.state("dead")

    lent.engine_of().kill()

    (why,) = lent.wait_for_mode("broken")
    assert "needs attention" in why
    assert "foxden doctor" in why
    assert "exit code 7" in why
    assert why.removeprefix("broken: ") in lent.log
    lent.state("well")
    lent.wait_for_mode("ready")
    assert len(job.result(timeout=120)) == 1
    tried = job.refresh().info.tasks[0]
    assert (tried.failures, tried.losses) == (1, 0), "only the engine that was killed counts"


def test_disk_is_full_x_pictures_are_drawn_and_the_owners_word_is_kept_when_there_is_room(
    lent: Lent,
) -> None:
    filler = fill(lent.home.parent)

    lent.arrives(lent.client().submit(PROMPT, **SHORT), "finish")
    for words in (("pause",), ("policy", "set", "temperature.stop", "84")):
        code, said = lent.owner(*words)
        assert code == 1
        assert "No space left on device" in said
        assert "See that its disk has space" in said
        assert said.count("\n") == 1
    assert lent.card().mode == "ready"

    filler.unlink()
    assert lent.owner("policy", "set", "temperature.stop", "84") == (0, "")
    assert lent.owner("pause") == (0, "")
    assert "by you" in lent.wait_for_mode("paused")[0]
    assert lent.owner("resume") == (0, "")
    lent.wait_for_mode("ready")
    lent.arrives(lent.client().submit(PROMPT, **SHORT), "finish")


def test_wall_clock_jumps_then_the_pc_sleeps_x_dials_again_and_the_picture_is_accepted_once(
    lent: Lent,
) -> None:
    online = lent.log.count("as session")
    job = lent.draw()

    lent.clocks.set(wall=HOUR)
    after_step(job, 40)
    lent.engine_of().suspend()
    assert lent.log.count("as session") == online, "a clock that is put right is no silence"
    lent.clocks.set(wall=HOUR, asleep=HOUR)  # as after an hour of sleep, which no process saw
    wait_until(lambda: lent.log.count("as session") > online, 10, "nobody dialled")
    lent.engine_of().resume()
    assert "this PC slept, or this program stood still, for 36" in lent.log

    # Its lease has ended for all it knows: it begins where the broker has it stored.
    lent.arrives(job, "lose", "finish")
    lent.clocks.set(asleep=HOUR)
    assert lent.owner("pause", "--for", "1h") == (0, "")
    lent.wait_for_mode("paused")
    lent.clocks.set(asleep=2 * HOUR)  # the hour was slept through
    lent.wait_for_mode("ready")


def test_suspended_longer_than_a_lease_x_believes_in_it_no_more_and_begins_where_it_was_stored(
    lent: Lent,
) -> None:
    job = lent.draw()
    asleep = [lent.engine_of(), psutil.Process(lent.agents["one"].pid)]
    for process in asleep:
        process.suspend()

    wait_until(lambda: outcomes(job) == ["lose"], 3 * TIMERS.lease_lost)
    for process in reversed(asleep):
        process.resume()

    lent.arrives(job, "lose", "finish")
    assert lent.card().mode == "ready"


def test_model_file_is_cut_while_it_draws_x_is_set_aside_and_goes_on_when_the_file_is_whole(
    lent: Lent,
) -> None:
    lent.start_agent("two")  # it lacks the model
    whole = lent.model.read_bytes()
    job = lent.draw(model="mine")

    os.truncate(lent.model, 1000)

    wait_until(lambda: outcomes(job) == ["released"], 20)
    (tried,) = job.refresh().info.tasks[0].attempts
    assert "model 'mine' can't be used here" in tried.reason
    assert f"unet/{lent.model.name} has 1000 bytes and not {len(whole)}" in tried.reason
    assert tried.reason in lent.log
    assert "mine" not in [one.name for one in lent.client().models()]
    assert lent.card().mode == "ready"
    lent.arrives(lent.client().submit(PROMPT, **SHORT), "finish")  # of another model

    lent.model.write_bytes(whole)
    lent.arrives(job, "released", "finish")
    first, last = job.refresh().info.tasks[0].attempts
    assert first.card == last.card
    lent.agents["two"].stop()


def test_two_agents_on_one_machine_x_the_second_is_refused_in_a_sentence(lent: Lent) -> None:
    program = Path(engine_of_a_card.__file__).with_name("agent_with_engine.py")

    def second(home: Path) -> str:
        command = [sys.executable, str(program), str(lent.engine), "--home", str(home)]
        command += ["--broker", lent.url, "--token", lent.agent_token, "--device", "cuda:0"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **lent.environment},
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "An agent is running from" in second(lent.home)
    assert "Another agent looks after cuda:0 already" in second(lent.folder / "other")
    assert lent.card().mode == "ready"


def test_drawn_paused_and_killed_x_nothing_of_the_clients_is_on_the_owners_disk(lent: Lent) -> None:
    # The last one: it leaves no agent.
    lent.client().submit(PROMPT, **SHORT).result(timeout=60)
    job = lent.draw(hold=True)
    assert lent.owner("pause") == (0, "")
    wait_until(lambda: outcomes(job) == ["released"], 20)
    assert lent.owner("resume") == (0, "")
    after_step(job, 40)
    for program in [psutil.Process(lent.agents["one"].pid), lent.engine_of()]:
        assert program.rlimit(psutil.RLIMIT_CORE) == (0, 0), "a crash would write its memory"

    left = lent.agents["one"].kill()

    wait_until(lambda: gone(left), 5)
    written = [path for folder in (lent.home, lent.tmp) for path in folder.rglob("*")]
    files = [path for path in written if path.is_file()]
    assert lent.home / "agent.log" in files
    for path in files:
        data = path.read_bytes()
        for secret in (MARK.encode(), b"a red cube", b"\x89PNG", b"IHDR", b'"latents"'):
            assert secret not in data, path
    job.cancel()
