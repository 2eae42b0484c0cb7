"""PubMed and JATS: what is read of an article, and what is made of files that are broken."""

import gzip
import io
import time
import tracemalloc

import pytest

from data.articles import jats_rows, pubmed_rows
from data.broken import Broken
from data.config import CorpusConfig, FieldsConfig
from data.sources import list_inputs, read

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "https://dtd.invalid/pubmed.dtd">
<PubmedArticleSet>
"""
TAIL = "</PubmedArticleSet>\n"


def pubmed_article(pmid: int, abstract: str = "", title: str = "On the setting of jam") -> str:
    return f"""<PubmedArticle>
  <MedlineCitation Status="MEDLINE"><PMID Version="1">{pmid}</PMID>
    <Article><Journal><JournalIssue><PubDate><Year>2021</Year></PubDate></JournalIssue>
      <Title>Annals of Preserves</Title></Journal>
      <ArticleTitle>{title}</ArticleTitle>
      {f"<Abstract>{abstract}<CopyrightInformation>(c)</CopyrightInformation></Abstract>" if abstract else ""}
      <Language>eng</Language></Article>
    <MeshHeadingList><MeshHeading><DescriptorName>Pectins</DescriptorName></MeshHeading></MeshHeadingList>
    <KeywordList><Keyword>fruit</Keyword></KeywordList>
    <CommentsCorrectionsList><CommentsCorrections><PMID Version="1">999</PMID></CommentsCorrections></CommentsCorrectionsList>
  </MedlineCitation>
  <PubmedData><ArticleIdList><ArticleId IdType="pubmed">{pmid}</ArticleId><ArticleId IdType="doi">10.1/{pmid}</ArticleId></ArticleIdList>
    <ReferenceList><Reference><ArticleIdList><ArticleId IdType="doi">10.9/other</ArticleId></ArticleIdList></Reference></ReferenceList>
  </PubmedData>
