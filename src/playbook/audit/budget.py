"""How long one request may take, and how many calls one model call may become.

The layers nest: an attempt, the call with the SDK's retries, a tool's run, an
agent's work, its task, the crew, the request. Each bound is the layer below
times whoever tries again. It counts the fewest steps that a task needs (one
model call, or two around a tool), since with `max_iter` steps no budget holds.
Pauses between tries are left out: the real worst case is longer, never shorter.
What cannot be read is no number: it and all that contains it are left out as unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from ..model import Budget, Layer, Setting

DELEGATES = "Delegate work to coworker"
"""CrewAI's tool by which a manager has the others work."""
RATE_LIMIT_TRIES = 3
"""Attempts that `crewai.llms.retry` makes of a rate-limited call, on top of the SDK's own."""
_UNKNOWN = math.nan
"""Seconds (within this module) of what could not be read: neither 0 nor without bound."""
USUAL = 27
"""What the defaults multiply to: SDK 3 × CrewAI 3 × agent 3."""


def of(
    plans: Sequence[dict[str, Any]],
    own_tries: int,
    deadline_s: float | None,
    *,
    first: bool = False,
) -> Budget:
    """The layers of one request from the numbers of its tasks.

    `first`: it is a handler's first crew; what else the handler does is not counted.
    """
    layers: list[Layer] = []
    tasks: list[tuple[bool, float | None]] = []
    for plan in plans:
        below = list(_inside(plan))
        layers += below
        tasks.append((plan["together"], below[-1].seconds))
    if not plans:
        return Budget((), deadline_s)
    layers = list(dict.fromkeys(layers))
    whole = _sum(_longest(group) for group in _at_once(tasks))
    how = "the task" if len(plans) == 1 else f"{len(plans)} tasks, one after the other"
    if any(together for together, _ in tasks):
        how += ", async ones together"
    name = "the handler's first crew" if first else "the crew"
    layers.append(Layer("crew", name, whole, how))
    if own_tries > 1:
        layers.append(
            Layer(
                "request", "the request", _times(whole, own_tries), f"× {own_tries} of the handler"
            )
        )
    known = [layer for layer in layers if not _unknown(layer.seconds)]
    if _unknown(whole) and deadline_s is not None and not _over(known, deadline_s):
        return Budget((), deadline_s)  # the rest alone would look as if all held
    order = ("call", "tool", "agent", "task", "crew", "request")
    return Budget(tuple(sorted(known, key=lambda layer: order.index(layer.layer))), deadline_s)


def _unknown(seconds: float | None) -> bool:
    return seconds is not None and math.isnan(seconds)


def _inside(plan: dict[str, Any]) -> Iterator[Layer]:
    """From one attempt of the model call up to the task."""
    yield from (layers := list(_work(plan)))
    tries = plan["agent_tries"] * plan["task_tries"]
    how = f"× {plan['agent_tries']} tries of the agent"
    if plan["task_tries"] > 1:
        how += f" × {plan['task_tries']} of its guardrail"
    if tries == 1:
        how = "nobody tries again"
    yield Layer("task", f"task {plan['task']}", _times(layers[-1].seconds, tries), how)


def _delegated(plan: dict[str, Any]) -> Iterator[Layer]:
    """What a manager has others do, as the tool that it is for the manager."""
    seconds: float | None = 0.0
    for coworker in plan.get("coworkers", ()):
        yield from (layers := list(_work(coworker)))
        whole = _times(layers[-1].seconds, coworker["agent_tries"])
        seconds = _longest([seconds, whole])
    if plan.get("coworkers"):
        yield Layer("tool", DELEGATES, seconds, "the slowest coworker with all tries")


