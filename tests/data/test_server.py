"""The client against a real server on this machine that refuses, delays, drops and talks nonsense."""

import email.utils
import itertools
import json
import logging

import pytest

from data.document import Turn
from data.generator import Completion, Prompt, Sampling, ServerConfig
from data.journal import digest, journaled
from data.rate import Bucket, backoff, retry_after
from data.server import Server
from tests.data.completion_server import CompletionServer, reply, serving

KEY = "sk-not-to-be-seen-0123456789"


def text(id: str, content: str, **settings) -> Prompt:
    return Prompt(id, (Turn("text", content),), **settings)


def asked(server: CompletionServer, **settings) -> Server:
    settings = {"base_url": server.url, "model": "m", "backoff_s": 0.001, "attempts": 4} | settings
    return Server(ServerConfig(**settings))


PROMPTS = [text(str(i), f"prompt {i}") for i in range(20)]
WANTED = {str(i): f"prompt {i}"[::-1] for i in range(20)}


def texts(completions) -> dict[str, str]:
    return {completion.id: completion.text for completion in completions}


def test_texts_are_continued_many_at_once():
    with serving(CompletionServer(delay_s=0.05)) as there:
        server = asked(there, concurrency=8)
        completions = list(server.generate(PROMPTS))
    assert texts(completions) == WANTED
    assert {c.finish for c in completions} == {"stop"}
    assert 2 < there.most_at_once <= 8
    assert server.usage.requests == 20
    assert (server.usage.prompt_tokens, server.usage.tokens) == (200, 100)


def test_the_sampling_goes_into_the_body():
    sampling = Sampling(0.7, 5, 0.9, 0.1, 1.2, 33, ("</s>", "END"), 4)
    with serving(CompletionServer()) as there:
        server = asked(there, extra={"user": "me", "seed": None})
        list(server.generate([text("a", "x", sampling=sampling), text("b", "y")]))
    first, second = sorted(there.bodies(), key=lambda body: body["prompt"])
    assert first == {
        "model": "m", "prompt": "x", "max_tokens": 33, "temperature": 0.7, "top_p": 0.9,
        "stop": ["</s>", "END"], "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "user": "me",
    }  # fmt: skip
    assert second.keys() == {"model", "prompt", "max_tokens", "temperature", "top_p", "user"}


def test_conversations_go_to_the_chat_endpoint():
    turns = Turn("system", "Be brief."), Turn("user", "abc")
    with serving(CompletionServer()) as there:
        server = asked(there, endpoint="chat")
        done = list(server.generate([Prompt("a", turns), text("b", "xyz")]))
        with pytest.raises(ValueError, match="endpoint: chat"):
            list(asked(there).generate([Prompt("a", turns)]))
        with pytest.raises(ValueError, match="endpoint: completions"):
            list(server.generate([text("c", "<s> x", literal_special=True)]))
    assert texts(done) == {"a": "cba", "b": "zyx"}
    assert {path for _, path, _, _ in there.requests} == {"/v1/chat/completions"}
    messages = sorted((body["messages"] for body in there.bodies()), key=len)
    assert messages[0] == [{"role": "user", "content": "xyz"}]
    assert messages[1][0] == {"role": "system", "content": "Be brief."}


def test_a_literal_bos_is_left_to_the_server_once():
    prompts = [text("a", "<s> x</s><s> y", literal_special=True), text("b", "<s> z")]
    with serving(CompletionServer()) as there:
        list(asked(there).generate(prompts))
        list(asked(there, bos=None).generate(prompts[:1]))
    assert sorted(body["prompt"] for body in there.bodies()) == [
        " x</s><s> y", "<s> x</s><s> y", "<s> z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fault", [(429, {}, "slow down"), (500, {}, "oh"), (503, {}, ""), "drop", "junk", "odd"]
)
def test_what_fails_for_a_while_is_asked_again(fault):
    """The first try of every prompt fails."""
    seen = set()

    def behave(number, body):
        first = body["prompt"] not in seen
        seen.add(body["prompt"])
        return fault if first else None

    with serving(CompletionServer(behave)) as there:
        server = asked(there)
        assert texts(server.generate(PROMPTS)) == WANTED
    assert server.usage.retries >= 20  # a busy machine may drop a connection of its own
    assert server.usage.failed == 0
    assert len(there.requests) >= 40


def test_an_answer_that_does_not_come_is_asked_for_again():
    with serving(CompletionServer()) as there:
        there.behave = lambda number, body: __import__("time").sleep(1.0) if number == 0 else None
        server = asked(there, timeout_s=0.4)
        assert texts(server.generate(PROMPTS[:1])) == {"0": WANTED["0"]}
    assert server.usage.retries >= 1


