"""Task files, prompts and their tokens; tasks run with stand-ins for scorer and engine."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from data.benchmarks import Item, task_names
from data.config import ChatConfig
from data.document import Turn
from data.generator import Completion
from evaluation.encode import encode_questions
from evaluation.options import Scored
from evaluation.prompt import ask, choose_items
from evaluation.results import finished, read_result, write_result
from evaluation.task import FIXTURES, load_task
from evaluation.taskrun import Items, open_items, run_task, settings_of
from tests.model.tiny_models import make_tokenizer

COLUMNS = {  # of the published test sets
    "casehold": {"id", "input_options", "output", "gold_index"},
    "headline": {"id", "input", "options", "gold_index", "class_id"},
    "convfinqa": {"id", "input", "label"},
    "ner": {"id", "input", "label"},
    **{
        name: {"id", "input", "options", "gold_index"}
        for name in (
            [
                "chemprot",
                "rct",
                "usmle",
                "pubmedqa",
                "mqp",
                "fpb",
                "fiqa_sa",
                "scotus",
                "unfair_tos",
            ]
        )
    },
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def task_file(tmp_path):
    """A task file over some rows, with further keys."""

    def write(rows, **more):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        fields = {"question": "q", "options": "o", "gold": "g"}
        source = {"path": str(tmp_path / "rows.jsonl"), "fields": fields}
        whole = {
            "data": {"sources": {"made": source}},
            "prompts": ["Q: {question}\nA:"],
            "metric": "accuracy",
        }
        (tmp_path / "made.yaml").write_text(yaml.safe_dump(whole | more))
        return load_task(str(tmp_path / "made.yaml"))

    return write


ROWS = [{"q": f"Number {i}?", "o": ["even", "odd"], "g": i % 2} for i in range(30)]


def test_every_task_file_is_whole():
    for name in task_names():
        task = load_task(name)
        assert task.name == name
        assert task.prompts
        assert task.definition
    assert load_task("chemprot").definition != load_task("rct").definition


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_fixtures_have_the_published_columns_and_say_what_they_are(name):
    rows = [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    assert len(rows) >= 20
    assert all(set(row) == COLUMNS[name] for row in rows)
    found = open_items(load_task(name), fixtures=True)
    assert len(found.items) == len(rows)
    assert found.source.startswith("fixture")
    assert found.rendered
    assert found.expected is None


def test_fixtures_have_lists_of_gold_and_ragged_options():
    golds = {len(item.gold) for item in open_items(load_task("unfair_tos"), fixtures=True).items}
    assert {1, 2, 3} <= golds
    for name in ("usmle", "casehold", "exam"):
        items = open_items(load_task(name), fixtures=True).items
        assert len({len(item.options) for item in items}) > 1
    exam = open_items(load_task("exam"), fixtures=True).items
    assert {item.kind for item in exam} == {"single", "multiple"}
    assert max(len(item.gold) for item in exam) == 4


def test_data_that_is_not_there_is_never_the_fixture(monkeypatch):
    monkeypatch.delenv("LECTERN_EXAM", raising=False)
    with pytest.raises(ValueError, match="set LECTERN_EXAM"):
        open_items(load_task("exam"))
    with pytest.raises(ValueError, match="task boolq has no fixture"):
        open_items(load_task("boolq"), fixtures=True)


def test_what_is_wrong_with_a_task_is_said(task_file):
    with pytest.raises(ValueError, match=r"no place \{passage\}; there are question"):
        task_file(ROWS, prompts=["{passage}"])
    with pytest.raises(ValueError, match="metric: span_f1 is for kind text, which is options"):
        task_file(ROWS, metric="span_f1")
    with pytest.raises(ValueError, match="metrics"):
        task_file(ROWS, metrics="accuracy")
    with pytest.raises(ValueError, match="no task 'pubmed'.*pubmedqa"):
        load_task("pubmed")
    with pytest.raises(ValueError, match="no field 'g'; there are: q, o"):
        open_items(task_file([{"q": "Why?", "o": ["a"]}]))
    with pytest.raises(ValueError, match="0 items, some expected"):
        open_items(task_file([]))
    with pytest.raises(ValueError, match="30 items are not enough for 30 examples"):
        choose_items(open_items(task_file(ROWS)).items, task_file(ROWS, shots=30), limit=None, seed=0, rendered=False)  # fmt: skip


def test_examples_are_balanced_never_scored_and_free_of_the_files_order(task_file):
    task = task_file(ROWS, shots=4)
    items = open_items(task).items
    chosen, examples = choose_items(items, task, limit=10, seed=0, rendered=False)
    assert sorted(example.gold for example in examples) == [(0,), (0,), (1,), (1,)]
    assert len(chosen) == 10
    assert not {i.id for i in chosen} & {i.id for i in examples}
    turned = choose_items(items[::-1], task, limit=10, seed=0, rendered=False)
    assert ({i.id for i in turned[0]}, turned[1]) == ({i.id for i in chosen}, examples)
    other, _ = choose_items(items, task, limit=10, seed=1, rendered=False)
    assert {i.id for i in other} != {i.id for i in chosen}


def test_prompts_as_text_and_as_turns(task_file):
    task = task_file(ROWS, shots=1, system="Be brief.", verbalise={"odd": "not even"})
    items = open_items(task).items
    (question,) = ask(items[:1], items[1:2], task)
    assert question.prompts == ((Turn("text", "Q: Number 1?\nA: not even\n\nQ: Number 0?\nA:"),),)
    assert question.answers == ("even", "not even")
    (question,) = ask(items[:1], items[1:2], task, chat=True)
    assert [(turn.role, turn.text) for turn in question.prompts[0]] == [
        ("system", "Be brief."),
        ("user", "Q: Number 1?\nA:"),
        ("assistant", "not even"),
        ("user", "Q: Number 0?\nA:"),
    ]


def test_the_words_of_an_item_are_never_a_place(task_file):
    rows = [{"q": "What is {options}?", "o": ["{question}", "b"], "g": 0}]
    task = task_file(rows, prompts=["{question} {options}"])
    (question,) = ask(open_items(task).items, [], task)
    assert question.prompts[0][0].text == "What is {options}? A. {question}\nB. b"


def test_gaps_are_filled_and_what_follows_is_scored(task_file):
    rows = [{"q": "Ann fears Bo as _'s dog bites.", "o": ["Ann", "Bo"], "g": 1}]
    task = task_file(rows, prompts=["{question}"], blank="_")
    (question,) = ask(open_items(task).items, [], task)
    assert [p[0].text for p in question.prompts] == [
        "Ann fears Bo as Ann's",
        "Ann fears Bo as Bo's",
    ]
    assert question.answers == ("dog bites.",)


def test_candidates_that_are_prompts_share_what_is_scored():
    task = load_task("casehold")
    found = open_items(task, fixtures=True)
    question = ask(found.items[:1], [], task, rendered=True)[0]
    assert len(question.prompts) == len(found.items[0].options)
    assert question.answers == ("The citation supports the point.",)


# --- tokens ---------------------------------------------------------------------------------------


def test_an_option_is_tokenized_with_its_prompt(tokenizer, task_file):
    task = task_file(ROWS)
    (asked,), counts = encode_questions(ask(open_items(task).items[:1], [], task), tokenizer, add_bos=True)  # fmt: skip
    assert counts == [1]
    for option, tokens in zip(("even", "odd"), asked.continuations, strict=True):
        whole = tokenizer.encode(f"Q: Number 0?\nA: {option}").tolist()
        assert [*asked.context, *tokens] == [tokenizer.bos_id, *whole]


def test_defect_tokens_that_join_over_the_end_of_a_prompt_were_skipped():
    """With `un` + ` it` joined into one token, the published rule scores nothing of the option's first."""

    class Joining:
        path, bos_id = "joining", None

        def encode_batch(self, texts):
            pieces = {"ab": [1, 2], "ab c": [1, 9, 4], "ab d": [1, 2, 3, 5]}
            return [np.array(pieces[text], np.int32) for text in texts]

    question = SimpleNamespace(prompts=((Turn("text", "ab"),),), answers=("c", "d"))
    (ours,), _ = encode_questions([question], Joining(), add_bos=False)
    assert (ours.context, ours.continuations) == ((1,), ((9, 4), (2, 3, 5)))
    (theirs,), _ = encode_questions([question], Joining(), add_bos=False, reference_compatible=True)
    assert theirs.continuations == ((4,), (3, 5))


