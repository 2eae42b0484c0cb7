import pickle

import pytest
import yaml

from data.comprehension import language as languages_module
from data.comprehension.config import ComprehensionConfig
from data.comprehension.finders import finders
from data.comprehension.language import languages, load_language
from data.comprehension.mine import mine


@pytest.mark.parametrize("code", languages())
def test_every_file_is_complete_and_all_its_expressions_compile(code: str):
    language = load_language(code)
    file = language.file
    assert {label for relation in file.relations.values() for label in relation.tasks.values()} == {
        "entail",
        "contradict",
        "neutral",
        "cause_effect",
        "effect_cause",
        "similar",
        "different",
    }
    assert file.definitions
    assert file.topics
    assert file.questions
    assert mine("x", language, None) == []  # compiles everything
    assert pickle.loads(pickle.dumps(language)) is language


@pytest.mark.parametrize("code", languages())
def test_no_connective_signals_two_relations(code: str):
    seen: dict[tuple[str, str], str] = {}
    for name, relation in load_language(code).file.relations.items():
        for kind in (
            "openings",
            "joints",
            "phrases",
            "subjects",
            "heads",
            "phrase_heads",
            "answers",
            "phrase_answers",
        ):
            place = (
                "opening"
                if kind in ("openings", "heads", "phrase_heads", "answers", "phrase_answers")
                else "inside"
            )
            for word in getattr(relation, kind):
                key = (place, word.lower())
                assert key not in seen, f"{word!r}: {seen[key]} and {name}.{kind}"
                seen[key] = f"{name}.{kind}"


def test_english_and_chinese_are_complete():
    for code in ("en", "zh"):
        relations = load_language(code).file.relations
        assert all(
            relation.openings or relation.heads or relation.subjects
            for relation in relations.values()
        )
        assert len({word for r in relations.values() for word in (*r.openings, *r.joints)}) >= 60


def test_an_unknown_language_and_a_wrong_file_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'xx' has no file"):
        load_language("xx")
    with pytest.raises(ValueError, match=r"language: 'xx' has no file .*say auto"):
        ComprehensionConfig(language="xx")
    (tmp_path / "yy.yaml").write_text("name: Test\nconnectivs: {}\n", encoding="utf-8")
    monkeypatch.setattr(languages_module, "FOLDER", tmp_path)
    languages.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"connectives/yy.yaml: (.|\n)*connectivs"):
            load_language("yy")
    finally:
        monkeypatch.undo()
        languages.cache_clear()


def test_a_third_language_is_a_file_and_no_code(tmp_path, monkeypatch):
    """A copy of the German file under another name works like it, and its changes take effect."""
    german = (languages_module.FOLDER / "de.yaml").read_text(encoding="utf-8")
    (tmp_path / "nn.yaml").write_text(german.replace(", denn'", ", dieweil'"), encoding="utf-8")
    monkeypatch.setattr(languages_module, "FOLDER", tmp_path)
    languages.cache_clear()
    text = "Viele Kinder husten im Winter, dieweil die Luft in den Zimmern zu trocken ist."
    try:
        tasks = mine(text, load_language("nn"), None)
    finally:
        monkeypatch.undo()
        languages.cache_clear()
        load_language.cache_clear()
    assert [task.label for task in tasks] == ["effect_cause"]
    assert mine(text, load_language("de"), None) == []


def test_a_trie_finds_the_longest_word_and_no_other():
    words = [", but", ", but also", "; however,", " because", " because of", " due to"]
    text = "a, but b; however, c because of d, but also e because f due to g, butter"
    found = [m[0] for pattern in finders(words, spaced=True) for m in pattern.finditer(text)]
    assert sorted(found) == sorted(
        [", but", "; however,", " because of", ", but also", " because", " due to"]
    )


@pytest.mark.parametrize("code", languages())
def test_no_key_is_given_twice(code: str):
    """YAML keeps the last of two equal keys and says nothing."""

    class Strict(yaml.BaseLoader):
        pass

    def mapping(loader: yaml.BaseLoader, node: yaml.MappingNode) -> dict:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(set(map(str, keys))) == len(keys), keys
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    text = (languages_module.FOLDER / f"{code}.yaml").read_text(encoding="utf-8")
    assert yaml.load(text, Loader=Strict)
