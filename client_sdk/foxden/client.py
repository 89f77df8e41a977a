"""The asynchronous client; `foxden.Client` is the same with blocking calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from foxden import _backups as backups
from foxden import _requests, _watching, config, events, pool
from foxden._requests import Options
from foxden._transport import ATTEMPT_SECONDS, RETRY_FOR, Stubs, Transport
from foxden._uploads import Photo, open_photo, send
from foxden.errors import FoxdenError, InvalidRequest
from foxden.jobs import AsyncJob, Collected, info
from foxden.results import Picture, Result
from foxden_proto.v1 import generation_pb2 as pb
from foxden_proto.v1 import pool_pb2

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
_LAST_WORD_SECONDS = 3.0  # for the cancel of a job that nobody waits for any more
_PAGE = 200


class AsyncClient:
    """A broker, asked from one event loop.

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
        self._transport = Transport(config.resolve(url, token, home), retry_for)

    @property
    def url(self) -> str:
        return str(self._transport.address)

    async def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        progress: bool | None = None,
        on_event: Callable[[events.Event], object] | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draw pictures and wait for them. Arguments and errors as in `Client.generate`.

        Where the waiting task is cancelled, the job is cancelled too.
        """
        from foxden.progress import display

        started = asyncio.get_running_loop().time()
        submitting = asyncio.ensure_future(self._submit(prompt, timeout, options))
        try:
            job = await asyncio.shield(submitting)
            collected = Collected(job.info)
            watching = contextlib.aclosing(job.watch(_left(timeout, started)))
            with display(progress, job.count) as shown:
                async with watching as seen:
                    async for event in seen:
                        shown.show(event)
                        collected.add(event)
                        if on_event is not None:
                            on_event(event)
            return await job._conclude(collected)
        except FoxdenError:
            raise
        except BaseException:  # cancelled, or `on_event` failed: nobody waits any more
            await _shielded(_abandon(submitting))
            raise

    async def submit(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> AsyncJob:
        """Queue pictures and return at once. Arguments and errors as in `Client.submit`."""
        return await self._submit(prompt, timeout, options)

    async def _submit(self, prompt: str, timeout: float | None, options: Options) -> AsyncJob:
        timeout = _requests.check_timeout(timeout)
        request = _requests.build(prompt, **options)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(lambda stubs: stubs.generation.Submit, request)
        except TimeoutError:
            raise _watching.out_of_time("", timeout) from None
        return AsyncJob(self._transport, info(answer.job))

    async def stream(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[Options]
    ) -> AsyncGenerator[Picture, None]:
        """Draw pictures and yield each as it finishes. Arguments and errors as in `generate`.

        A loop that is left before the last picture cancels the job.
        """
        started = asyncio.get_running_loop().time()
        job = await self._submit(prompt, timeout, options)
        pictures = job.pictures(_left(timeout, started))
        try:
            async for picture in pictures:
                yield picture
        except FoxdenError:
            raise
        except BaseException:
            await pictures.aclose()
            await _shielded(_cancel(job))
            raise

    async def get(self, job_id: str) -> AsyncJob:
        """A job by its id. Raises NotFound."""
        return AsyncJob(self._transport, info(await _watching.get(self._transport, job_id)))

    async def jobs(self, state: str | None = None, limit: int = 50) -> list[AsyncJob]:
        """The newest jobs, `limit` at most; of one state where it is named."""
        wanted = _job_state(state)
        found: list[AsyncJob] = []
        page = ""
        while len(found) < limit:
            request = pb.ListJobsRequest(
                state=wanted, page_size=min(limit - len(found), _PAGE), page_token=page
            )
            answer = await self._ask(lambda stubs: stubs.generation.List, request)
            found += [AsyncJob(self._transport, info(job)) for job in answer.jobs]
            page = answer.next_page_token
            if not page:
                break
        return found[:limit]

    async def cancel(self, job_id: str) -> AsyncJob:
        """Ask that a job stop: queued images at once, running ones at their next step."""
        request = pb.CancelJobRequest(job_id=job_id)
        answer = await self._ask(lambda stubs: stubs.generation.Cancel, request)
        return AsyncJob(self._transport, info(answer))

    async def retry(self, job_id: str) -> AsyncJob:
        """Have the failed images of a job queued again, their failures forgotten.

        Raises InvalidRequest where none failed or the job's deadline has passed, QuotaExceeded.
        """
        request = pb.RetryJobRequest(job_id=job_id)
        answer = await self._ask(lambda stubs: stubs.generation.Retry, request)
        return AsyncJob(self._transport, info(answer))

    async def models(self) -> list[pool.Model]:
        """The models that cards of the pool offer."""
        request = pool_pb2.ListModelsRequest()
        answer = await self._ask(lambda stubs: stubs.pool.ListModels, request)
        return [pool.model(model) for model in answer.models]

    async def cards(self) -> list[pool.Card]:
        """The cards of the pool, online or not."""
        answer = await self._ask(lambda stubs: stubs.pool.ListCards, pool_pb2.ListCardsRequest())
        return [pool.card(card) for card in answer.cards]

    async def upload(self, photo: Photo) -> str:
        """Send a picture once (PIL.Image, path or bytes; 64 MiB at most); returns its id.

        PNG, JPEG and WebP files travel as they are. Raises InvalidRequest (`photo`).
        """
        file = await asyncio.to_thread(open_photo, photo)
        return await send(self._transport, file)

    async def tokens(self) -> list[pool.Token]:
        """The account's tokens, without their secrets. Needs a token of scope admin."""
        answer = await self._ask(lambda stubs: stubs.admin.ListTokens, pool_pb2.ListTokensRequest())
        return [pool.token(token) for token in answer.tokens]

    async def create_token(
        self, member: str, scopes: list[str], expires_in: float | None = None
    ) -> pool.NewToken:
        """Make a token (scopes: generate, admin, agent) that works for `expires_in` seconds.

        None: for ever. Where the connection breaks, a second token may be left behind whose secret
        nobody has seen.
        """
        request = pool_pb2.CreateTokenRequest(
            member=member, scopes=scopes, expires_in=expires_in or 0.0
        )
        answer = await self._ask(lambda stubs: stubs.admin.CreateToken, request)
        return pool.NewToken(pool.token(answer.token), answer.secret)

    async def revoke_token(self, token_id: str) -> pool.Token:
        """Make a token useless from now on. Raises NotFound."""
        request = pool_pb2.RevokeTokenRequest(token_id=token_id)
        return pool.token(await self._ask(lambda stubs: stubs.admin.RevokeToken, request))

    async def create_join_link(
        self,
        uses: int = 1,
        expires_in: float = 3600.0,
        *,
        approve: bool = False,
        address: str = "",
    ) -> pool.NewJoinLink:
        """Make a link with which `uses` machines can join within `expires_in` seconds. Needs a
        token of scope admin.

        approve: each of them waits for `approve_agent`. address: what agents dial, where that is
        another than the broker knows itself by.
        """
        request = pool_pb2.CreateJoinLinkRequest(
            uses=uses, expires_in=expires_in, approve=approve, address=address
        )
        answer = await self._ask(lambda stubs: stubs.admin.CreateJoinLink, request)
        return pool.NewJoinLink(pool.join_link(answer.link), answer.text)

    async def join_links(self) -> list[pool.JoinLink]:
        """The account's join links, without their secrets. Needs a token of scope admin."""
        request = pool_pb2.ListJoinLinksRequest()
        answer = await self._ask(lambda stubs: stubs.admin.ListJoinLinks, request)
        return [pool.join_link(link) for link in answer.links]

    async def revoke_join_link(self, link_id: str) -> pool.JoinLink:
        """Let nobody in by this link any more; who has joined by it stays. Raises NotFound."""
        request = pool_pb2.RevokeJoinLinkRequest(link_id=link_id)
        return pool.join_link(await self._ask(lambda stubs: stubs.admin.RevokeJoinLink, request))

    async def agents(self) -> list[pool.Agent]:
        """The agents that joined by a link. Needs a token of scope admin."""
        answer = await self._ask(lambda stubs: stubs.admin.ListAgents, pool_pb2.ListAgentsRequest())
        return [pool.agent(agent) for agent in answer.agents]

    async def approve_agent(self, agent: str) -> pool.Agent:
        """Say yes to a machine that waits. agent: its id, its name, or the beginning of either.

        Raises NotFound, or InvalidRequest where several fit or it was revoked.
        """
        request = pool_pb2.ApproveAgentRequest(agent=agent)
        return pool.agent(await self._ask(lambda stubs: stubs.admin.ApproveAgent, request))

    async def revoke_agent(self, agent: str) -> pool.Agent:
        """Shut a machine out: its link ends at once, its images go elsewhere. Raises like
        `approve_agent`."""
        request = pool_pb2.RevokeAgentRequest(agent=agent)
        return pool.agent(await self._ask(lambda stubs: stubs.admin.RevokeAgent, request))

    async def set_card_standing(self, card: str, standing: str) -> pool.Card:
        """Set a card aside: "cordoned" (nothing new), "draining" (it also gives back what it has
        not begun), or "" to use it again. Needs a token of scope admin.

        card: its id, its name, or the beginning of either where that fits one card alone.
        Raises NotFound, or InvalidRequest where several fit.
        """
        request = pool_pb2.SetCardStandingRequest(card=card, standing=pool.standing_of(standing))
        return pool.card(await self._ask(lambda stubs: stubs.admin.SetCardStanding, request))

    async def forget_card(self, card: str) -> str:
        """Remove a card that is away for good; returns its name. Needs a token of scope admin.

        Raises NotFound, or InvalidRequest while it is online.
        """
        request = pool_pb2.ForgetCardRequest(card=card)
        answer = await self._ask(lambda stubs: stubs.admin.ForgetCard, request)
        return answer.name

    async def quotas(self) -> pool.Quotas:
        """The limits of the account and of its members, and what each uses. Scope admin."""
        request = pool_pb2.ListQuotasRequest()
        answer = await self._ask(lambda stubs: stubs.admin.ListQuotas, request)
        return pool.quotas(answer)

    async def set_quota(
        self,
        member: str,
        *,
        most_queued: int = 0,
        most_running: int = 0,
        gpu_seconds_per_day: float = 0.0,
    ) -> pool.Quota:
        """Set a member's limits, all three at once; 0: none of its own. Scope admin."""
        wanted = pool.checked_quota(member, most_queued, most_running, gpu_seconds_per_day)
        request = pool_pb2.SetQuotaRequest(quota=wanted)
        return pool.quota(await self._ask(lambda stubs: stubs.admin.SetQuota, request))

    async def usage(self, member: str | None = None, days: int = 30) -> list[pool.Usage]:
        """Images and card time by day (UTC) and member, today included. Scope admin."""
        request = pool_pb2.UsageRequest(member=member or "", days=pool.checked_days(days))
        answer = await self._ask(lambda stubs: stubs.admin.Usage, request)
        return [pool.usage(row) for row in answer.rows]

    async def backup(self, out: str | os.PathLike[str], *, with_pictures: bool = False) -> int:
        """Write an archive of the running broker to a file; returns its bytes. Scope admin.

        It holds the broker's keys: the file is readable by its owner alone. An earlier file of
        this name is replaced once the new one is whole.
        """
        return await backups.fetch(self._transport, Path(out), with_pictures)

    @property
    def connected(self) -> bool:
        """Whether there is anything to close."""
        return self._transport.opened

    async def close(self) -> None:
        """Close the connection. Jobs go on."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(self, method: Callable[[Stubs], Callable[..., Awaitable[T]]], request: Any) -> T:
        """One call with one answer, repeated where that may help."""
        return await self._transport.call(
            lambda stubs: method(stubs)(
                request, metadata=self._transport.metadata, timeout=ATTEMPT_SECONDS
            )
        )


def _left(timeout: float | None, started: float) -> float | None:
    if timeout is None:
        return None
    return max(0.0, timeout - (asyncio.get_running_loop().time() - started))


async def _abandon(submitting: asyncio.Future[AsyncJob]) -> None:
    """Cancel a job that may still be on its way to the broker."""
    with contextlib.suppress(FoxdenError):
        await _cancel(await submitting)


async def _cancel(job: AsyncJob) -> None:
    with contextlib.suppress(FoxdenError):
        await job.cancel()


async def _shielded(last_word: Coroutine[Any, Any, None]) -> None:
    """Say it even though the task that says it is being cancelled, but not for long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.shield(asyncio.wait_for(last_word, _LAST_WORD_SECONDS))


def _job_state(state: str | None) -> pb.JobState.ValueType:
    if state is None:
        return pb.JOB_STATE_UNSPECIFIED
    names = {name.removeprefix("JOB_STATE_").lower(): value for name, value in pb.JobState.items()}
    del names["unspecified"]
    if state not in names:
        allowed = ", ".join(names)
        raise InvalidRequest(
            f"there is no job state {state!r}: use one of {allowed}", field="state", allowed=allowed
        )
    return names[state]