</PubmedArticle>
"""


LABELLED = (
    '<AbstractText Label="BACKGROUND">Pectin <i>gels</i> at 10<sup>5</sup>&nbsp;Pa &lt; 1 h in H<sub>2</sub>O.</AbstractText>'
    '<AbstractText Label="RESULTS">However, it did not set.</AbstractText>'
)


def rows(reader, text: str | bytes, max_bytes: int = 1 << 28):
    content = text.encode() if isinstance(text, str) else text
    return list(reader(io.BytesIO(content), max_bytes))


def pubmed(text: str | bytes, **settings):
    return rows(pubmed_rows, text, **settings)


def test_a_labelled_abstract_and_the_plain_fields_beside_it():
    ((line, row),) = pubmed(HEAD + pubmed_article(7, LABELLED) + TAIL)
    assert line == 4
    assert row == {
        "pmid": "7",
        "title": "On the setting of jam",
        "sections": [
            {"title": "BACKGROUND", "text": "Pectin gels at 10^5 Pa < 1 h in H2O."},
            {"title": "RESULTS", "text": "However, it did not set."},
        ],
        "abstract": "Pectin gels at 10^5 Pa < 1 h in H2O.\n\nHowever, it did not set.",
        "journal": "Annals of Preserves",
        "year": "2021",
        "language": "eng",
        "mesh": ["Pectins"],
        "keywords": ["fruit"],
        "doi": "10.1/7",
        "pmcid": "",
    }


def test_a_compressed_baseline_file_as_documents(tmp_path):
    plain = "<AbstractText>All in one. Therefore no label.</AbstractText>"
    articles = [pubmed_article(1, LABELLED), pubmed_article(2), pubmed_article(3, plain)]
    content = HEAD + "".join(articles) + TAIL
    (tmp_path / "pubmed24n0001.xml.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "pubmed24n0001.xml.gz.md5").write_text("no corpus")
    fields = FieldsConfig(text="sections", title="title", id="pmid")
    corpus = CorpusConfig(path=str(tmp_path), format="pubmed", fields=fields)
    assert len(list_inputs(corpus)) == 1
    aside = []
    documents = list(read(corpus, "abstracts", set_aside=aside.append))
    assert [d.meta["source_id"] for d in documents] == ["1", "3"]
    assert documents[0].turns[0].text == (
        "On the setting of jam\nBACKGROUND\nPectin gels at 10^5 Pa < 1 h in H2O.\n\n"
        "RESULTS\nHowever, it did not set."
    )
    assert documents[1].turns[0].text.endswith("jam\nAll in one. Therefore no label.")
    length = pubmed_article(2).count("\n")
    (without,) = aside
    assert without.reason == "empty document"
    first = 4 + pubmed_article(1, LABELLED).count("\n")
    assert without.place.endswith(f".xml.gz:{first}")
    assert documents[1].source.endswith(f":{first + length}")


def test_any_namespace_and_books():
    article = pubmed_article(5, LABELLED).replace("<", "<p:").replace("<p:/", "</p:")
    text = f'<p:Set xmlns:p="urn:any">{article}</p:Set>'
    ((_, row),) = pubmed(text.replace("&nbsp;", " "))
    assert (row["pmid"], len(row["sections"])) == ("5", 2)
    book = (
        "<PubmedArticleSet><PubmedBookArticle><BookDocument><PMID>8</PMID><Book><BookTitle>A book"
        "</BookTitle></Book><ArticleTitle>A chapter</ArticleTitle><Abstract><AbstractText>Text."
        "</AbstractText></Abstract></BookDocument></PubmedBookArticle></PubmedArticleSet>"
    )
    ((_, row),) = pubmed(book)
    assert (row["pmid"], row["title"], row["abstract"]) == ("8", "A chapter", "Text.")


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a.replace("<Language>", "<Langu age"),
        lambda a: a.replace("</Article>", ""),
        lambda a: a.replace("Pectin", "Pec\x02tin"),
        lambda a: a.replace("</PubmedArticle>", "</PubmedArticl>"),
        lambda a: a.replace("<PubmedArticle>", "<PubmedArticl>"),
        lambda a: a.replace("&lt;", "&undefined-anywhere;"),
        lambda a: a.replace("&lt;", "<"),
    ],
)
def test_a_broken_record_is_set_aside_alone(damage):
    articles = [pubmed_article(i, LABELLED) for i in range(5)]
    whole = pubmed(HEAD + "".join(articles) + TAIL)
    articles[2] = damage(articles[2])
    found = pubmed(HEAD + "".join(articles) + TAIL)
    assert [i for i in (0, 1, 3, 4) if whole[i] not in found] == []
    broken = [(line, row) for line, row in found if isinstance(row, Broken)]
    assert len(broken) == 1
    assert broken[0][0] == whole[2][0]
    assert broken[0][1].reason.startswith("broken XML: ")
    assert broken[0][1].excerpt.startswith("<PubmedArticl")


def test_bytes_that_are_not_the_encoding_are_one_broken_record():
    content = (HEAD + pubmed_article(1, LABELLED) + pubmed_article(2, LABELLED) + TAIL).encode()
    found = pubmed(content.replace(b"gels", b"g\xffls", 1))
    assert isinstance(found[0][1], Broken)
    assert found[1][1]["pmid"] == "2"
    latin = (HEAD.replace("utf-8", "iso-8859-1") + pubmed_article(1, LABELLED) + TAIL).encode()
    ((_, row),) = pubmed(latin.replace(b"gels", b"g\xe9ls"))
    assert row["abstract"].startswith("Pectin géls")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_breaks_off_says_so(share):
    content = HEAD + "".join(pubmed_article(i, LABELLED) for i in range(20)) + TAIL
    found = pubmed(content[: int(len(content) * share)])
    assert isinstance(found[-1][1], Broken)
    assert len(found) == int(20 * share) + 1 or len(found) == int(20 * share)
    assert not any(isinstance(row, Broken) for _, row in found[:-1])
    missing_end = pubmed(content.replace("</PubmedArticleSet>", ""))
    assert len(missing_end) == 21
    assert missing_end[-1][1].reason.startswith("broken XML")


def test_what_is_no_such_file_says_so():
    for text, reason in (
        ("<html><body>404</body></html>", "no record: there is no PubmedArticle"),
        ("not XML at all", "broken XML: "),
        ("<a>", "broken XML: "),
    ):
        ((line, row),) = pubmed(text)
        assert line == 1
        assert row.reason.startswith(reason)
    assert pubmed("") == []


def test_entities_that_grow_without_bound_are_refused():
    grows = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    text = f'<!DOCTYPE S [<!ENTITY l0 "lol">{grows}]><S>{pubmed_article(1, "<AbstractText>&l11;</AbstractText>")}</S>'
    before = time.process_time()
    ((_, row),) = pubmed(text)
    assert isinstance(row, Broken)
    assert time.process_time() - before < 5


def test_one_record_is_held_at_a_time():
    class File(io.RawIOBase):  # 10 MB that are nowhere whole
        def __init__(self):
            self.blocks = iter([HEAD.encode(), *[record] * 100, TAIL.encode()])

        def read(self, size=-1):
            return next(self.blocks, b"")

    record = pubmed_article(1, f"<AbstractText>{'Sugar sets it. ' * 7000}</AbstractText>").encode()
    tracemalloc.start()
    try:
        count = sum("pmid" in row for _, row in pubmed_rows(File(), 1 << 28))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100
    assert peak < 6 * len(record) + (4 << 20)


def test_a_record_that_is_too_long_is_set_aside():
    body = "Sugar sets it.\n" * 300_000
    long = pubmed_article(2, f"<AbstractText>{body}</AbstractText>")
    text = HEAD + pubmed_article(1, LABELLED) + long + pubmed_article(3, LABELLED) + TAIL
    found = pubmed(text, max_bytes=1 << 20)
    assert [row.reason if isinstance(row, Broken) else row["pmid"] for _, row in found] == [
        "1",
        f"too long: over {1 << 20} bytes in one record",
        "3",
    ]
    assert found[2][0] == text[: text.index(pubmed_article(3, LABELLED))].count("\n") + 1


def test_elements_within_elements_without_end_are_set_aside():
    deep = f"<AbstractText>{'<b>' * 50_000}x{'</b>' * 50_000}</AbstractText>"
    text = HEAD + pubmed_article(1, deep) + pubmed_article(2, LABELLED) + TAIL
    first, second = (row for _, row in pubmed(text))
    assert first.reason.startswith("nested too deeply")
    assert second["pmid"] == "2"
    deep = "<sec><title>T</title>" * 50_000 + "</sec>" * 50_000
    ((_, row),) = rows(jats_rows, f"<article><body>{deep}</body></article>")
    assert row.reason.startswith("nested too deeply")


JATS = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Journal Archiving v1.2//EN" "JATS-archivearticle1.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML" xml:lang="en">
<front><journal-meta><journal-title-group><journal-title>Kitchen Science</journal-title></journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="pmid">77</article-id><article-id pub-id-type="pmc">PMC5</article-id>
<title-group><article-title>Why jam sets<xref ref-type="fn">*</xref></article-title></title-group>
<pub-date><year>2020</year></pub-date>
<abstract><title>Abstract</title><sec><title>Aim</title><p>To find out.</p></sec><sec><title>Findings</title><p>Acid matters.</p></sec></abstract>
<abstract abstract-type="graphical"><p>A picture.</p></abstract>
</article-meta></front>
<body><p>An opening line.</p>
<sec><label>1</label><title>Methods</title>
  <sec><title>Fruit</title><p>We bought 20 pears [<xref ref-type="bibr" rid="r1">1</xref>, <xref ref-type="bibr" rid="r2">2</xref>]
   and apples<sup><xref ref-type="bibr" rid="r3">3</xref></sup>, as in <xref ref-type="fig" rid="f1">Figure 1</xref>.</p>
   <fig id="f1"><caption><p>Pears.</p></caption></fig></sec>
  <sec><title>Boiling</title><p>It took:<list><list-item><p>ten minutes;</p></list-item><list-item><p>or more.</p></list-item></list></p>
   <table-wrap><table><tr><td>1</td></tr></table></table-wrap></sec>
</sec>
<sec><title>Results</title><p>Yield was 3 x 10<sup>-3</sup> kg.</p><p>Second paragraph<break/>goes on.</p></sec>
</body>
<back><ack><p>Thanks.</p></ack><ref-list><ref><mixed-citation>Reference.</mixed-citation></ref></ref-list></back>
<sub-article><body><p>A reviewer's letter.</p></body></sub-article>
</article>
"""


