"""Templates byte by byte, ids against transformers, and loss masks by hand."""

import numpy as np
import pytest

from data.chat import ConversationError, encode_document, encode_documents, encode_prompt, render
from data.config import ChatConfig
from data.document import Document, Turn, document_id
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers as made

SYSTEM = Turn("system", "Answer kindly.")
ONE = (Turn("user", "What is it?"), Turn("assistant", "It is asthma."))
TWO = (*ONE, Turn("user", "Why?"), Turn("assistant", "日本 because."))

CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same with the assistant's words between tags; the newline behind the end of turn is not the assistant's.
CHATML_TAGGED = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
# Earlier turns look different once there are later ones, so no rendering is the beginning of another.
CHATML_FORGETFUL = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + ('!' if loop.last else '') + '\n' + "
    "message.content.strip() + '<|im_end|>' + '\n' }}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
    "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = "
    "'<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = "
    "message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    made.sentencepiece_model(folder / "spm")
    made.llama3(folder / "llama3", chat_template=LLAMA3)
    made.llama2(folder / "every", prefix="every", chat_template=LLAMA2)
    made.llama2(folder / "first", prefix="first", chat_template=LLAMA2)
    made.chatml(folder / "chatml", chat_template=CHATML)
    made.chatml(folder / "tagged", chat_template=CHATML_TAGGED)
    return folder


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {path.name: load_tokenizer(str(path)) for path in folders.iterdir()}


def document(*turns):
    return Document(document_id(turns), turns, "corpus:7", {})


def encode(turns, tokenizer, *, add_bos=True, add_eos=True, **chat):
    chat = ChatConfig(**chat)
    return encode_document(document(*turns), tokenizer, chat, add_bos=add_bos, add_eos=add_eos)


def spoken(encoded, tokenizer):
    """The supervised runs as text, special tokens written out."""
    runs, run = [], []
    for id_, supervised in zip(encoded.tokens, encoded.supervised, strict=True):
        if supervised:
            run.append(id_)
        elif run:
            runs, run = [*runs, run], []
    return [tokenizer.decode(run, keep_special=True) for run in [*runs, run] if run]


def messages(turns):
    return [{"role": turn.role, "content": turn.text} for turn in turns]


# What the templates write


def test_plain(tokenizers):
    chat = ChatConfig()
    tokenizer = tokenizers["spm"]
    assert render(ONE, chat, tokenizer) == "What is it? It is asthma."
    assert render((SYSTEM, *TWO), chat, tokenizer) == (
        "Answer kindly.\n\nWhat is it? It is asthma.\n\nWhy? 日本 because."
    )
    reading = (Turn("text", "An article."), *ONE, *ONE)
    assert render(reading, chat, tokenizer) == (
        "An article.\n\nWhat is it? It is asthma.\n\nWhat is it? It is asthma."
    )
    assert render((*TWO, ONE[0]), chat, tokenizer, generation_prompt=True).endswith(
        "because.\n\nWhat is it?"
    )


# The prompt of LLaMA-2-chat's demonstration, two spaces and the newlines at both ends included.
DEMO = (
    "\nYou are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information.\n"
)


@pytest.mark.parametrize("system", [DEMO, DEMO.strip("\n")])
def test_llama2(tokenizers, system):
    tokenizer = tokenizers["spm"]
    assert render(TWO, ChatConfig(template="llama2"), tokenizer) == (
        "<s>[INST] What is it? [/INST] It is asthma. </s><s>[INST] Why? [/INST] 日本 because. </s>"
    )
    expected = (
        f"<s>[INST] <<SYS>>{DEMO}<</SYS>>\n\nWhat is it? [/INST] It is asthma. </s>"
        "<s>[INST] Why? [/INST] 日本 because. </s>"
    )
    assert render(TWO, ChatConfig(template="llama2", system=system), tokenizer) == expected
    assert (
        render((Turn("system", system), *TWO), ChatConfig(template="llama2"), tokenizer) == expected
    )


