"""One handler for each HTTP library, all asking the same service of the lab."""

import os
from urllib.parse import urlsplit

import aiohttp
import botocore.awsrequest
import botocore.httpsession
import httpx
import requests
import urllib3

TOOLS = os.environ["TOOLS_URL"]
# A name, so that there is something to look up.
NAMED = TOOLS.replace("127.0.0.1", "localhost")


def httpx_named(question: str) -> str:
    return httpx.get(f"{NAMED}/records/{question}", timeout=10).text


async def httpx_async(question: str) -> str:
    async with httpx.AsyncClient(timeout=10) as client:
        return (await client.get(f"{NAMED}/records/{question}")).text


def httpx_tls(question: str) -> str:
    url = f"{os.environ['TLS_URL']}/tools/records/{question}"
    with httpx.Client(verify=os.environ["TLS_CA"], timeout=10, trust_env=False) as client:
        return client.get(url).text


def requests_tls(question: str) -> str:
    url = f"{os.environ['TLS_URL']}/tools/records/{question}"
    return requests.get(url, verify=os.environ["TLS_CA"], timeout=10).text


def requests_retrying(question: str) -> str:
    """A session that tries again by itself, below what requests tells."""
    retries = urllib3.Retry(3, status_forcelist=[503], backoff_factor=0)
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        return session.get(f"{NAMED}/records/{question}", timeout=10).text


def requests_posting(question: str) -> str:
    return requests.post(f"{TOOLS}/notes", json={"text": question}, timeout=10).text


def urllib3_alone(question: str) -> str:
    with urllib3.PoolManager() as pool:
        return pool.request("GET", f"{NAMED}/records/{question}", timeout=10).data.decode()


def urllib3_one_connection(question: str) -> str:
    """Two requests at once over a pool of one connection that blocks."""
    from concurrent.futures import ThreadPoolExecutor

    parts = urlsplit(TOOLS)
    path = f"{parts.path}/records/{question}"
    with (
        urllib3.HTTPConnectionPool(parts.hostname, parts.port, maxsize=1, block=True) as pool,
        ThreadPoolExecutor(2) as threads,
    ):
        return [
            each.data.decode()
            for each in threads.map(lambda _: pool.request("GET", path, timeout=10), range(2))
        ][-1]


def botocore_alone(question: str) -> str:
    """What boto3 sends with, and with it Bedrock's clients."""
    request = botocore.awsrequest.AWSRequest("GET", f"{NAMED}/records/{question}")
    return botocore.httpsession.URLLib3Session().send(request.prepare()).text


async def aiohttp_named(question: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{NAMED}/records/{question}") as response,
    ):
        return await response.text()


async def aiohttp_streamed(question: str) -> str:
    """Read piece by piece, as a streamed answer is."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": question}]}
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers) as response,
    ):
        return b"".join([chunk async for chunk in response.content.iter_any()]).decode()


async def aiohttp_closed_early(question: str) -> str:
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"{TOOLS}/records/{question}")
        response.close()
    return question


def requests_for_another(question: str) -> str:
    """Asks for another request's record: the answer carries its canary."""
    LAST.append(question)
    return requests.get(f"{TOOLS}/records/{LAST[0]}", timeout=10).text


LAST: list[str] = []


ORDER = {"item": "chair"}
KEYS = ({"Idempotency-Key": "order-4711"}, {"idempotency-key": "order-4711"})
OTHER = {"Idempotency-Key": "order-4712"}


def writes_httpx(question: str) -> str:
    with httpx.Client() as client:
        for headers in (*KEYS, OTHER, {}):
            client.post(f"{TOOLS}/writes", json=ORDER, headers=headers).raise_for_status()
    return "written"


def writes_requests(question: str) -> str:
    for headers in (*KEYS, OTHER, {}):
        requests.post(f"{TOOLS}/writes", json=ORDER, headers=headers, timeout=5).raise_for_status()
    return "written"


async def writes_aiohttp(question: str) -> str:
    async with aiohttp.ClientSession() as session:
        for headers in (*KEYS, list(OTHER.items()), None):
            async with session.post(f"{TOOLS}/writes", json=ORDER, headers=headers) as answer:
                answer.raise_for_status()
    return "written"