@pytest.mark.parametrize("template", ["plain", "llama2", "huatuo"])
def test_an_option_of_a_chat_model_is_its_reply(tokenizer, task_file, template):
    task = task_file(ROWS, shots=1)
    items = open_items(task).items
    questions = ask(items[:1], items[1:2], task, chat=True)
    chat = ChatConfig(template=template)
    (asked,), _ = encode_questions(questions, tokenizer, add_bos=True, chat=chat)
    for option, tokens in zip(("even", "odd"), asked.continuations, strict=True):
        assert tokenizer.decode(list(tokens)).strip() == option
    assert "Number 0" in tokenizer.decode(list(asked.context))


# --- run_task -------------------------------------------------------------------------------------


class Likes:
    """Finds one option likeliest, whatever it is asked."""

    compute_dtype, max_len = "float32", 512

    def __init__(self, which):
        self.which = which

    def score(self, params, asked):
        return [
            Scored(
                tuple(
                    -1.0 * len(c) if i == self.which else -9.0 * len(c)
                    for i, c in enumerate(one.continuations)
                ),
                tuple(map(len, one.continuations)),
                (False,) * len(one.continuations),
                cut=int(len(one.context) > 60),
            )
            for one in asked
        ]


@pytest.fixture(scope="module")
def model(tokenizer):
    return SimpleNamespace(
        name="a model",
        step=None,
        add_bos=True,
        tokenizer=tokenizer,
        params={},
        chat=ChatConfig(),
    )


