"""The user's own code around the crews: what it does to the event loop, and its own retries."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any

from . import source
from .items import Item, item, theirs


def of(target: Any) -> source.Reading:
    """Read the function behind a target; nothing where it is a live crew or flow."""
    try:
        value = inspect.getclosurevars(target.invoke).nonlocals.get("value")
    except (TypeError, ValueError):
        return source.Reading()
    if isinstance(value, type) or hasattr(value, "kickoff"):
        total = source.Reading()
        own = value if isinstance(value, type) else type(value)
        for method in vars(own).values() if theirs(_file(own)) else ():
            if callable(method) and inspect.isfunction(inspect.unwrap(method)):
                total.add(source.read(method))
        return total
    if inspect.isfunction(value) or inspect.ismethod(value):
        return source.read(value)
    if callable(value):
        return source.read(type(value).__call__, value)
    return source.Reading()


def _file(kind: type) -> str | None:
    return getattr(sys.modules.get(kind.__module__), "__file__", None)


def default_threads() -> int:
    """Threads of an event loop's default executor, if nobody sized it."""
    return min(32, (os.cpu_count() or 1) + 4)


def read(reading: source.Reading, concurrency: int, *, one_loop: bool) -> list[Item]:
    """What the handler's source says. `one_loop`: all requests run on the same event loop."""
    items = []
    # A flow, or a handler with `asyncio.run`, has a loop for each request, and each loop an
    # executor of its own: nobody waits there for another request.
    shared = one_loop or reading.handed_over
    for method, place, on_loop in reading.kickoffs:
        if method == "kickoff" and on_loop:
            items.append(
                item(
                    "danger",
                    "handler: kickoff()",
                    "synchronous, on the event loop",
                    place,
                    "CrewAI raises RuntimeError there: await kickoff_async() on a sized executor",
                    "event-loop-blocked",
                )
            )
        threads = default_threads()
        if method != "kickoff" and shared and not reading.sized and threads < concurrency:
            items.append(
                item(
                    "warning",
                    f"handler: {method}()",
                    f"the default executor's {threads} threads for {concurrency} requests at once",
                    place,
                    "its model calls run in the loop's default executor, min(32, CPUs + 4) "
                    "threads: loop.set_default_executor(ThreadPoolExecutor(N))",
                    "thread-pool-starvation",
                )
            )
    for call in reading.calls:
        if call.blocks:
            items.append(_blocks(f"handler: {call.name}(…)", call.place))
        if call.seconds is None:
            items.append(
                item(
                    "danger",
                    f"handler: {call.name}(…)",
                    "no timeout",
                    call.place,
                    "say timeout=… in the call",
                    "no-timeout",
                )
            )
    items += [_blocks("handler: time.sleep()", place) for place in reading.sleeps]
    for workers, place, name in reading.pools:
        if workers < concurrency:
            items.append(
                item(
                    "warning",
                    f"handler: {name}(…)",
                    f"{workers} workers for {concurrency} requests at once",
                    place,
                    "the others wait in its queue: size the pool for the load, or refuse what "
                    "it cannot serve",
                    "thread-pool-starvation",
                )
            )
    for place in reading.loops:
        items.append(
            item(
                "warning",
                "handler: asyncio.run(llm.acall(…))",
                "a new event loop for each call",
                place,
                "the LLM's connections belong to the loop before: call llm.call(), or one LLM "
                "for each loop",
                "client-across-loops",
            )
        )
    for place in reading.fans if not reading.bounded else ():
        items.append(
            item(
                "warning",
                "handler: asyncio.gather(*…)",
                "as many calls at once as there are items",
                place,
                "times the requests at once: wait for an asyncio.Semaphore(N) around each",
                "unbounded-parallelism",
            )
        )
    for number, place, how in reading.retries:
        items.append(
            item(
                "note" if number else "warning",
                "handler: its own retries",
                f"{number} tries by {how}" if number else f"{how} without a number that is known",
                place,
                "multiplies with all the others: retry in one place",
                "retry-amplification",
                own_tries=number or 1,
            )
        )
    return items


def listeners() -> list[Item]:
    """The user's handlers of CrewAI's events that talk to somebody: each kickoff waits for them."""
    from crewai.events.event_bus import crewai_event_bus

    items = []
    registered = getattr(crewai_event_bus, "_sync_handlers", None) or {}
    for event, handlers in list(registered.items()):
        for function in handlers:
            if not theirs(getattr(getattr(function, "__code__", None), "co_filename", None)):
                continue
            for call in source.read(function).calls:
                items.append(
                    item(
                        "warning",
                        f"handler of {event.__name__}: {call.name}(…)",
                        "no timeout" if call.seconds is None else f"up to {call.seconds:g} s",
                        call.place,
                        "CrewAI has 10 threads for all handlers of the process, and every kickoff "
                        "waits for them at its end: hand over to a queue",
                        "event-handler-slow",
                    )
                )
    return items


def _blocks(what: str, place: str) -> Item:
    return item(
        "danger",
        what,
        "holds up the event loop",
        place,
        "all requests of the process stand still meanwhile: await asyncio.to_thread(…), "
        "or an async client",
        "event-loop-blocked",
    )