def test_what_always_fails_fails_alone():
    def behave(number, body):
        if body["prompt"] == "prompt 3":
            return (500, {}, "broken")
        return (400, {}, "too long") if body["prompt"] == "prompt 4" else None

    with serving(CompletionServer(behave)) as there:
        server = asked(there)
        done = {c.id: c for c in server.generate(PROMPTS)}
    assert len(done) == 20
    assert done["3"] == Completion("3", "", "error", error="500: broken")
    assert done["4"] == Completion("4", "", "error", error="400: too long")
    tries = [body["prompt"] for body in there.bodies()]
    assert tries.count("prompt 3") == 4  # `attempts`
    assert tries.count("prompt 4") == 1  # it would be refused again
    assert server.usage.failed == 2


def test_retry_after_holds_for_all_requests():
    def behave(number, body):
        return (429, {"Retry-After": "0.4"}, "later") if number == 0 else None

    with serving(CompletionServer(behave)) as there:
        assert texts(asked(there, concurrency=1).generate(PROMPTS[:3])) == texts(
            Completion(str(i), WANTED[str(i)], "stop") for i in range(3)
        )
    times = [at for at, *_ in there.requests]
    assert times[1] - times[0] >= 0.4  # the backoff alone would be a millisecond


def test_retry_after_is_read_in_both_forms():
    assert retry_after({"retry-after": "7"}, 0) == 7
    assert retry_after({"retry-after": email.utils.formatdate(1100, usegmt=True)}, 1000) == 100
    assert retry_after({"retry-after": "soon"}, 0) is None
    assert retry_after({}, 0) is None


def test_waits_grow_and_are_drawn():
    waits = [[backoff(1.0, attempt) for _ in range(50)] for attempt in range(10)]
    for attempt, drawn in enumerate(waits):
        most = min(60.0, 2.0**attempt)
        assert all(most / 2 <= wait <= most for wait in drawn)
        assert len(set(drawn)) > 40


def test_a_rate_is_kept():
    """60 a minute: one at once, then one a second; what is given back may be taken."""
    now = [0.0]
    bucket = Bucket(60, clock=lambda: now[0])
    waits = []
    for _ in range(5):
        wait = bucket.take(1)
        now[0] += wait
        waits.append(wait)
    assert waits == pytest.approx([0, 1, 1, 1, 1])
    bucket.give_back(1)
    assert bucket.take(1) == pytest.approx(0)
    now[0] += 100  # no more than a second's worth is saved up
    assert [bucket.take(1), bucket.take(1)] == pytest.approx([0, 1])
    assert Bucket(None).take(1e9) == 0


def test_requests_are_sent_no_faster_than_the_limit():
    with serving(CompletionServer()) as there:
        list(asked(there, requests_per_minute=60 * 10).generate(PROMPTS))
    times = [at for at, *_ in there.requests]
    assert times[-1] - times[0] >= 0.9  # ten at once, ten more in a second


def test_tokens_and_cost_are_counted_and_the_cost_is_held():
    """10 tokens read at $1 and 5 written at $4 per million."""
    with serving(CompletionServer()) as there:
        server = asked(there, price_in=1.0, price_out=4.0, concurrency=1, max_cost=1e-4)
        done = []
        with pytest.raises(ValueError, match=r"max_cost: \$0.0001 is spent"):
            done.extend(server.generate(PROMPTS))
    assert server.usage.cost == pytest.approx(4 * 30e-6)  # the first four reach it
    assert len(there.requests) == 4
    assert server.facts()["tokens"] == 20


def test_answers_without_usage_are_told():
    def behave(number, body):
        return (200, {}, json.dumps(reply("", body) | {"usage": None}))

    with serving(CompletionServer(behave)) as there:
        server = asked(there)
        assert texts(server.generate(PROMPTS)) == WANTED
    assert server.usage.uncounted == 20


def test_a_filtered_answer_is_an_error():
    def behave(number, body):
        choice = {"text": "", "finish_reason": "content_filter"}
        return (200, {}, json.dumps({"choices": [choice]}))

    with serving(CompletionServer(behave)) as there:
        (done,) = asked(there).generate(PROMPTS[:1])
    assert done.finish == "error"
    assert "content_filter" in done.error


def test_an_endless_iterator_is_taken_from_as_needed():
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield text(str(i), "x")

    with serving(CompletionServer()) as there:
        completions = asked(there, concurrency=4).generate(endless())
        assert len(list(itertools.islice(completions, 10))) == 10
        completions.close()
    assert len(taken) < 20


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_all_ends_the_job(status):
    with (
        serving(CompletionServer(lambda n, body: (status, {}, "no"))) as there,
        pytest.raises(ValueError, match=f"refuses: {status}"),
    ):
        list(asked(there).generate(PROMPTS))
    assert len(there.requests) <= 20


