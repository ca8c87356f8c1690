"""Handlers whose own code asks a service for many things at once, by each library."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import requests

MANY = 6


def _url(number: int) -> str:
    return f"{os.environ['TOOLS_URL']}/records/sku{number}"


def by_requests(inputs: dict) -> str:
    with ThreadPoolExecutor(MANY) as pool:
        got = pool.map(lambda n: requests.get(_url(n), timeout=0.6).status_code, range(MANY))
        return str(list(got))


async def by_httpx(inputs: dict) -> str:
    async with httpx.AsyncClient(timeout=0.6) as client:
        got = await asyncio.gather(*(client.get(_url(n)) for n in range(MANY)))
        return str([each.status_code for each in got])


async def by_aiohttp(inputs: dict) -> str:
    async with aiohttp.ClientSession() as session:

        async def get(number: int) -> int:
            async with session.get(_url(number)) as answer:
                return answer.status

        return str(await asyncio.gather(*map(get, range(MANY))))
