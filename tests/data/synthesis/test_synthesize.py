"""A partition's documents into instruction-augmented text: lanes, budgets, what is left raw, restarts."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from data.document import Document, Turn
from data.generator import Completion
from data.lesson import lesson
from data.literal import encode_literal
from data.synthesis.config import FiltersConfig, ModesConfig, SynthesisConfig, TemplatesConfig
from data.synthesis.synthesize import synthesize
from data.tally import Tally
from tests.data.synthesis import made

SETTINGS = SynthesisConfig(rounds=3, window=2048, max_new_tokens=400)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return made.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def run(documents, tokenizer, config=SETTINGS, generate=made.generate, seq_len=4096, **settings):
    tally = Tally("articles")
    out = list(
        synthesize(
            documents, config, generate=generate, tokenizer=tokenizer, seq_len=seq_len,
            tally=tally, **settings,
        )
    )  # fmt: skip
    return out, tally.counts


def text(document: Document) -> str:
    return document.turns[0].text


def test_every_text_comes_out_once_and_the_counts_say_what_became_of_it(tokenizer):
    documents = made.documents(50)
    out, counts = run(documents, tokenizer)
    joined = "\n".join(map(text, out))
    for document in documents:
        assert joined.count(text(document)) == 1
    tasks = [task for document in out for task in document.meta.get("tasks", ())]
    assert counts["tasks"] == {"synthesis": len(tasks)}
    told = counts["synthesis"]
    assert told["accepted"] == len(tasks) > 80
    assert told["texts"] == 50
    assert told["texts without a pair"] == told["raw"]["no pairs"] > 0
    assert told["rejected"]["cut off"] > 0
    assert told["rejected"]["outside a pair"] == told["texts without a pair"]
    assert sum(told["prompts"].values()) == 50
    assert sum(int(shots) * n for shots, n in told["shots"].items()) == 50 - told["raw"]["no pairs"]
    assert set(told["shapes"]) == {"free", "options", "reasoned", "reasoned options"}


def test_tokens_are_counted_and_a_line_tells_of_each_block(tokenizer, capsys):
    config = SETTINGS.model_copy(update={"block_documents": 20})

    def answer(prompt):
        return replace(made.completion(prompt), num_prompt_tokens=7, num_tokens=3)

    _, counts = run(made.documents(50), tokenizer, config, made.Recorder(answer))
    assert counts["synthesis"]["tokens_read"] == 7 * 50
    assert counts["synthesis"]["tokens_written"] == 3 * 50
    told = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == ["articles: 20 texts"] * 2 + [
        "articles: 10 texts"
    ]
    pairs = sum(int(line.split(" pairs")[0].split()[-1]) for line in told)
    assert pairs == counts["synthesis"]["accepted"]


def test_a_text_without_a_pair_is_the_document_that_came_in(tokenizer):
    documents = made.documents(50)
    out, _ = run(documents, tokenizer)
    raw = [document for document in out if "tasks" not in document.meta]
    assert raw
    assert all(any(document is same for same in documents) for document in raw)
    assert all(text(document).strip() for document in out)


def test_tasks_say_where_they_are_from(tokenizer):
    documents = {document.id: document for document in made.documents(40)}
    out, _ = run(documents.values(), tokenizer)
    quoted = 0
    for document in out:
        if "tasks" not in document.meta:
            continue
        parents = document.meta.get("parents", [document.meta["parent"]])
        read = "\n\n".join(text(documents[parent]) for parent in parents)
        shown = [text(document)[start:stop] for _, start, stop, _ in document.meta["read"]]
        assert shown == [text(documents[parent]) for parent in parents]
        assert lesson(document).text == read
        for task in document.meta["tasks"]:
            assert task["parent"] in parents
            assert task.keys() >= {
                "family",
                "label",
                "question",
                "answer",
                "source_spans",
                "filter",
            }
            assert task["filter"] is None
            own = text(documents[task["parent"]])
            for start, stop in task["source_spans"]:
                assert read[start:stop].casefold() == task["answer"].casefold()
                assert read.index(own) <= start < stop <= read.index(own) + len(own)
                quoted += 1
    assert quoted > 30


def test_lanes_are_slices_by_id_and_show_earlier_texts_with_their_pairs(tokenizer):
    documents = made.documents(30)
    recorder = made.Recorder()
    run(documents, tokenizer, generate=recorder)
    asked = {made.last_text(prompt): prompt for prompt in recorder.prompts}
    order = [made.last_text(prompt) for prompt in recorder.prompts]
    assert order == [text(document) for document in documents]  # round by round
    for lane in range(10):
        first, second, third = (text(documents[lane + 10 * r]) for r in range(3))
        assert made.num_shots(asked[first]) == 0
        gave = bool(made.pairs_of(first)) and "<QUE>" in made.completion(asked[first]).text
        assert made.num_shots(asked[second]) == int(gave)
        if gave:
            shown = asked[second].turns[0].text
            assert shown.startswith(f"<s> <CON> {first} </CON>\n\n<QUE> Which organ")
            assert "</END></s><s> <CON> " in shown
        assert made.num_shots(asked[third]) <= 2
    assert {made.num_shots(prompt) for prompt in recorder.prompts} == {0, 1, 2}
    assert all(prompt.literal_special for prompt in recorder.prompts)


def test_neither_block_hosts_nor_listing_show(tokenizer):
    """Partitions are done on their own; within one only the order of ids counts."""
    documents = made.documents(40)
    out, counts = run(documents, tokenizer)
    again, same = run(iter(documents), tokenizer)
    assert [d.to_json() for d in out] == [d.to_json() for d in again]
    assert counts == same

    def shuffled(prompts):
        completions = [made.completion(prompt) for prompt in prompts]
        random.Random(3).shuffle(completions)
        yield from completions

    mixed, _ = run(documents, tokenizer, generate=shuffled)  # as they come from many slots
    assert [d.to_json() for d in mixed] == [d.to_json() for d in out]


def test_memory_is_bounded_by_the_block(tokenizer):
    taken = []

    def endless():
        for n in itertools.count():
            taken.append(n)
            yield made.document(n)

    config = SETTINGS.model_copy(update={"block_documents": 7})
    stream = synthesize(
        endless(),
        config,
        generate=made.generate,
        tokenizer=tokenizer,
        seq_len=4096,
        tally=Tally("x"),
    )
    next(stream)
    assert len(taken) == 7


def test_a_prompt_never_outgrows_the_window_in_real_tokens(tokenizer):
    documents = made.documents(60)
    sizes = Counter()
    for window in (900, 1100, 1600):
        recorder = made.Recorder()
        config = SETTINGS.model_copy(update={"window": window})
        _, counts = run(documents, tokenizer, config, recorder)
        for prompt in recorder.prompts:
            used = len(encode_literal(prompt.turns[0].text, tokenizer))
            assert used + config.max_new_tokens <= window
            sizes[window] = max(sizes[window], used)
        assert counts["synthesis"]["prompts"]["restarts: window full"] > 0
    assert sizes[1600] > sizes[900]  # the room is used


def test_few_shot_documents_fit_a_row(tokenizer):
    documents = made.documents(60)
    mean = {}
    for seq_len in (600, 2048):
        out, counts = run(documents, tokenizer, seq_len=seq_len)
        with_pairs = [d for d in out if "tasks" in d.meta]
        lengths = [len(tokenizer.encode(text(d))) + 2 for d in with_pairs]
        assert max(lengths) <= seq_len
        shots = counts["synthesis"]["shots"]
        mean[seq_len] = sum(int(n) * k for n, k in shots.items()) / sum(shots.values())
    assert mean[600] < mean[2048]  # the room is used


def test_pairs_that_do_not_fit_a_row_are_counted(tokenizer):
    out, counts = run(made.documents(30), tokenizer, seq_len=420)
    dropped = counts["synthesis"]["rejected"]["no room in a row"]
    assert dropped > 0
    kept = sum(len(d.meta.get("tasks", ())) for d in out)
    assert counts["synthesis"]["accepted"] == kept
    everything, _ = run(made.documents(30), tokenizer)
    assert kept + dropped == sum(len(d.meta.get("tasks", ())) for d in everything)


def test_long_documents_are_cut_and_nothing_of_them_is_lost(tokenizer):
    long = "\n\n".join(made.text_of(n) for n in range(40))
    documents = [made.document(0, long), *made.documents(5)]
    config = SETTINGS.model_copy(update={"text_tokens": 300})
    out, _ = run(documents, tokenizer, config)
    parts = [d for d in out if documents[0].id in d.meta.get("parents", [d.meta.get("parent")])]
    joined = "\n".join(map(text, out))
    for n in range(40):
        for sentence in made.text_of(n).split(". "):
            assert sentence.rstrip(".") in joined
    assert len(parts) > 10
    for part in parts:
        if "span" in part.meta and "tasks" in part.meta:
            start, stop = part.meta["span"]
            assert long[start:stop] in text(part)
            assert len(tokenizer.encode(long[start:stop])) <= 300
    raw = [d for d in parts if "tasks" not in d.meta]
    for part in raw:
        start, stop = part.meta["span"]
        assert long[start:stop] == text(part)


def test_a_share_of_the_documents_is_augmented(tokenizer):
    documents = made.documents(400)
    config = SETTINGS.model_copy(update={"augment": 0.2})
    recorder = made.Recorder()
    out, counts = run(documents, tokenizer, config, recorder)
    share = len(recorder.prompts) / 400
    assert 0.14 < share < 0.26  # 3 standard deviations of a fair draw
    assert counts["synthesis"]["raw"]["not drawn"] == 400 - len(recorder.prompts)
    raw = {d.id for d in out if "tasks" not in d.meta}
    assert len(raw) >= 400 - len(recorder.prompts)


def test_texts_with_marks_of_the_format_stay_raw(tokenizer):
    odd = made.document(0, "A page about HTML: <s> strikes a text through. " * 4)
    out, counts = run([odd], tokenizer)
    assert out == [odd]
    assert counts["synthesis"]["raw"] == {"holds the mark <s>": 1}


def test_short_texts_stay_raw(tokenizer):
    out, counts = run([made.document(0, "A line.")], tokenizer)
    assert [text(d) for d in out] == ["A line."]
    assert counts["synthesis"]["raw"] == {"too short": 1}


def test_a_conversation_is_an_error(tokenizer):
    talk = Document("1", (Turn("user", "Hello."), Turn("assistant", "Yes?")), "made")
    with pytest.raises(ValueError, match=r"corpora\.articles\.convert"):
        run([talk], tokenizer)


def test_failed_requests_leave_their_texts_raw_up_to_a_share(tokenizer):
    documents = made.documents(60)
    bad = {text(document) for document in documents[:5]}

    def answer(prompt):
        if made.last_text(prompt) in bad:
            return Completion(prompt.id, "", "error", error="500: broken")
        return made.completion(prompt)

    out, counts = run(documents, tokenizer, generate=made.Recorder(answer))
    assert counts["synthesis"]["finish error"] == 5
    assert bad <= {text(d) for d in out if "tasks" not in d.meta}
    strict = SETTINGS.model_copy(update={"max_failed": 0.05})
    with pytest.raises(ValueError, match=r"5 of 60 requests .* failed \(the last: 500: broken\)"):
        run(documents, tokenizer, strict, made.Recorder(answer))


def test_a_generator_that_forgets_a_prompt_is_a_defect(tokenizer):
    with pytest.raises(AssertionError, match="no completion"):
        run(made.documents(4), tokenizer, generate=lambda prompts: iter(()))


NOISE = ["<QUE>", "<ANS>", "</END>", "<CON>", "</CON>", "<s>", "</s>", "\n", "Options:", "- a", "{x}",
         "Therefore, the answer is ", "Let's think step by step.", "the heart", "%s", "\0", "日本",
         "<QUE> What does the heart do <ANS>", "it pumps </END>", "<QUE> Which report"]  # fmt: skip


def test_no_output_breaks_the_stage(tokenizer):
    """Random joins of marks and words, for every text another one."""

    def noise(prompt):
        lot = random.Random(made.last_text(prompt))
        output = " ".join(lot.choices(NOISE, k=lot.randrange(60)))
        return Completion(prompt.id, output, "length", 0, 1)

    documents = made.documents(300)
    loose = FiltersConfig(
        min_answer_overlap=0, min_question_overlap=0, min_rationale_overlap=0, language="off",
        min_question_chars=1,
    )  # fmt: skip
    for filters in (SETTINGS.filters, loose):
        config = SETTINGS.model_copy(update={"filters": filters})
        out, counts = run(documents, tokenizer, config, made.Recorder(noise))
        joined = "\n".join(map(text, out))
        assert all(text(document) in joined for document in documents)
        assert len(counts["synthesis"]["rejected"]) >= 8
    assert counts["tasks"]["synthesis"] > 5  # some noise is a pair, and is set out


def test_a_job_that_was_stopped_goes_on_with_the_same_pairs(tokenizer, tmp_path):
    """Wherever it stops: what was finished is not asked again, and the end is the same."""
    documents = made.documents(40)
    config = SETTINGS.model_copy(update={"block_documents": 16})
    wanted, _ = run(documents, tokenizer, config)
    for stop in (1, 5, 16, 23, 39):
        work = str(tmp_path / f"synthesis-{stop}")
        calls = Counter()

        def dying(prompts, stop=stop, calls=calls):
            for prompt in prompts:
                if sum(calls.values()) == stop:
                    raise KeyboardInterrupt
                calls[made.last_text(prompt)] += 1
                yield made.completion(prompt)

        with pytest.raises(KeyboardInterrupt):
            run(documents, tokenizer, config, dying, work=work)
        rest = made.Recorder()
        out, _ = run(documents, tokenizer, config, rest, work=work)
        assert [d.to_json() for d in out] == [d.to_json() for d in wanted]
        assert len(rest.prompts) == 40 - stop
        assert all(path.is_file() for path in tmp_path.iterdir())


def test_sampled_pairs_are_seeded_by_the_document(tokenizer):
    config = SETTINGS.model_copy(update={"temperature": 0.7})
    recorder, other = made.Recorder(), made.Recorder()
    run(made.documents(20), tokenizer, config, recorder)
    run(made.documents(25), tokenizer, config, other)
    seeds = {made.last_text(p): p.sampling.seed for p in recorder.prompts}
    assert len(set(seeds.values())) == 20
    assert seeds.items() <= {made.last_text(p): p.sampling.seed for p in other.prompts}.items()
    greedy = made.Recorder()
    run(made.documents(3), tokenizer, generate=greedy)
    assert {p.sampling.seed for p in greedy.prompts} == {0}


def test_one_layout_for_the_texts_of_a_document(tokenizer):
    """Numbered everywhere: every text of a few-shot document has the same heads and numbers."""
    modes = ModesConfig(classic=0, dialog=0, numbered=1, inline=0, next_turn=0)
    config = SETTINGS.model_copy(update={"templates": TemplatesConfig(modes=modes, invert=0)})

    def three(prompt):
        from data.synthesis.format import write_pairs

        return replace(
            made.completion(prompt), text=write_pairs(made.pairs_of(made.last_text(prompt)))
        )

    out, counts = run(made.documents(30), tokenizer, config, made.Recorder(three))
    assert counts["synthesis"]["modes"] == {"numbered": len(out)}
    assert counts["synthesis"]["shots"].get("3", 0) > 5
    for document in out:
        shots = len(document.meta.get("parents", [1]))
        line = text(document).count("Which organ is the report about?")
        assert line == shots


def test_a_window_without_room_is_refused(tokenizer):
    with pytest.raises(ValueError, match="leave no room for a text"):
        SynthesisConfig(window=420, max_new_tokens=400)
    with pytest.raises(ValueError, match=r"a row of 16 leave 6 tokens"):
        run(made.documents(2), tokenizer, seq_len=16)