def _work(plan: dict[str, Any]) -> Iterator[Layer]:
    """From one attempt of the model call up to what the agent does once."""
    read, slow, model = plan["read_s"], plan["slow_tries"], plan["model"]
    if not plan["known"]:
        read = _UNKNOWN
    call = _times(read, slow)
    yield Layer("call", f"{model}, one attempt", read, "its read timeout")
    if slow > 1:
        yield Layer("call", f"{model} with retries", call, f"× {slow} tries of the SDK")
    slowest: float | None = 0.0
    for tool in plan["tools"]:
        if tool["seconds"] != 0.0 or not tool["known"]:
            how = "its timeouts" if tool["known"] else "at least: not all could be read"
            yield Layer("tool", tool["name"], tool["seconds"], how)
        slowest = _longest([slowest, tool["seconds"]])
    yield from (delegated := list(_delegated(plan)))
    if delegated:
        slowest = _longest([slowest, delegated[-1].seconds])
    steps = 2 if plan["tools"] or delegated else 1
    work = _sum([_times(call, steps), slowest])
    how = f"{steps} model calls and a tool" if steps > 1 else "1 model call"
    most = _times(_sum([call, slowest]), plan["max_iter"])
    if most is not None:
        how += f"; {plan['max_iter']} steps of max_iter: {_words(most)}"
    yield Layer("agent", f"{plan['agent']}, once", work, how)


def _words(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _at_once(
    tasks: Sequence[tuple[bool, float | None]],
) -> Iterator[list[float | None]]:
    """Asynchronous tasks in a row run together; any other by itself."""
    for together, group in groupby(tasks, key=lambda task: task[0]):
        seconds = [value for _, value in group]
        if together:
            yield seconds
        else:
            yield from ([value] for value in seconds)


def _times(seconds: float | None, number: int) -> float | None:
    return None if seconds is None else seconds * number


def _sum(parts: Iterable[float | None]) -> float | None:
    every = list(parts)
    known = [part for part in every if part is not None]
    return sum(known) if len(known) == len(every) else None


def _longest(parts: Iterable[float | None]) -> float | None:
    every = list(parts)
    known = [part for part in every if part is not None]
    if any(map(math.isnan, known)) and len(known) == len(every):
        return _UNKNOWN  # of which `max` makes anything
    return max(known, default=0.0) if len(known) == len(every) else None


def retries(plans: Sequence[dict[str, Any]], own_tries: int) -> tuple[int, list[Setting]]:
    """The most provider calls that one model call can become (0: not known), and who
    multiplies them."""
    every = [each for plan in plans for each in (plan, *plan.get("coworkers", ()))]
    worst = max(every, key=lambda plan: plan["tries"] * plan["agent_tries"], default=None)
    if worst is None:
        return 0, []
    limited = int(worst.get("limit_tries", RATE_LIMIT_TRIES))
    number = worst["tries"] * limited * worst["agent_tries"] * own_tries
    words = [
        _inner_tries(worst),
        f"{limited} CrewAI (rate limits)",
        f"{worst['agent_tries']} agent",
    ]
    if own_tries > 1:
        words.append(f"{own_tries} handler")
    many = number > USUAL
    known = not unknown(plans)
    return number if known else 0, [
        Setting(
            "warning" if many else "note" if number > limited else "ok",
            "retries, multiplied",
            f"{' × '.join(words)} = {'' if known else 'at least '}{number} calls",
            "LLM, agent and handler" if own_tries > 1 else "LLM and agent",
            "retry in one place: max_retries=0 or max_retry_limit=0" if many else "",
            "retry-amplification" if many else "",
        )
    ]


def _inner_tries(plan: dict[str, Any]) -> str:
    """Who tries below CrewAI: an SDK, or a class of the user's, which may do so unseen."""
    if not plan["known"]:
        return "unknown of the client"
    return f"{plan['tries']} SDK" if plan.get("sdk", True) else "1 of its own class"


def _over(layers: Iterable[Layer], deadline_s: float) -> Layer | None:
    """The innermost layer that can outlast the deadline."""
    longer = (it for it in layers if it.seconds is not None and it.seconds > deadline_s)
    return next(longer, None)


def unknown(plans: Sequence[dict[str, Any]]) -> bool:
    """Whether the timeouts and retries of some model could not be read."""
    return not all(each["known"] for plan in plans for each in (plan, *plan.get("coworkers", ())))


def against_deadline(budget: Budget) -> list[Setting]:
    """The innermost layer that can outlast the deadline, if there is one."""
    if budget.deadline_s is None:
        return []
    layer = _over(budget.layers, budget.deadline_s)
    if layer is None:
        return []
    return [
        Setting(
            "danger",
            f"budget: {layer.name}",
            f"{layer.seconds:g} s ({layer.how})",
            layer.layer,
            f"can outlast the deadline of {budget.deadline_s:g} s; budgets must nest: "
            "call < tool < agent < crew < platform",
            "platform-timeout",
        )
    ]