def test_llama3(tokenizers):
    chat = ChatConfig(template="llama3", system="Answer kindly.")
    head, tail = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert render(ONE, chat, tokenizers["llama3"]) == (
        f"<|begin_of_text|>{head}system{tail}Answer kindly.<|eot_id|>{head}user{tail}What is it?<|eot_id|>"
        f"{head}assistant{tail}It is asthma.<|eot_id|>"
    )


def test_huatuo(tokenizers):
    chat = ChatConfig(template="huatuo")
    assert render(TWO, chat, tokenizers["spm"]) == (
        "<问>：What is it?\n<答>：It is asthma.</s>\n<问>：Why?\n<答>：日本 because.</s>"
    )
    assert render(TWO[:3], chat, tokenizers["spm"], generation_prompt=True).endswith(
        "\n<问>：Why?\n<答>："
    )


def test_the_system_prompt_of_a_conversation_goes_before_the_recipes(tokenizers):
    chat = ChatConfig(system="From the recipe.")
    assert render((SYSTEM, *ONE), chat, tokenizers["spm"]).startswith("Answer kindly.\n\nWhat")
    assert render(ONE, chat, tokenizers["spm"]).startswith("From the recipe.\n\nWhat")


# Ids

CONVERSATIONS = [
    ONE,
    TWO,
    (SYSTEM, *TWO),
    (SYSTEM, Turn("user", " a\n\n\tb  c "), Turn("assistant", " 🙂 ")),
]


@pytest.mark.parametrize("turns", CONVERSATIONS)
@pytest.mark.parametrize(
    ("folder", "template"),
    [
        ("llama3", "tokenizer"),
        ("llama3", "llama3"),
        ("every", "tokenizer"),
        ("every", "llama2"),
        ("first", "tokenizer"),
        ("first", "llama2"),
        ("chatml", "tokenizer"),
        ("tagged", "tokenizer"),
    ],
)
def test_ids_are_those_of_transformers(folders, tokenizers, folder, template, turns):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folders / folder)
    tokenizer = tokenizers[folder]
    expected = theirs.apply_chat_template(messages(turns), tokenize=True, return_dict=False)
    assert encode(turns, tokenizer, template=template).tokens.tolist() == expected
    text = theirs.apply_chat_template(messages(turns), tokenize=False)
    assert render(turns, ChatConfig(template=template), tokenizer) == text
    if folder != "tagged":
        prompt = theirs.apply_chat_template(
            messages(turns[:-1]), tokenize=True, return_dict=False, add_generation_prompt=True
        )
        ours = encode_prompt(turns[:-1], tokenizer, ChatConfig(template=template), add_bos=True)
        assert ours.tolist() == prompt


