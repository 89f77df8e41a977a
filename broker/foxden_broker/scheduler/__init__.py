"""Which image goes to which card now. Pure: no clock, no I/O, no asyncio; `now` is passed in.

`State` (queue.py) is kept by events, `plan` (planning.py) looks at it and says what to do.
A driver:

    from foxden_broker.scheduler.facts import CardFacts, Expire, Give, JobFacts, Kind, Outcome
    from foxden_broker.scheduler.planning import plan
    from foxden_broker.scheduler.queue import State

    state = State(capable, together)   # capable(card_id, kind) -> bool: catalogue.can_run;
                                       # together(card_id, kind) -> int: images of one batch

`now` is in seconds of any one clock that never goes back; `created` and `deadline` of a job are of
the same clock (a broker: monotonic, jobs from before a restart in the past).

When something happens, tell the state, then plan:

    what happened                                   event
    a job was stored, or read back after a restart  add_job(JobFacts, waiting indices, now)
                                                    (oldest first)
    an image is queued (again), not listed below    image_waits(job_id, index, now, avoid=...)
    a waiting image was cancelled or given up       image_left(job_id, index, now)
    a job was cancelled: nothing of it may start    job_cancelled(job_id, now)
    a card came, or was described anew              card_here(CardFacts, now, accepting=, loaded=)
    its models or samplers changed                  card_changed(card_id, now), or card_here
    mode, link, cordon, drain: may it be given      card_accepts(card_id, bool, now)
        work?
    a heartbeat says what is in its memory          card_loaded(card_id, sha256s, now, in_ram=)
    it measured how long a model took to load       model_loaded(card_id, sha256, seconds, now,
                                                    from_ram=)
    its agent is gone                               card_gone(card_id, now): images stay held
    it was removed for good                         card_forgotten(card_id, now)
    a card held it before a restart                 restored(job_id, index, card_id, now, started=)
                                                    (after add_job, with no or other indices, and
                                                    card_here; accepting=False while it is away)
    a card has begun with an image                  image_started(job_id, index, now)
    a card's hold on it ended                       image_ended(job_id, index, now, Outcome,
                                                    waits=queued again?, load_seconds=, run_seconds=
                                                    where the card measured them)
    a card was asked to give way (Plan.preempts)    preempting(preempt, now); image_ended follows

One event each: image_ended(waits=True) includes image_waits. FAILED and LOST make the image avoid
the card by themselves. What names an image that nobody holds, or a job that is over, is ignored.

Then:

    while True:
        todo = plan(state, now)
        for action in todo.actions:
            Give    state.given(action, now) at once; write the leases of action.images; send ONE
                    Assignment to action.card_id. What the store did not lease:
                    state.not_given(job_id, index, now, waits=is it still queued?)
            Expire  state.image_left(job_id, index, now) at once; end it in the store with
                    action.reason. If that fails: state.add_job(facts, [index], now)
        if not todo.actions: break

and plan again at the next event, or at `todo.wake_at` (math.inf: never) if nothing happens before.
Giving in several rounds is normal: a round hands out `Settings.most_gives` batches at most, so that
none takes long; rounds may be put off for a few milliseconds to gather events.

    todo.wants_allotments    the backlog is deep, or one that was comes to its end:
                             question = backlog.ask(state, now); in a thread or process
                             allotments = backlog.solve(question); then
                             state.use_allotments(allotments, now). May be left out.
    prefetch.next_model      a model that a card given work may bring into RAM meanwhile.
    outlook.Outlook(state)   queue position and ETA of a job, see there.
    state.estimates.seconds  what a lease is expected to take (for its deadline).
"""
