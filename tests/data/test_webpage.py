"""Web pages: the prose with its headings, and nothing of the page around it."""

import sys

import pytest

from data.broken import Broken
from data.config import CorpusConfig, FieldsConfig
from data.sources import read
from data.webpage import webpage_row

PAGE = """<!DOCTYPE html>
<html lang="en"><head><title>Bond yields rise | Daily Ledger</title>
<meta property="og:title" content="Bond yields rise"><script>var tracking = 1;</script></head>
<body><nav><ul><li><a href="/">Home</a></li><li><a href="/markets">Markets</a></li></ul></nav>
<article><h1>Bond yields rise</h1>
<p>Yields on ten-year bonds rose by 12 basis points on Tuesday, the most since March.<br>Therefore,
mortgage rates are expected to follow, said <b>analysts</b> at three banks who watch the market.</p>
<h2>Why it matters</h2>
<h3>For lenders</h3>
<p>The yield is defined as the annual return on a bond. However, prices fall when yields rise,
because the coupon is fixed at issue &amp; new bonds pay more than the old ones did.</p>
<ul><li>Banks hold many bonds to maturity.</li><li>Funds sell them sooner, at a loss.</li></ul>
<table><tr><th>Bond</th><th>Yield</th></tr><tr><td>two years</td><td>4.1 %</td></tr></table>
<h2>Related stories</h2>
</article><aside class="ads">Buy now!</aside><footer>Copyright, all rights reserved</footer>
</body></html>
"""


def test_a_page_has_its_title_and_its_prose_under_headings():
    row = webpage_row(PAGE.encode(), "/pages/bonds.html")
    assert not isinstance(row, Broken)
    assert (row["title"], row["name"]) == ("Bond yields rise", "bonds")
    first, second = row["sections"]
    assert first["title"] == ""
    assert first["text"].startswith("Yields on ten-year bonds rose by 12 basis points on Tuesday")
    assert "since March. Therefore, mortgage" in first["text"]
    assert second["title"] == "Why it matters"
    assert second["text"].startswith("For lenders\nThe yield is defined as the annual return on a")
    assert "fixed at issue & new bonds" in second["text"]
    assert "\n\n- Banks hold many bonds to maturity.\n- Funds sell them" in second["text"]
    assert second["text"].endswith("Bond | Yield\ntwo years | 4.1 %")
    assert row["text"] == f"{first['text']}\n\nWhy it matters\n{second['text']}"
    for around in ("Markets", "tracking", "Buy now", "Copyright", "Related", "Ledger"):
        assert around not in row["text"]


@pytest.mark.parametrize("text", ["", "<html><body></body></html>", "\ufffd\ufffd<<<>>>", "{}"])
def test_a_page_without_prose_is_set_aside(text):
    row = webpage_row(text.encode(), "a.html")
    assert isinstance(row, Broken)
    assert row.reason.startswith("no text: ")


def test_html_that_is_not_well_formed_is_read_all_the_same():
    row = webpage_row(PAGE.replace("</p>", "").replace("</li>", "").encode(), "a.html")
    assert not isinstance(row, Broken)
    assert "mortgage rates" in row["text"]


def test_a_folder_of_pages(tmp_path):
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.htm").write_bytes(PAGE.replace("issue", "issué").encode("utf-8"))
    (tmp_path / "c.html").write_text("<html></html>")
    (tmp_path / "d.html").write_bytes(b"\0\0")
    aside = []
    fields = FieldsConfig(text="sections", title="title", id="name")
    corpus = CorpusConfig(path=str(tmp_path), fields=fields)  # the format is told by the names
    documents = list(read(corpus, "news", set_aside=aside.append))
    assert [d.meta["source_id"] for d in documents] == ["a", "b"]
    assert documents[0].turns[0].text.startswith("Bond yields rise\nYields on ten-year bonds")
    assert "\n\nWhy it matters\nFor lenders\nThe yield is" in documents[0].turns[0].text
    assert "issué" in documents[1].turns[0].text
    assert [item.kind for item in aside] == ["no text", "binary file"]


def test_the_extractor_is_not_loaded_for_other_sources(tmp_path):
    import subprocess

    (tmp_path / "a.txt").write_text("text")
    code = (
        "import sys; from data.config import CorpusConfig; from data.sources import read\n"
        f"print(len(list(read(CorpusConfig(path={str(tmp_path)!r}), 'x', set_aside=print))))\n"
        "assert 'trafilatura' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