def test_generation_tags_mean_what_they_mean_to_transformers(folders, tokenizers):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folders / "tagged")
    for turns in CONVERSATIONS[:3]:
        expected = theirs.apply_chat_template(
            messages(turns), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        encoded = encode(turns, tokenizers["tagged"], template="tokenizer", train_on="assistant")
        assert encoded.tokens.tolist() == expected["input_ids"]
        assert encoded.supervised.tolist() == [bool(m) for m in expected["assistant_masks"]]


def test_llama2_ids_are_metas(realdata):
    """Meta's own code encodes every exchange alone, with BOS and EOS around it."""
    tokenizer = load_tokenizer(str(realdata / "llama2-tokenizer.model"))
    encoded = encode(TWO, tokenizer, template="llama2", train_on="assistant")
    expected = []
    for question, answer in (("What is it?", "It is asthma."), ("Why?", "日本 because.")):
        expected += [1, *tokenizer.encode(f"[INST] {question} [/INST] {answer} "), 2]
    assert encoded.tokens.tolist() == expected
    assert spoken(encoded, tokenizer) == ["It is asthma. </s>", "日本 because. </s>"]


def test_special_strings_inside_a_turn_stay_text(tokenizers):
    for folder, template in [
        ("spm", "plain"),
        ("spm", "llama2"),
        ("spm", "huatuo"),
        ("llama3", "llama3"),
        ("chatml", "tokenizer"),
        ("first", "tokenizer"),
    ]:
        tokenizer = tokenizers[folder]
        strings = " ".join(tokenizer.special_ids)
        asked = (Turn("user", "a" + strings + "b"), Turn("assistant", strings))
        clean = (Turn("user", "a" + "x" + "b"), Turn("assistant", "x"))
        ids = list(tokenizer.special_ids.values())
        for train_on in ("all", "assistant"):
            typed = encode(asked, tokenizer, template=template, train_on=train_on)
            other = encode(clean, tokenizer, template=template, train_on=train_on)
            assert np.isin(typed.tokens, ids).sum() == np.isin(other.tokens, ids).sum()
        assert strings in render(asked, ChatConfig(template=template), tokenizer)
        assert typed.supervised.sum() > other.supervised.sum()


# Masks


@pytest.mark.parametrize(
    ("folder", "template", "expected"),
    [
        ("spm", "plain", ["It is asthma.\n\n", "日本 because.</s>"]),
        ("spm", "llama2", ["It is asthma. </s>", "日本 because. </s>"]),
        ("spm", "huatuo", ["It is asthma.</s>", "日本 because.</s>"]),
        ("every", "tokenizer", ["It is asthma. </s>", "日本 because. </s>"]),
        ("llama3", "llama3", ["It is asthma.<|eot_id|>", "日本 because.<|eot_id|>"]),
        ("llama3", "tokenizer", ["It is asthma.<|eot_id|>", "日本 because.<|eot_id|>"]),
        ("chatml", "tokenizer", ["It is asthma.<|im_end|>", "日本 because.<|im_end|>"]),
        ("tagged", "tokenizer", ["It is asthma.<|im_end|>", "日本 because.<|im_end|>"]),
    ],
)
def test_assistant_turns_with_their_ends_are_supervised(tokenizers, folder, template, expected):
    tokenizer = tokenizers[folder]
    encoded = encode((SYSTEM, *TWO), tokenizer, template=template, train_on="assistant")
    assert spoken(encoded, tokenizer) == expected
    assert not encoded.supervised[0]
    everything = encode((SYSTEM, *TWO), tokenizer, template=template, train_on="all")
    assert everything.tokens.tolist() == encoded.tokens.tolist()
    assert everything.supervised.tolist() == [False] + [True] * (len(encoded.tokens) - 1)


def test_a_template_that_rewrites_earlier_turns(tokenizers, tmp_path):
    (tmp_path / "chat.jinja").write_text(CHATML_FORGETFUL)
    tokenizer = tokenizers["chatml"]
    turns = (*TWO[:2], Turn("user", "It is asthma."), Turn("assistant", "  It is asthma. "))
    chat = {"template": str(tmp_path / "chat.jinja"), "train_on": "assistant"}
    encoded = encode(turns, tokenizer, **chat)
    assert spoken(encoded, tokenizer) == ["It is asthma.<|im_end|>"] * 2


def test_a_template_whose_spans_cannot_be_told(tokenizers, tmp_path):
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}{{ loop.length ~ m.content | upper | replace('A', m.content) }}{% endfor %}"
    )
    path = str(tmp_path / "chat.jinja")
    with pytest.raises(
        ValueError, match=r"cannot tell which part.*{% generation %}.*train_on: all"
    ):
        encode(TWO, tokenizers["chatml"], template=path, train_on="assistant", add_bos=False)
    assert encode(TWO, tokenizers["chatml"], template=path, add_bos=False).supervised[1:].all()


def test_a_token_across_the_border_is_supervised(tokenizers):
    tokenizer = tokenizers["spm"]
    encoded = encode(
        (Turn("user", "What"), Turn("assistant", "is it?")), tokenizer, train_on="assistant"
    )
    first = encoded.tokens[encoded.supervised][0]
    assert (
        first == tokenizer.encode("is")[0]
    )  # "▁is": the space is the template's, the word the assistant's


# Texts


def test_texts_have_bos_and_eos_as_asked(tokenizers):
    tokenizer = tokenizers["spm"]
    text = document(Turn("text", "Aspirin reduces fever."))
    ids = tokenizer.encode("Aspirin reduces fever.").tolist()
    for add_bos in (False, True):
        for add_eos in (False, True):
            encoded = encode_document(
                text, tokenizer, ChatConfig(train_on="assistant"), add_bos=add_bos, add_eos=add_eos
            )
            assert encoded.tokens.tolist() == [1] * add_bos + ids + [2] * add_eos
            assert encoded.tokens.dtype == np.int32
            assert encoded.supervised.dtype == bool
            assert encoded.supervised.tolist() == [False] + [True] * (len(encoded.tokens) - 1)


