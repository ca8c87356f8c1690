"""Another provider in the place of the target's own: where a call goes, and what stays behind."""

from __future__ import annotations

import httpx
import pytest

from playbook import lab, stand_in

SECRETS = {"authorization": "Bearer sk-1", "x-api-key": "sk-2", "api-key": "sk-3", "cookie": "sk-4"}


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/gateway/team-a/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/responses", "/v1/responses"),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/embeddings", "/v1/embeddings"),
        (
            "/proxy/openai/deployments/small/chat/completions",
            "/openai/deployments/small/chat/completions",
        ),
        ("/x/v1beta/models/gemini-2:generateContent", "/v1beta/models/gemini-2:generateContent"),
        ("/v1/charges", ""),
        ("/model/anthropic.claude/invoke", ""),
    ],
)
def test_a_models_path_ends_where_the_lab_answers_it(asked: str, answered: str) -> None:
    assert stand_in.path(asked) == answered


def test_a_call_is_answered_elsewhere_without_its_keys() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Say ok."}]}
    seen: list[httpx.Request] = []
    with lab.start() as world, httpx.Client(event_hooks={"request": [seen.append]}) as client:
        url = "https://api.example.com/v1/chat/completions?key=sk-5&version=2"
        request = client.build_request("POST", url, json=body, headers=SECRETS)
        stand_in.move(request, world.url)
        answer = client.send(request)
        calls = world.stats()["calls"]
    assert answer.json()["choices"]
    assert calls == 1
    sent = f"{seen[0].url} {dict(seen[0].headers)}"
    assert "sk-" not in sent
    assert "example.com" not in sent
    assert seen[0].headers["content-length"] == str(len(request.content))


def test_what_no_provider_of_ours_answers_stays_where_it_is() -> None:
    request = httpx.Request("POST", "https://api.example.com/v1/charges", headers=SECRETS)
    stand_in.move(request, "http://127.0.0.1:9")
    assert request.url.host == "api.example.com"
    assert request.headers["authorization"] == SECRETS["authorization"]
