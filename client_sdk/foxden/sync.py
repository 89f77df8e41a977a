"""The blocking client: an AsyncClient on a background event loop.

Works where a loop already runs (Jupyter) and in threads; `_portal` says what a fork means for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from foxden import events, pool
from foxden._portal import portal, usable, wait
from foxden._requests import Options
from foxden._transport import RETRY_FOR
from foxden._uploads import Photo
from foxden.client import AsyncClient
from foxden.errors import FoxdenError
from foxden.jobs import AsyncJob, Collected, Handle
from foxden.results import Picture, Result

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
_LAST_WORD_SECONDS = 3.0  # for the cancel of a job that nobody waits for any more


class Client:
    """A broker, asked with blocking calls. May be shared by threads.

    Without arguments: `FOXDEN_URL` and `FOXDEN_TOKEN`, or what `foxden login` and `foxden up`
    wrote. Nothing is sent before the first call. `retry_for` is how many seconds a call keeps
    trying a broker that cannot be reached.

    Raises InvalidRequest (`url`, `token`) where no broker is configured or the address is
    malformed. Every call raises Unauthorized, PermissionDenied or Unavailable where it must.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        retry_for: float = RETRY_FOR,
    ) -> None:
        self._client = AsyncClient(url, token, home=home, retry_for=retry_for)

    @property
    def url(self) -> str:
        return self._client.url

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        count: int = 1,
        steps: int | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        guidance_scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        model: str | None = None,
        priority: str = "normal",
        deadline: float | None = None,
        timeout: float | None = None,
        progress: bool | None = None,
        on_event: Callable[[events.Event], object] | None = None,
    ) -> Result:
        """Draw pictures and wait for them. Ctrl-C cancels the job and is raised again.

        Where a value is None, the model's default is taken.

        prompt, negative_prompt: up to 10,000 characters each.
        count: 1 to 1000 images; image i uses `seed + i` and the same noise on every card.
        steps: 1 to 150.
        sampler, schedule: e.g. "DPM++ 2M" and "karras"; "DPM++ 2M Karras" is understood too.
        guidance_scale: 0 to 50; at 1 or less the prompt guides without the negative one.
        width, height: pixels, 16 to 4096, multiples of 8.
        seed: 0 to 2^53 - 1001; None: the broker draws one.
        model: a name of `models()`; None: the pool's default.
        priority: "interactive", "normal" or "bulk".
        deadline: seconds from now, 1 to 604,800, after which nothing is started any more.
        timeout: seconds to wait here; None: as long as it takes. The job goes on after it.
        progress: show it; None: where the error stream is a terminal, or in a notebook.
        on_event: called with every event of `foxden.events`, in this thread.

        Raises InvalidRequest, UnknownModel, NoCardCanRun or QuotaExceeded before anything is
        queued; JobFailed, JobCancelled or DeadlineExpired (with `.result`: what is finished)
        after; Timeout; Unauthorized, PermissionDenied or Unavailable as with every call.
        """
        from foxden.progress import display

        started = time.monotonic()
        job = self.submit(
            prompt,
            timeout=timeout,
            negative_prompt=negative_prompt,
            count=count,
            steps=steps,
            sampler=sampler,
            schedule=schedule,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            seed=seed,
            model=model,
            priority=priority,
            deadline=deadline,
        )
        with _cancelled_if_left(job):
            collected = Collected(job.info)
            with display(progress, job.count) as shown:
                for event in job.watch(_left(timeout, started)):
                    shown.show(event)
                    collected.add(event)
                    if on_event is not None:
                        on_event(event)
            return job._conclude(collected)

    def submit(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> Job:
        """Queue pictures and return at once, with the arguments of `generate`.

        Also `idempotency_key`: up to 128 characters; a second submit with the same key and the
        same request within 24 hours answers with the first one's job. Raises what `generate`
        raises before anything is queued.
        """
        run = portal()
        future = run.start(self._client.submit(prompt, timeout=timeout, **options))
        try:
            return Job(self, wait(future))
        except FoxdenError:
            raise
        except BaseException:  # Ctrl-C: the request may already be with the broker
            with contextlib.suppress(Exception):
                Job(self, wait(future, _LAST_WORD_SECONDS))._cancel_quietly()
            future.cancel()
            raise

    def stream(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> Iterator[Picture]:
        """Draw pictures and yield each as it finishes, with the arguments of `submit`.

        Raises what `generate` raises. A loop that is left before the last picture cancels the job.
        """
        started = time.monotonic()
        job = self.submit(prompt, timeout=timeout, **options)
        with _cancelled_if_left(job):
            yield from job.pictures(_left(timeout, started))

    def get(self, job_id: str) -> Job:
        """A job by its id. Raises NotFound."""
        return Job(self, self._call(self._client.get(job_id)))

    def jobs(self, state: str | None = None, limit: int = 50) -> list[Job]:
        """The newest jobs, `limit` at most; of one state (queued, running, ...) where named."""
        return [Job(self, job) for job in self._call(self._client.jobs(state, limit))]

    def cancel(self, job_id: str) -> Job:
        """Ask that a job stop: queued images at once, running ones at their next step."""
        return Job(self, self._call(self._client.cancel(job_id)))

    def retry(self, job_id: str) -> Job:
        """Have the failed images of a job queued again, their failures forgotten.

        Raises InvalidRequest where none failed or the job's deadline has passed, QuotaExceeded.
        """
        return Job(self, self._call(self._client.retry(job_id)))

    def models(self) -> list[pool.Model]:
        """The models that cards of the pool offer."""
        return self._call(self._client.models())

    def cards(self) -> list[pool.Card]:
        """The cards of the pool, online or not."""
        return self._call(self._client.cards())

    def upload(self, photo: Photo) -> str:
        """Send a picture once (PIL.Image, path or bytes; 64 MiB at most); returns its id.

        PNG, JPEG and WebP files travel as they are. Raises InvalidRequest (`photo`).
        """
        return self._call(self._client.upload(photo))

    def tokens(self) -> list[pool.Token]:
        """The account's tokens, without their secrets. Needs a token of scope admin."""
        return self._call(self._client.tokens())

    def create_token(
        self, member: str, scopes: list[str], expires_in: float | None = None
    ) -> pool.NewToken:
        """Make a token (scopes: generate, admin, agent), for `expires_in` seconds or for ever."""
        return self._call(self._client.create_token(member, scopes, expires_in))

    def revoke_token(self, token_id: str) -> pool.Token:
        """Make a token useless from now on. Raises NotFound."""
        return self._call(self._client.revoke_token(token_id))

    def create_join_link(
        self,
        uses: int = 1,
        expires_in: float = 3600.0,
        *,
        approve: bool = False,
        address: str = "",
    ) -> pool.NewJoinLink:
        """Make a link with which `uses` machines can join within `expires_in` seconds."""
        return self._call(
            self._client.create_join_link(uses, expires_in, approve=approve, address=address)
        )

    def join_links(self) -> list[pool.JoinLink]:
        """The account's join links, without their secrets. Needs a token of scope admin."""
        return self._call(self._client.join_links())

    def revoke_join_link(self, link_id: str) -> pool.JoinLink:
        """Let nobody in by this link any more; who has joined by it stays. Raises NotFound."""
        return self._call(self._client.revoke_join_link(link_id))

    def agents(self) -> list[pool.Agent]:
        """The agents that joined by a link. Needs a token of scope admin."""
        return self._call(self._client.agents())

    def approve_agent(self, agent: str) -> pool.Agent:
        """Say yes to a machine that waits: by its id, its name, or the beginning of either."""
        return self._call(self._client.approve_agent(agent))

    def revoke_agent(self, agent: str) -> pool.Agent:
        """Shut a machine out: its link ends at once, its images go elsewhere."""
        return self._call(self._client.revoke_agent(agent))

    def set_card_standing(self, card: str, standing: str) -> pool.Card:
        """Set a card aside: "cordoned" (nothing new), "draining" (it also gives back what it has
        not begun), or "" to use it again. Needs a token of scope admin.

        card: its id, its name, or the beginning of either where that fits one card alone.
        Raises NotFound, or InvalidRequest where several fit.
        """
        return self._call(self._client.set_card_standing(card, standing))

    def forget_card(self, card: str) -> str:
        """Remove a card that is away for good; returns its name. Needs a token of scope admin.

        Raises NotFound, or InvalidRequest while it is online.
        """
        return self._call(self._client.forget_card(card))

    def quotas(self) -> pool.Quotas:
        """The limits of the account and of its members, and what each uses. Scope admin."""
        return self._call(self._client.quotas())

    def set_quota(
        self,
        member: str,
        *,
        most_queued: int = 0,
        most_running: int = 0,
        gpu_seconds_per_day: float = 0.0,
    ) -> pool.Quota:
        """Set a member's limits, all three at once; 0: none of its own. Scope admin."""
        return self._call(
            self._client.set_quota(
                member,
                most_queued=most_queued,
                most_running=most_running,
                gpu_seconds_per_day=gpu_seconds_per_day,
            )
        )

    def usage(self, member: str | None = None, days: int = 30) -> list[pool.Usage]:
        """Images and card time by day (UTC) and member, today included. Scope admin."""
        return self._call(self._client.usage(member, days))

    def backup(self, out: str | os.PathLike[str], *, with_pictures: bool = False) -> int:
        """Write an archive of the running broker to a file; returns its bytes. Scope admin.

        It holds the broker's keys: the file is readable by its owner alone. An earlier file of
        this name is replaced once the new one is whole.
        """
        return self._call(self._client.backup(out, with_pictures=with_pictures))

    def close(self) -> None:
        """Close the connection. Jobs go on. A client that is used again connects again."""
        if self.connected:
            self._call(self._client.close())

    @property
    def connected(self) -> bool:
        """Whether there is a connection of this process to close."""
        return self._client.connected and usable()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            run = portal()
        except FoxdenError:
            coroutine.close()
            raise
        return run.call(coroutine)


class Job(Handle):
    """A job of a Client."""

    def __init__(self, client: Client, job: AsyncJob) -> None:
        super().__init__(job.info)
        self._client, self._job = client, job

    def watch(self, timeout: float | None = None) -> Iterator[events.Event]:
        """Yield what happens to the job from its start; ends with Done, Failed or Cancelled.

        A PictureReady carries its picture and comes while other images are still being made. A
        broken connection is picked up where it was. Raises Timeout after `timeout` seconds, and
        Unavailable where the broker stays away for `retry_for` seconds.
        """
        return self._each(self._job.watch(timeout))

    def pictures(self, timeout: float | None = None) -> Iterator[Picture]:
        """Yield pictures as they finish, in any order. Raises what `result` raises, at the end."""
        return self._each(self._job.pictures(timeout))

    def result(self, timeout: float | None = None) -> Result:
        """Wait for all pictures.

        Raises JobFailed, JobCancelled or DeadlineExpired (each with `.result`: what is finished),
        and Timeout after `timeout` seconds; the job then goes on.
        """
        return self._call(self._job.result(timeout))

    def refresh(self) -> Job:
        """Ask the broker again and return this job, with its fields up to date."""
        self._call(self._job.refresh())
        return self

    def cancel(self) -> Job:
        """Ask that the job stop: queued images at once, running ones at their next step."""
        self._call(self._job.cancel())
        return self

    def retry(self) -> Job:
        """Have the failed images queued again. Raises InvalidRequest where none failed."""
        self._call(self._job.retry())
        return self

    def _conclude(self, collected: Collected) -> Result:
        return self._call(self._job._conclude(collected))

    def _cancel_quietly(self) -> None:
        """Cancel without a word, and without waiting long: its caller is leaving."""
        future = portal().start(self._job.cancel())
        try:
            wait(future, _LAST_WORD_SECONDS)
        except (FoxdenError, TimeoutError, concurrent.futures.CancelledError):
            future.cancel()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return self._client._call(coroutine)
        finally:
            self._info = self._job.info

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        steps = _Steps(items)
        try:
            while True:
                try:
                    item = self._call(steps.next())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._call(steps.close())


class _Steps(Generic[T]):
    """An async generator that is taken step by step from another thread.

    Ctrl-C can strike after a step was handed to the event loop and before its future is in hand.
    The step then runs on with nobody to cancel it, and a generator that runs cannot be closed; so
    the loop's side remembers it.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._step: asyncio.Task[Any] | None = None

    async def next(self) -> T:
        self._step = asyncio.current_task()
        return await anext(self._items)

    async def close(self) -> None:
        if self._step is not None and not self._step.done():
            self._step.cancel()
            await asyncio.wait([self._step])
        await self._items.aclose()


@contextlib.contextmanager
def _cancelled_if_left(job: Job) -> Iterator[None]:
    """Cancel the job where its caller leaves for another reason than an error of the job."""
    try:
        yield
    except FoxdenError:
        raise
    except BaseException:  # Ctrl-C, a loop that was left, or a callback that failed
        job._cancel_quietly()
        raise


def _left(timeout: float | None, started: float) -> float | None:
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
