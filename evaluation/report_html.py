"""The pieces that the report's page is put together from: its style, rows, tables, texts cut short."""

import html
import re
from collections.abc import Sequence

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22262b;max-width:1040px;margin:2.5em auto;padding:0 1.2em}
h1{font-size:1.6em;margin:0}h2{font-size:1.15em;margin:2.2em 0 .4em}h3{font-size:1em;margin:1.4em 0 .3em}
p{max-width:46em;margin:.4em 0}.faint{color:#7b838c}svg{width:100%;height:auto;margin:.6em 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6em 0;font-size:.93em}
td,th{padding:.3em 1.1em .3em 0;text-align:right;border-bottom:1px solid #e6e8eb;vertical-align:top}
th{color:#7b838c;font-weight:500}td:first-child,th:first-child{text-align:left}
tr.kind td{font-weight:600}.good{color:#2c7a45}.bad{color:#b3401f}.unclear{color:#7b838c}
ul.warn{background:#fff8e6;border:1px solid #f0dfae;border-radius:6px;padding:.7em 1.2em .7em 2.2em}
.wide{overflow-x:auto}.cards{display:flex;flex-wrap:wrap;gap:.8em;margin:1.2em 0}
.card{border:1px solid #e6e8eb;border-radius:8px;padding:.7em 1.1em;min-width:11.5em}
.card b{font-size:1.45em;display:block;line-height:1.3}.card span{color:#7b838c;font-size:.88em;display:block}
table.answers td,table.answers th{text-align:left;padding-right:1.4em}table.answers{table-layout:fixed;width:100%}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace;margin:0}
table:not(.answers) td,th{white-space:nowrap}td.cell{text-align:center;padding:.35em .8em}details{margin:.5em 0}summary{cursor:pointer;color:#2f6fb5}
""".strip()


def document(title: str, body: str) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def stacked(text: str) -> str:
    """A figure with what stands in parentheses under it, so that columns stay narrow."""
    return text.replace(" (", "<br><span class=faint>", 1).replace(")", "</span>", 1)


def short(text: str, most: int = 240) -> str:
    """The beginning of a text without its white space; a text of nothing else says so."""
    text = re.sub(r"[ \t]*\n\s*", "\n", text.strip())
    return (text if len(text) <= most else text[:most] + " …") or "(nothing)"


def tail(text: str, most: int) -> str:
    """The end of a text."""
    return text if len(text) <= most else "… " + text[-most:]


def row(cells: Sequence[str], kind: str = "") -> str:
    """A row of cells that are HTML already."""
    class_ = f" class={kind}" if kind else ""
    return f"<tr{class_}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def table(head: Sequence[str], lines: Sequence[str], kind: str = "") -> str:
    """Rows under their heads; a wide one is scrolled by itself."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    class_ = f" class={kind}" if kind else ""
    return f"<div class=wide><table{class_}><tr>{top}</tr>{''.join(lines)}</table></div>"
