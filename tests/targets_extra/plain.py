"""Handlers without a crew: the calls themselves, from wherever a handler may make them."""

import os
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import requests
from crewai.tools import BaseTool

CALLS = 3


def chat(text: str, **options: object) -> httpx.Response:
    return httpx.post(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        headers={"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
        json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]},
        timeout=10,
        **options,
    )


def quiet(question: str) -> str:
    return f"nothing was called for {question}"


def one(question: str) -> str:
    response = chat(question)
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"]


def pool(question: str) -> str:
    with ThreadPoolExecutor(CALLS) as executor:
        answers = list(executor.map(one, [question] * CALLS))
    return answers[0]


SHARED_POOL = ThreadPoolExecutor(2)
"""Its threads are started by the first request and serve all of them."""


def shared_pool(question: str) -> str:
    return [SHARED_POOL.submit(one, question) for _ in range(CALLS)][-1].result()


def waits_for_all(question: str) -> str:
    futures = [SHARED_POOL.submit(one, question) for _ in range(CALLS)]
    return [future.result() for future in futures][-1]


def threads(question: str) -> str:
    answers: list[str] = []
    started = [threading.Thread(target=lambda: answers.append(one(question))) for _ in range(CALLS)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return answers[0]


def libraries(question: str) -> str:
    """The same service through both libraries that have no loop."""
    url = f"{os.environ['TOOLS_URL']}/records/{question}"
    requests.get(url, timeout=10)
    with requests.get(url, timeout=10, stream=True) as streamed:
        assert streamed.content
    with httpx.Client(timeout=10) as client, client.stream("GET", url) as response:
        return response.read().decode()


async def on_the_loop(question: str) -> str:
    url = f"{os.environ['TOOLS_URL']}/records/{question}"
    async with httpx.AsyncClient(timeout=10) as client:
        await client.get(url)
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


def by_urllib(question: str) -> str:
    url = f"{os.environ['TOOLS_URL']}/records/{question}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


class Fetch(BaseTool):
    """A tool that asks several at once, on threads of its own."""

    name: str = "fetch"
    description: str = "Fetches."

    def _run(self, key: str) -> str:
        url = f"{os.environ['TOOLS_URL']}/records/{key}"
        with ThreadPoolExecutor(2) as executor:
            found = list(executor.map(lambda _: httpx.get(url, timeout=10).text, range(2)))
        return found[0]


def tool_with_threads(question: str) -> str:
    return str(Fetch().run(key=question))


def answers_with_its_key(question: str) -> str:
    """A key in a header, in a query, in the output and in the answer."""
    secret = os.environ["OPENAI_API_KEY"]
    requests.get(
        f"{os.environ['TOOLS_URL']}/records/{question}?api_key={secret}",
        headers={"Authorization": f"Bearer {secret}", "Cookie": f"session={secret}"},
        timeout=10,
    )
    chat(question)
    print(f"using Authorization: Bearer {secret}")
    return f"Incorrect API key provided: {secret}"


def tells_its_key(question: str) -> dict:
    """A handler that shows the provider's words to its caller."""
    return {
        "status": 500,
        "text": f"Incorrect API key provided: {os.environ['OPENAI_API_KEY']}",
    }


def raises_with_its_key(question: str) -> str:
    raise PermissionError(f"401 for Authorization: Bearer {os.environ['OPENAI_API_KEY']}")