def test_eos_behind_a_conversation(tokenizers):
    tokenizer = tokenizers["spm"]
    assert encode(ONE, tokenizer, add_eos=False).tokens[-1] != 2
    unanswered = encode((*TWO, ONE[0]), tokenizer, train_on="assistant")
    assert unanswered.tokens[-1] == 2
    assert not unanswered.supervised[-1]
    huatuo = encode(TWO, tokenizer, template="huatuo", train_on="assistant")
    assert huatuo.tokens.tolist().count(2) == 2
    assert huatuo.tokens[0] == 1
    assert huatuo.supervised[huatuo.tokens == 2].all()


def test_batches_are_the_documents_one_by_one(tokenizers):
    turns = [
        (Turn("text", "An article."),),
        ONE,
        TWO,
        (Turn("text", ""),),
        (Turn("text", "x"), *ONE),
    ]
    documents = [document(*t) for t in turns]
    for folder in ("spm", "llama3"):
        tokenizer = tokenizers[folder]
        for train_on in ("all", "assistant"):
            chat = ChatConfig(train_on=train_on)
            batch = encode_documents(documents, tokenizer, chat, add_bos=True, add_eos=True)
            for one, together in zip(documents, batch, strict=True):
                alone = encode_document(one, tokenizer, chat, add_bos=True, add_eos=True)
                assert alone.tokens.tolist() == together.tokens.tolist()
                assert alone.supervised.tolist() == together.supervised.tolist()


def test_the_fast_way_gives_the_ids_of_the_slow_one(tokenizers):
    for folder in ("spm", "llama3", "every", "first"):
        fast = encode((SYSTEM, *TWO), tokenizers[folder], train_on="all").tokens.tolist()
        slow = encode((SYSTEM, *TWO), tokenizers[folder], train_on="assistant").tokens.tolist()
        assert fast == slow


def test_the_date_is_not_in_the_rows(tokenizers, tmp_path):
    path = tmp_path / "dated.jinja"
    path.write_text(
        "{% if strftime_now is defined %}today{% else %}{{ messages[0].content }}{% endif %}"
    )
    assert render(ONE, ChatConfig(template=str(path)), tokenizers["spm"]) == "What is it?"


# Mistakes


def test_conversations_that_do_not_fit_say_which(tokenizers):
    with pytest.raises(
        ConversationError, match=r"corpus:7 .*llama2 wants user and assistant in turn"
    ):
        encode((Turn("assistant", "Hello."), *ONE), tokenizers["spm"], template="llama2")
    with pytest.raises(ConversationError, match="no place for running text"):
        encode((Turn("text", "x"), *ONE), tokenizers["spm"], template="llama2")
    with pytest.raises(ConversationError, match="noncharacters"):
        encode((Turn("user", "\ufdd3"), ONE[1]), tokenizers["spm"], template="llama2")


def test_templates_that_cannot_be_used_say_why(tokenizers, tmp_path):
    with pytest.raises(ValueError, match="ships no chat template"):
        encode(ONE, tokenizers["spm"], template="tokenizer")
    with pytest.raises(
        ValueError, match=r"chat\.template: 'lama2' is neither plain, huatuo, llama2"
    ):
        encode(ONE, tokenizers["spm"], template="lama2")
    with pytest.raises(ValueError, match="has no BOS token"):
        encode(ONE, tokenizers["chatml"])
    with pytest.raises(ValueError, match="'bos_token' is undefined"):
        encode(ONE, tokenizers["chatml"], template="llama2")
    (tmp_path / "broken.jinja").write_text("{% for %}")
    with pytest.raises(ValueError, match=r"chat\.template: line 1"):
        encode(ONE, tokenizers["spm"], template=str(tmp_path / "broken.jinja"))


def test_llama3_needs_its_tokens(tokenizers):
    with pytest.raises(ValueError, match=r"llama3 writes <\|begin_of_text\|>, which"):
        encode(ONE, tokenizers["spm"], template="llama3")
