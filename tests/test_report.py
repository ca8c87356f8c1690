"""The incident report: complete, self-contained, and without a secret."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
import samples
from markdown_it import MarkdownIt

from playbook import report
from playbook.model import (
    Fault,
    Finding,
    Level,
    Link,
    Outcome,
    Record,
    Suspect,
    Sweep,
    Verdict,
)

SECRETS = (
    "sk-proj-Abcdefghijklmnopqrstuvwx1234567890",
    "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl",
    "Cookie: session=8f14e45fceea167a5a36dedd4bea2543",
    "https://user:hunter2hunter2@proxy.internal:8080",
    "OPENAI_API_KEY=sk-live-0123456789abcdefghijklmn",
)
LEAKS = ("Abcdefghijklmnop", "eyJhbGci", "8f14e45f", "hunter2", "0123456789abcdef")


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    monkeypatch.setattr(
        report, "_cause", lambda verdict: samples.CAUSE if verdict and verdict.cause else None
    )


@pytest.fixture
def record(tmp_path) -> Record:
    (tmp_path / "minimal.py").write_text('CREW = build_crew()\n\n\nprint("it fails")\n')
    return replace(samples.RECORD, directory=str(tmp_path))


class Page(HTMLParser):
    """Text, elements and addresses of a page; fails on a tag that is closed wrongly."""

    VOID = frozenset({"meta", "br", "img", "path", "use", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            value or "" for key, value in attrs if key in ("href", "src", "xlink:href", "action")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def __str__(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_html_says_what_the_case_holds(record):
    text = str(Page(report.html(record)))
    for words in (
        "app/crew.py:build_crew",
        "fault shared-mutable-state in the application layer",
        "Requests share objects that they change.",
        "Confidence 97 %. 0 of 20 requests failed at 1 at once, 88 of 100 at 100.",
        "fresh instances per request",
        "13 of 40 failed",
        "0 of 40 failed",
        "p < 0.001",
        "Put back, the failure returned",
        "Request-scoped crews; data through inputs .",
        "Until then serve one request at a time",
        "canary of req-0012 in the prompt of req-0014 [span 5f2c]",
        "Executor is already running. Cannot invoke the same executor",
        "task:summarize + tool:CaseTool + concurrency:10",
        "set LLM(timeout=60)",
        "412 requests, 951 provider calls",
        "crewai 1.15.30",
        "Whether delegation takes part: 12 of 60 failed without it",
        "tls: skipped, plain http",
        "measured 2025-10-09 08:53:20",
    ):
        assert words in text, words
    code = re.sub(r"<[^>]+>", "", report.html(record))
    assert "return CREW.kickoff(data)" in code
    assert "const handler = () =&gt; buildCrew().run();" in code
    assert "print(&quot;it fails&quot;)" in code or 'print("it fails")' in code


def test_html_is_one_file_that_fetches_nothing(record):
    text = report.html(record)
    page = Page(text)
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_gate_is_told_under_the_verdict_and_condition_by_condition(record):
    broken = "failures<1% at 50; no shared state; no worse at 10 than the baseline"
    for text in (str(Page(report.html(record))), report.markdown(record).replace("\\", "")):
        assert f"broken: {broken}" in text
        assert text.index("The gate") < text.index("Proof")
        for words in (
            "✓ holds",
            "at 50, 71 of 100 failed (95 %: 61 % to 80 %)",
            "about 22 more would decide (--requests-per-level 72)",
            "failed 0 of 40 → 13 of 40 is worse",
        ):
            assert words in text, words
    plain = replace(record, gate=None)
    assert "gate" not in str(Page(report.html(plain))).lower()
    assert "gate" not in report.markdown(plain).lower()
    accepted = replace(record, gate=replace(samples.GATE, state="holds", excused=True))
    assert "accepted by the gate, and still there" in str(Page(report.html(accepted)))


def test_the_same_record_gives_the_same_report(record):
    assert report.html(record) == report.html(record)
    assert report.markdown(record) == report.markdown(record)


def test_markdown_says_it_too(record):
    text = report.markdown(record)
    for words in (
        "# Incident report: app/crew.py:build_crew",
        "**fault**: `shared-mutable-state` in the application layer, confidence 97 %",
        "13 of 40 requests failed before, 0 of 40 without it, p < 0.001",
        "Put back, the failure **returned**",
        "| 10 | 13 of 40 | 32 % (20–48) | executor-busy 8<br>crossed 5 |",
        'CREW = build_crew()\n\n\nprint("it fails")',  # blank lines of code are kept
        "- Whether delegation takes part: 12 of 60 failed without it",
    ):
        assert words in text, words
    assert "\n\n\n" not in re.sub(r"```.*?```", "code", text, flags=re.DOTALL)
    for line in text.splitlines():
        if line.startswith("| ") and "---" not in line:
            assert line.endswith(" |"), line


def poisoned(words: str, folder) -> Record:
    """A record that carries `words` in every field that a target can write to."""
    fault = Fault("unknown", "application", words, chain=(Link(words, words),))
    outcome = Outcome(words, words, False, samples.T0, samples.T0 + 1, fault, words, (), (words,))
    (folder / "minimal.py").write_text(f"print({words!r})\n", errors="replace")
    spans = [
        replace(span, request=words, name=words, attributes={words: words}, fault=words)
        for span in samples.spans_of(samples.OUTCOMES[5])
    ]
    level = replace(samples.SWEEP.levels[1], faults={words: 3})
    verdict = replace(
        samples.VERDICT,
        target=words,
        note=words,
        ranked=(Suspect("tool-slow", "tool", 0.5, (Finding(words, words),)),),
        proof=replace(samples.VERDICT.proof, intervention=words),
        versions={"crewai": words, words: "1"},
        reduction=replace(samples.REDUCTION, components=(words,)),
    )
    settings = [
        replace(item, what=words, value=words, place=words, advice=words)
        for item in samples.AUDIT.settings
    ]
    return Record(
        target=words,
        directory=str(folder),
        audit=replace(samples.AUDIT, settings=tuple(settings)),
        sweep=Sweep((level,)),
        seen=replace(
            samples.SEEN,
            orphans=(replace(samples.SEEN.orphans[0], kind=words, name=words),),
            parts=tuple(replace(part, name=words) for part in samples.SEEN.parts),
        ),
        ladder=replace(
            samples.LADDER,
            rungs=tuple(replace(rung, name=words, detail=words) for rung in samples.LADDER.rungs),
        ),
        reduction=replace(
            samples.REDUCTION,
            components=(words,),
            removed=(words,),
            trials=tuple(replace(trial, component=words) for trial in samples.REDUCTION.trials),
        ),
        reintroduction=replace(
            samples.REINTRODUCTION,
            trials=tuple(
                replace(trial, component=words) for trial in samples.REINTRODUCTION.trials
            ),
        ),
        verdict=verdict,
        comparison=replace(samples.COMPARISON, note=words),
        gate=replace(
            samples.GATE,
            checks=tuple(
                replace(check, condition=words, told=words) for check in samples.GATE.checks
            ),
        ),
        outcomes=(outcome,),
        spans=tuple(spans),
    )


def test_poison_reaches_every_part_of_a_record(tmp_path):
    record = poisoned("x", tmp_path)
    assert all(getattr(record, field.name) for field in fields(Record))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", ["the call failed: ", "y" * 380 + " "])
def test_no_secret_in_a_report(secret, before, tmp_path):
    record = poisoned(f"{before}{secret} was refused", tmp_path)
    for text in (report.html(record), report.markdown(record)):
        for leak in LEAKS:
            assert leak not in text, text[max(0, text.index(leak) - 200) :][:300]


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style></svg><script>alert(1)</script>",
        "$\\frac{$ `tick` | pipe\n# not a heading\n```\nnot a fence",
        "[click](javascript:alert(1))",
        "{{ 7 * 7 }} {% raw %}",
        "\x1b[31mred \ud800 \u202e",
    ],
)
def test_what_a_target_wrote_is_only_text(evil, tmp_path):
    record = poisoned(evil, tmp_path)
    text = report.html(record)
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "a" not in page.tags
    assert "49" not in re.findall(r"\b49\b", str(page))
    marked = report.markdown(record)
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(marked)
    tags = re.sub(r"<br>", "", rendered)
    assert not {"script", "img", "a", "style"} & set(Page(tags).tags)
    assert rendered.count("<h1>") == 1
    text.encode(), marked.encode()


def test_a_case_that_has_hardly_begun_is_reported_too(tmp_path):
    empty = Record(target="app.py:crew", directory=str(tmp_path))
    text = str(Page(report.html(empty)))
    assert "No verdict was reached" in text
    assert "no sweep was run" in text
    assert "No verdict was reached" in report.markdown(empty)


@pytest.mark.parametrize("outcome", ["healthy", "inconclusive", "degraded", "fault"])
def test_a_verdict_without_a_cause(outcome, tmp_path):
    sweep = Sweep((Level(1, 10, 0, 0.0, 0.28, 0.4, 0.6, 2.0, 1),))
    record = Record(
        target="app.py:crew",
        directory=str(tmp_path),
        sweep=sweep,
        verdict=Verdict(outcome, "app.py:crew", sweep=sweep, note="about 80 more requests"),
    )
    text = str(Page(report.html(record)))
    assert outcome in text
    assert "0 of 10 requests failed at 1 at once." in text
    assert "about 80 more requests" in text
    assert "Proof" not in text
    assert outcome in report.markdown(record)


def test_without_an_intervention_it_says_so(record):
    record = replace(record, verdict=replace(record.verdict, proof=None))
    for text in (str(Page(report.html(record))), report.markdown(record)):
        assert "No intervention has proven it" in text
        assert "Whether the failure goes with the cause" in text


def test_a_failure_that_did_not_return_is_not_called_proven(record):
    proof = replace(record.verdict.proof, returned=False)
    record = replace(record, verdict=replace(record.verdict, proof=proof))
    assert "the failure did not return" in str(Page(report.html(record)))
    assert "**did not return**" in report.markdown(record)


def test_calls_of_nobody_are_counted_not_guessed(record):
    orphan = replace(record.spans[0], request="")
    text = report.markdown(replace(record, spans=(*record.spans, orphan)))
    assert f"Which request 1 of {len(record.spans) + 1} recorded calls belong to." in text


def test_many_different_messages_are_counted(record):
    outcomes = [
        replace(samples.OUTCOMES[0], ok=False, fault=Fault("unknown", "tool", "message " + "x" * i))
        for i in range(50)
    ]
    text = report.markdown(replace(record, outcomes=tuple(outcomes)))
    assert "| 30 | others | – | 30 more messages |" in text


def test_write_goes_by_the_suffix(record, tmp_path):
    page = report.write(record, tmp_path / "new folder" / "incident.HTML")
    assert page.read_text(encoding="utf-8") == report.html(record)
    note = report.write(record, str(tmp_path / "incident.md"))
    assert note.read_text(encoding="utf-8") == report.markdown(record)
    with pytest.raises(
        ValueError, match=r"^a report is written to \.html or \.md, not to 'a\.pdf'$"
    ):
        report.write(record, tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()


def test_the_script_is_found_wherever_it_was_written(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = replace(record, directory="no such folder")
    assert "it fails" in report.markdown(elsewhere)
    gone = replace(record, reduction=replace(record.reduction, script="gone.py"))
    assert (
        "minimal script ("
        not in report.markdown(gone).lower().split("## settings")[0].split("decision")[-1]
    )


def test_what_an_experiment_has_ruled_out_stands_before_the_common_advice(record):
    from playbook.diagnose.trying import NO_OBJECT

    plain = record.verdict.ranked[0]
    tried = replace(plain, evidence=(*plain.evidence, NO_OBJECT))
    known = replace(record, verdict=replace(record.verdict, ranked=(tried,)))
    for make in (report.markdown, report.html):
        told, usual = make(known), make(record)
        assert told.index("With fresh instances each request had its own crew") < told.index(
            "Request-scoped"
        )
        assert "With fresh instances each request had its own crew" not in usual
