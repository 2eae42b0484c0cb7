"""The judge: how replies are read and added up, against a server that behaves as it is told."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.generator import Completion, Sampling
from evaluation import judge as judging
from evaluation.judge import JudgeConfig, main, read_verdict
from evaluation.judge_answers import make_answers, read_questions
from evaluation.judge_figures import figures, outcome_of
from tests.data.completion_server import CompletionServer, serving

WORDING = yaml.safe_load(judging.WORDING.read_text())
BETTER = {1: "Verdict: Assistant 1 is better", 2: "Verdict: Assistant 2 is better"}
EQUAL = "Verdict: both are equal"


# --- reading a verdict ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("They differ.\n" + BETTER[1], "first"),
        ("They differ.\n" + BETTER[2], "second"),
        ("No difference.\n" + EQUAL, "equal"),
        ("**Verdict: Assistant 1 is better**", "first"),
        ("Verdict: **Assistant 2** is better.", "second"),
        ("VERDICT - assistant 2 is clearly better", "second"),
        ("Verdict: Assistant 2 is worse", "first"),
        ("Verdict: Assistant 1 is the weaker", "second"),
        ("Verdict: Assistant 2", "second"),
        ("Verdict: Both assistants are equally good", "equal"),
        ("Verdict: tie", "equal"),
        # The last match counts.
        (BETTER[1] + "\nOn second thoughts:\n" + BETTER[2], "second"),
        (BETTER[2] + "\n" + EQUAL, "equal"),
        # What is said on the way is no verdict.
        ("Assistant 1 is better at dosage, Assistant 2 is better at tone.", None),
        ("Verdict: Assistant 1 is not better", None),
        ("Verdict: Assistant 3 is better", None),
        ("", None),
    ],
)
def test_a_verdict_is_read(reply, verdict):
    assert read_verdict(reply, WORDING) == verdict


def test_the_lines_that_are_asked_for_can_be_read():
    asked_for = [line for line in WORDING["closing"].splitlines() if line.startswith("Verdict")]
    assert [read_verdict(line, WORDING) for line in asked_for] == ["first", "second", "equal"]


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (("first", "first"), "win"),
        (("first", "equal"), "win"),
        (("equal", "equal"), "tie"),
        (("first", "second"), "tie"),
        (("second", "equal"), "loss"),
        (("second", "second"), "loss"),
        # Presuming that both were read, as the published evaluator did, would crash or count these.
        (("first", None), "unparsed"),
        ((None, "second"), "unparsed"),
        ((None, None), "unparsed"),
    ],
)
def test_both_verdicts_are_added_up(verdicts, outcome):
    assert outcome_of(verdicts) == outcome


def test_intervals_are_those_of_a_bootstrap_over_pairs():
    outcomes = ["win"] * 30 + ["tie"] * 10 + ["loss"] * 20 + ["unparsed"] * 5
    found = figures([("", o) for o in outcomes], draws=4000)
    assert (found.pairs, found.unparsed) == (65, 5)
    assert [found.win.count, found.tie.count, found.loss.count] == [30, 10, 20]
    assert found.win.share == pytest.approx(30 / 60)
    assert found.score.share == pytest.approx(35 / 60)
    low, high = found.win.interval
    half = 1.96 * np.sqrt(0.5 * 0.5 / 60)  # of a share of one half
    assert low == pytest.approx(0.5 - half, abs=0.03)
    assert high == pytest.approx(0.5 + half, abs=0.03)
    assert found.win.share + found.tie.share + found.loss.share == pytest.approx(1)


def test_groups_are_counted_apart():
    found = figures([("a", "win"), ("a", "win"), ("b", "loss"), ("b", "unparsed")])
    assert found.groups["a"].win.share == 1
    assert (found.groups["b"].loss.count, found.groups["b"].unparsed) == (1, 1)


# --- the command ----------------------------------------------------------------------------------


def replies(text: Callable[[str], str]) -> Callable[[int, dict[str, Any]], Any]:
    """A server whose judge says what `text` makes of the prompt."""

    def behave(number: int, body: dict[str, Any]) -> Any:
        said = text(body["messages"][-1]["content"])
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return 200, {}, json.dumps({"choices": [choice], "usage": usage})

    return behave


def likes_longer(prompt: str) -> str:
    """A judge for whom the longer answer is the better one."""
    sides = [re.search(rf"\[ASSISTANT {n}]\n(.*?)\n\[END", prompt, re.S) for n in (1, 2)]
    lengths = [len(side[1]) for side in sides if side]
    said = EQUAL if lengths[0] == lengths[1] else BETTER[1 if lengths[0] > lengths[1] else 2]
    return f"I have counted.\n{said}"


class Case:
    """Files for one comparison, and the command."""

    def __init__(self, tmp_path: Path, server: CompletionServer, **judge: Any):
        self.path, self.server = tmp_path, server
        settings = {"base_url": server.url, "model": "judge", "backoff_s": 0.01, "attempts": 2}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(settings | judge))

    def rows(self, name: str, rows: list[dict[str, Any]]) -> str:
        path = self.path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def answers(self, prompts: list[dict[str, Any]], first: list[Any], second: list[Any]) -> None:
        def row(i: int, said: Any) -> dict[str, Any]:
            return {"id": i, "text" if isinstance(said, str) else "texts": said}

        self.rows("prompts", [{"id": i} | prompt for i, prompt in enumerate(prompts)])
        self.rows("first", [row(i, said) for i, said in enumerate(first)])
        self.rows("second", [row(i, said) for i, said in enumerate(second)])

    def run(self, *words: str) -> dict[str, Any]:
        files = {n: str(self.path / f"{n}.jsonl") for n in ("prompts", "first", "second")}
        flags = [f"--{name}={file}" for name, file in files.items()]
        out = self.path / "out"
        main([f"--judge={self.path / 'judge.yaml'}", *flags, f"--out={out}", *words])
        return json.loads((out / "result.json").read_text())

    def verdicts(self) -> list[dict[str, Any]]:
        lines = (self.path / "out" / "verdicts.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def server():
    with serving(CompletionServer(replies(likes_longer))) as server:
        yield server


def test_wins_ties_and_losses(tmp_path, server, capsys):
    case = Case(tmp_path, server, price_in=10.0, price_out=30.0)
    prompts = [{"prompt": f"Question {i}?", "group": "ab"[i % 2]} for i in range(4)]
    case.answers(prompts, ["long answer", "mid", "xx", "same"], ["short", "a longer one", "yy", "same"])  # fmt: skip
    result = case.run("--names", "adapted", "base")
    assert [v["outcome"] for v in case.verdicts()] == ["win", "loss", "tie", "tie"]
    assert (result["win"]["count"], result["tie"]["count"], result["loss"]["count"]) == (1, 2, 1)
    assert result["identical"] == 1  # nobody was asked about the same answer twice
    assert len(server.requests) == 2 * 3
    assert result["usage"]["cost"] == pytest.approx(6 * (100 * 10 + 20 * 30) / 1e6)
    assert set(result["groups"]) == {"a", "b"}
    shown = capsys.readouterr().out
    assert "adapted against base: 4 pairs" in shown
    assert "both orders agree on 3 of 3 pairs" in shown


def test_both_orders_are_shown(tmp_path, server):
    case = Case(tmp_path, server)
    case.answers([{"prompt": "Why?"}], ["because of A"], ["because of B"])
    case.run("--criteria", "medical")
    prompts = sorted(body["messages"][-1]["content"] for body in server.bodies())
    assert prompts[0].index("of A") < prompts[0].index("of B")
    assert prompts[1].index("of B") < prompts[1].index("of A")
    assert all("symptoms" in prompt and "{" not in prompt for prompt in prompts)
    # All but the two answers is the same for both.
    assert prompts[0].replace("of A", "of B") == prompts[1].replace("of A", "of B")


def test_a_judge_that_likes_the_first_place_gives_ties(tmp_path, server):
    server.behave = replies(lambda prompt: BETTER[1])
    case = Case(tmp_path, server)
    case.answers([{"prompt": "Why?"}] * 5, ["good"] * 5, ["bad"] * 5)
    result = case.run()
    assert result["tie"]["count"] == 5
    assert (result["both_orders_agree"], result["verdicts_for_place_one"]) == (0, 10)


def test_an_unread_verdict_is_asked_for_again_and_then_counted_apart(tmp_path, server):
    """The second pair's first order never gets a verdict; the third one's comes with the third ask."""
    asked: dict[str, int] = {}

    def text(prompt: str) -> str:
        asked[prompt] = asked.get(prompt, 0) + 1
        if "never" in prompt:
            return BETTER[1] if prompt.index("never") > prompt.index("[ASSISTANT 2]") else "Hm."
        if "late" in prompt and asked[prompt] < 3:
            return "I cannot decide."
        return likes_longer(prompt)

    server.behave = replies(text)
    case = Case(tmp_path, server, asks=3, retry_temperature=0.5)
    case.answers([{"prompt": "Why?"}] * 3, ["a longer one", "never", "late but long"], ["b", "c", "d"])  # fmt: skip
    result = case.run()
    assert [v["outcome"] for v in case.verdicts()] == ["win", "unparsed", "win"]
    assert (result["unparsed"], result["win"]["count"], result["win"]["share"]) == (1, 2, 1.0)
    assert case.verdicts()[2]["asks"] == [3, 3]
    again = [b for b in server.bodies() if "late" in b["messages"][-1]["content"]]
    assert sorted({(b["temperature"], b["seed"]) for b in again}) == [(0.0, 0), (0.5, 1), (0.5, 2)]


def test_a_judge_that_times_out_loses_nothing(tmp_path, server, capsys):
    """Verdicts that were given are kept; the same command asks for the others alone."""
    given: list[str] = []

    def behave(number: int, body: dict[str, Any]) -> Any:
        if len(given) >= 5:
            return "drop"
        given.append(body["messages"][-1]["content"])
        return replies(likes_longer)(number, body)

    server.behave = behave
    case = Case(tmp_path, server, concurrency=1)
    case.answers([{"prompt": f"Why {i}?"} for i in range(4)], ["longer"] * 4, ["short"] * 4)
    with pytest.raises(SystemExit) as stop:
        case.run()
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert "3 of 8 verdicts were not given" in told
    assert "the 5 others are kept" in told
    assert "the same command goes on" in told
    assert not (tmp_path / "out" / "result.json").exists()
    before = len(server.requests)
    server.behave = replies(likes_longer)
    assert case.run()["win"]["count"] == 4
    asked = [body["messages"][-1]["content"] for body in server.bodies()[before:]]
    assert len(asked) == 3
    assert not set(asked) & set(given)


def test_a_time_out_is_one_too(tmp_path, server, capsys):
    server.delay_s = 0.5
    case = Case(tmp_path, server, timeout_s=0.05, attempts=1)
    case.answers([{"prompt": "Why?"}], ["longer"], ["short"])
    with pytest.raises(SystemExit):
        case.run()
    assert "ReadTimeout" in capsys.readouterr().err
    server.delay_s = 0.0
    Case(tmp_path, server)
    assert case.run()["win"]["count"] == 1


def test_a_prompt_that_the_judge_cannot_take_may_be_counted_apart(tmp_path, server, capsys):
    def behave(number: int, body: dict[str, Any]) -> Any:
        if "endless" in body["messages"][-1]["content"]:
            return 400, {}, "too long"
        return replies(likes_longer)(number, body)

    server.behave = behave
    case = Case(tmp_path, server)
    case.answers([{"prompt": "Why?"}] * 2, ["longer", "endless"], ["short"] * 2)
    with pytest.raises(SystemExit):
        case.run()
    assert "400: too long" in capsys.readouterr().err
    result = case.run("--accept_missing")
    assert (result["unparsed"], result["missing"], result["win"]["count"]) == (1, 2, 1)


def test_conversations(tmp_path, server):
    case = Case(tmp_path, server)
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "I cough."}]
    talk += [{"role": "assistant", "content": "Since when?"}, {"role": "user", "content": "Monday."}]  # fmt: skip
    prompts = [{"messages": talk}, {"turns": ["What is it?", "And its dose?"]}]
    case.answers(prompts, ["rest now", ["a pill", "two daily"]], ["drink", ["a cream", "twice"]])
    server.behave = replies(lambda prompt: BETTER[2 if "drink" in prompt[-900:] else 1])
    case.run()
    shown = [body["messages"][-1]["content"] for body in server.bodies()]
    reply = next(prompt for prompt in shown if "I cough" in prompt)
    order = ["Instructions: Be brief.", "Person: I cough.", "Assistant: Since when?", "Person: Monday."]  # fmt: skip
    assert [reply.index(part) for part in order] == sorted(reply.index(part) for part in order)
    whole = next(prompt for prompt in shown if prompt.find("a pill") < prompt.find("a cream") > 0)
    first = whole[: whole.index("[END OF CONVERSATION WITH ASSISTANT 1]")]
    for part in ("Person: What is it?", "Assistant: a pill", "Person: And its dose?", "Assistant: two daily"):  # fmt: skip
        assert part in first
    assert "cream" not in first


def test_a_model_answers_turn_by_turn(tmp_path):
    """Every reply is made behind the model's own earlier ones."""
    rows = [{"id": "a", "turns": ["one", "two", "three"]}, {"id": "b", "prompt": "alone"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rounds: list[list[str]] = []

    def generate(prompts: Any) -> Any:
        prompts = list(prompts)
        rounds.append([p.id for p in prompts])
        for p in reversed(prompts):
            said = "/".join(turn.text for turn in p.turns)
            yield Completion(p.id, f" <{said}>", "stop")

    answers = make_answers(generate, read_questions(str(path)), Sampling())
    assert rounds == [["a", "b"], ["a"], ["a"]]
    assert answers["b"] == ("<alone>",)
    assert answers["a"][1] == "<one/<one>/two>"
    assert answers["a"][2] == "<one/<one>/two/<one/<one>/two>/three>"


@pytest.mark.slow
def test_models_answer_here_and_only_once(tmp_path, server, monkeypatch):
    """Two folders answer; the command given again asks neither them nor the judge anew."""
    from tests.model.tiny_models import make_folder, make_tokenizer

    folders = []
    for name in ("grouped", "random_wide"):
        folder = tmp_path / name
        make_folder(folder, name, make_tokenizer(folder))
        folders.append(str(folder))
    server.behave = replies(lambda prompt: BETTER[1])
    case = Case(tmp_path, server)
    case.rows("prompts", [{"prompt": "The liver"}, {"turns": ["A cell", "More"]}])
    words = ["--first", folders[0], "--second", folders[1], "--max_new_tokens", "8"]
    result = case.run(*words)
    assert result["pairs"] == 2
    answers = [json.loads(line) for line in (tmp_path / "out" / "first.jsonl").open()]
    assert [len(row["texts"]) for row in answers] == [1, 2]
    asked = len(server.requests)
    monkeypatch.setattr("model.generate.open_engine", None)  # not needed any more
    assert case.run(*words)["win"] == result["win"]
    assert len(server.requests) == asked
    # Other settings are another answer.
    with pytest.raises(TypeError):
        case.run(*words, "--seed", "1")


def test_a_run_answers_with_its_newest_checkpoint(tmp_path, server, monkeypatch):
    """And answers anew once it has a newer one."""
    opened: list[int] = []

    class Echo:
        def generate(self, prompts: Any) -> Any:
            return (Completion(p.id, f"step {opened[-1]}", "stop") for p in prompts)

    def open_engine(source: str, generation: Any, *, step: int, chat: Any) -> Echo:
        opened.append(step)
        return Echo()

    steps = [100, 200]
    monkeypatch.setattr("training.state.is_run", lambda source: source == "run")
    monkeypatch.setattr("training.steps.good_steps", lambda source: steps)
    monkeypatch.setattr("model.generate.open_engine", open_engine)
    case = Case(tmp_path, server)
    case.answers([{"prompt": "Why?"}], ["-"], ["short"])
    for _ in range(2):
        case.run("--first", "run")
    assert opened == [200]
    steps.append(300)
    case.run("--first", "run")
    case.run("--first", "run", "--first_step", "100")
    assert opened == [200, 300, 100]
    assert json.loads((tmp_path / "out" / "first.jsonl").read_text())["texts"] == ["step 100"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"first": [{"id": 0, "text": "a"}]}, "no answer to 1 prompts: 1"),
        ({"first": [{"id": 0, "said": "a"}]}, "first.jsonl:1: text: missing"),
        ({"second": [{"id": 0, "texts": ["a", "b"]}, {"id": 1, "text": "c"}]}, "2 replies"),
        ({"prompts": [{"id": 0, "prompt": "a"}, {"id": 0, "prompt": "b"}]}, "stands there twice"),
        ({"prompts": [{"question": "a"}]}, "prompt, messages, turns"),
        ({"prompts": []}, "holds no prompts"),
    ],
)
def test_what_is_wrong_is_said_before_anybody_is_asked(tmp_path, server, capsys, change, told):
    case = Case(tmp_path, server)
    case.answers([{"prompt": "Why?"}] * 2, ["a"] * 2, ["b"] * 2)
    for name, rows in change.items():
        case.rows(name, rows)
    with pytest.raises(SystemExit):
        case.run()
    assert told in capsys.readouterr().err
    assert not server.requests


def test_a_judge_is_configured_without_showing_its_key(tmp_path, server, capsys):
    case = Case(tmp_path, server, base_url="http://secret:key@host/v1?token=abc")
    case.answers([{"prompt": "Why?"}], ["a"], ["b"])
    with pytest.raises(SystemExit):
        case.run()
    told = capsys.readouterr().err
    assert "base_url" in told
    assert "secret" not in told
    assert "abc" not in told


def test_our_own_wording_has_all_that_is_filled_in():
    config = JudgeConfig(model="m")
    for kind in ("single", "reply", "dialogue"):
        for name in ("{first}", "{second}", "{criteria}", "{closing}"):
            assert name in judging._wording(config)[kind]