def test_an_article_in_jats_with_nested_sections():
    ((line, row),) = rows(jats_rows, JATS)
    assert line == 3
    assert row["title"] == "Why jam sets"
    assert (row["pmid"], row["pmcid"], row["year"], row["language"]) == ("77", "PMC5", "2020", "en")
    assert row["journal"] == "Kitchen Science"
    assert row["abstract"] == [
        {"title": "Aim", "text": "To find out."},
        {"title": "Findings", "text": "Acid matters."},
    ]
    assert row["body"] == [
        {"title": "", "text": "An opening line."},
        {
            "title": "Methods",
            "text": "Fruit\nWe bought 20 pears and apples, as in Figure 1.",
        },
        {"title": "Boiling", "text": "It took:\n\n- ten minutes;\n- or more."},
        {"title": "Results", "text": "Yield was 3 x 10^-3 kg.\n\nSecond paragraph goes on."},
    ]
    assert row["sections"] == [*row["abstract"], *row["body"]]


def test_an_unlabelled_abstract_is_headed_abstract_and_sets_have_many_articles():
    article = JATS[JATS.index("<article ") :]
    start, end = article.index("<abstract>"), article.index("<abstract abstract-type")
    plain = article[:start] + "<abstract><p>It sets.</p></abstract>" + article[end:]
    text = f"<pmc-articleset>{article}{plain}</pmc-articleset>"
    found = [row for _, row in rows(jats_rows, text)]
    assert len(found) == 2
    assert found[1]["abstract"] == [{"title": "Abstract", "text": "It sets."}]


def test_jats_files_by_their_names(tmp_path):
    (tmp_path / "a.nxml").write_text(JATS)
    (tmp_path / "b.xml").write_text(JATS.replace("jam", "jelly"))
    (tmp_path / "c.nxml").write_text(JATS[: len(JATS) // 2])
    fields = FieldsConfig(text="sections", title="title", id="pmcid")
    aside = []
    corpus = CorpusConfig(path=str(tmp_path), format="jats", fields=fields)
    documents = list(read(corpus, "x", set_aside=aside.append))
    assert [d.meta["title"] for d in documents] == ["Why jam sets", "Why jelly sets"]
    assert documents[0].turns[0].text.startswith("Why jam sets\nAim\nTo find out.\n\nFindings\n")
    assert [item.kind for item in aside] == ["broken XML"]
    corpus = CorpusConfig(path=str(tmp_path / "a.nxml"), fields=fields)
    assert len(list(read(corpus, "x", set_aside=pytest.fail))) == 1
    with pytest.raises(ValueError, match=r"b\.xml does not tell its format"):
        list_inputs(CorpusConfig(path=str(tmp_path / "b.xml")))