def test_a_score_with_all_that_it_depends_on(model, task_file, tmp_path):
    task = task_file(ROWS, shots=2, date="2020-01")
    items = open_items(task)
    result = run_task(task, items, model, Likes(0), limit=20)
    evens = [item for item in items.items if item.id in result.ids and item.gold == (0,)]
    assert result.value == len(evens) / 20 == np.mean(result.per_item)
    assert (result.items, result.shots, result.add_bos, result.date) == (20, 2, True, "2020-01")
    assert result.template is None
    assert result.source.startswith("made: ")
    assert len(result.samples) == 8
    assert result.samples[0]["options"] == ["even", "odd"]
    write_result(str(tmp_path / "out"), result)
    (tmp_path / "out" / "tmp_0.bin").write_text("left by a run that crashed")
    assert read_result(tmp_path / "out" / "made.json") == result
    same = settings_of(task, model, Likes(0), items, limit=20)
    assert finished(str(tmp_path / "out"), "made", same) == result
    with pytest.raises(ValueError, match="limit: 20 there, 10 asked for"):
        finished(str(tmp_path / "out"), "made", same | {"limit": 10})
    (tmp_path / "out" / "made.json").write_text("{")
    with pytest.raises(ValueError, match=r"made\.json: not a task's result.*delete it"):
        finished(str(tmp_path / "out"), "made", same)


def test_prompts_that_were_cut_are_counted(model, task_file):
    rows = [*ROWS[:3], {"q": "word " * 90, "o": ["even", "odd"], "g": 0}]
    assert run_task(task_file(rows), open_items(task_file(rows)), model, Likes(0)).truncated == 1


def test_length_normalisation_changes_what_is_chosen(model, task_file):
    class Longer(Likes):
        def score(self, params, asked):
            nats = (-3.0, -5.0)  # per byte the second is likelier, per token it may be too
            return [dataclasses.replace(s, logprobs=nats, tokens=(1, 5)) for s in super().score(params, asked)]  # fmt: skip

    rows = [{"q": "Which?", "o": ["ab", "abcdefghij"], "g": 1}]
    chosen = {}
    for how in ("none", "token", "byte"):
        task = task_file(rows, normalise=how)
        chosen[how] = run_task(task, open_items(task), model, Longer(0)).samples[0]
    assert {how: sample["chosen"] for how, sample in chosen.items()} == {
        "none": 0,
        "token": 1,
        "byte": 1,
    }
    assert chosen["token"]["scores"] == [-3.0, -1.0]
    assert chosen["byte"]["scores"] == [-1.5, -0.5]


def writes(*texts):
    """An engine that answers with these texts, one for each call."""
    left = list(texts)

    def generate(prompts):
        text = left.pop(0)
        for prompt in prompts:
            yield Completion(prompt.id, text, "stop")

    return generate


def test_defect_an_answer_behind_a_line_break_was_empty(model):
    task = load_task("ner")
    item = Item("1", "Signed by Clara Weiss.", answers=("Clara Weiss (PER)",))
    items = Items((item,), "made", True, None)
    result = run_task(task, items, model, Likes(0), writes("", "\n\nClara Weiss (PER)\nand more"))
    assert result.value == 1.0
    assert result.samples[0]["text"] == "Clara Weiss (PER)"


def test_unread_replies_of_an_exam_are_counted_and_never_a_letter(model):
    task = load_task("exam")
    items = open_items(task, fixtures=True)
    result = run_task(task, items, model, Likes(0), writes("I cannot say."))
    assert (result.value, result.unparsed) == (0.0, len(items.items))
    published = run_task(task, items, model, Likes(0), writes("I cannot say."), reference_compatible=True)  # fmt: skip
    rights = sum(item.gold == (1,) for item in items.items)
    assert published.value == pytest.approx(rights / len(items.items))
    assert rights > 0
    assert published.unparsed == len(items.items)
    assert published.reference_compatible
    with pytest.raises(ValueError, match="needs something to write"):
        run_task(task, items, model, Likes(0))


def test_template_and_system_prompt_stand_in_the_result(model, task_file):
    task = task_file(ROWS, system="Be brief.")
    chat = ChatConfig(template="llama2")
    result = run_task(task, open_items(task), model, Likes(0), chat=chat, limit=2)
    assert (result.template, result.system) == ("llama2", "Be brief.")