def test_the_key_is_sent_and_never_shown(monkeypatch, caplog, capfd):
    """The server quotes it in every error it can; logs, output, errors and records stay clean."""
    monkeypatch.setenv("TEST_KEY", KEY)
    answers = iter([(500, {}, f"bad key {KEY}"), "junk", (400, {}, f"key {KEY} used"), None])

    caplog.set_level(logging.DEBUG)
    with serving(CompletionServer(lambda n, body: next(answers))) as there:
        server = asked(there, api_key_env="TEST_KEY", concurrency=1)
        done = list(server.generate(PROMPTS[:2]))
        there.behave = lambda n, body: (401, {}, f"Incorrect API key provided: {KEY}")
        with pytest.raises(ValueError, match="TEST_KEY") as refused:
            list(server.generate(PROMPTS))
    assert {headers["Authorization"] for *_, headers in there.requests} == {f"Bearer {KEY}"}
    out, err = capfd.readouterr()
    shown = [out, err, caplog.text, str(refused.value), repr(refused.value), repr(server)]
    shown += [repr(done), repr(server.config), json.dumps(server.facts()), str(server.usage)]
    assert "***" in done[0].error
    assert not any(KEY in item for item in shown)


def test_a_key_that_is_missing_is_named(monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(ValueError, match="TEST_KEY is not set"):
        Server(ServerConfig(model="m", api_key_env="TEST_KEY"))


def test_a_url_with_a_key_in_it_is_refused_without_showing_it():
    for url in (f"https://{KEY}@host/v1", f"https://host/v1?key={KEY}"):
        with pytest.raises(ValueError, match="api_key_env") as error:
            ServerConfig(base_url=url)
        assert KEY not in str(error.value)


# --- the journal ----------------------------------------------------------------------------------


def reversing(log: list[str], fail: str = "", die_after: int | None = None):
    def generate(prompts):
        for count, prompt in enumerate(prompts):
            if count == die_after:
                raise RuntimeError("killed")
            log.append(prompt.id)
            content = prompt.turns[0].text
            if content == fail:
                yield Completion(prompt.id, "", "error", error="no")
            else:
                yield Completion(prompt.id, content[::-1], "stop", 3, 2, (-0.5,))

    return generate


def test_what_was_finished_is_not_asked_again(tmp_path):
    place = str(tmp_path / "part-3")
    log: list[str] = []
    with pytest.raises(RuntimeError):
        list(journaled(reversing(log, die_after=12), place, every=5)(PROMPTS))
    assert len(log) == 12
    again: list[str] = []
    done = list(journaled(reversing(again), place, every=5)(PROMPTS))
    assert texts(done) == WANTED
    assert len(done) == 20
    assert sorted(map(int, again)) == list(range(12, 20))
    assert {c.logprobs for c in done} == {(-0.5,)}
    nothing = list(journaled(reversing([], die_after=0), place)(PROMPTS))
    assert texts(nothing) == WANTED  # the model is not asked at all


def test_the_journal_knows_a_prompt_by_what_it_says(tmp_path):
    """Another id is the same prompt; another seed, text, model or marking is not."""
    place = str(tmp_path / "j")
    log: list[str] = []
    list(journaled(reversing(log), place, key="m")([text("a", "x")]))
    list(journaled(reversing(log), place, key="m")([text("b", "x")]))
    assert log == ["a"]
    others = [
        text("c", "y"),
        text("d", "x", sampling=Sampling(seed=1)),
        text("e", "x", literal_special=True),
    ]
    list(journaled(reversing(log), place, key="m")(others))
    list(journaled(reversing(log), place, key="other")([text("f", "x")]))
    assert log == ["a", "c", "d", "e", "f"]
    assert len({digest(prompt) for prompt in others}) == 3


def test_a_failure_is_asked_again(tmp_path):
    place, log = str(tmp_path / "j"), []
    first = list(journaled(reversing(log, fail="prompt 1"), place)(PROMPTS[:3]))
    assert [c.finish for c in sorted(first, key=lambda c: c.id)] == ["stop", "error", "stop"]
    second = list(journaled(reversing(log), place)(PROMPTS[:3]))
    assert texts(second) == {str(i): WANTED[str(i)] for i in range(3)}
    assert log == ["0", "1", "2", "1"]


def test_little_is_lost_when_answers_are_slow(tmp_path):
    """Whatever the count, a file is written after some seconds."""
    now = [0.0]

    def slow(prompts):
        for prompt in prompts:
            now[0] += 11
            yield Completion(prompt.id, "x", "stop")

    run = journaled(slow, str(tmp_path / "j"), seconds=20, clock=lambda: now[0])(PROMPTS)
    list(itertools.islice(run, 5))
    assert len(list(tmp_path.glob("j-journal-*"))) == 2
    run.close()
    assert len(list(tmp_path.glob("j-journal-*"))) == 3


def test_a_server_with_a_journal_goes_on(tmp_path):
    with serving(CompletionServer()) as there:
        config = ServerConfig(base_url=there.url, model="m", concurrency=1)
        place = str(tmp_path / "server")
        first = Server(config, journal=place).generate(PROMPTS)
        assert len(list(itertools.islice(first, 7))) == 7
        first.close()
        assert len(there.requests) == 7
        assert texts(Server(config, journal=place).generate(PROMPTS)) == WANTED
        assert len(there.requests) == 20
