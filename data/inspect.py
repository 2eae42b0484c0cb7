"""Shows what was prepared: `python -m data.inspect DIR [--documents N] [--rows N] [--html FILE]`.

DIR is the `out_dir` of a preparation, or one stream in it. Shown are converted documents, each text
beside what is asked about it, and packed rows with their segments; text is coloured by the loss
mask as it lies on disk, so what is seen is what is trained on.

`--id` picks documents, `--export` writes every task with its question and answer as a line of JSON,
`--judge` has a sample of the pairs graded for accuracy, relevance and kind of task.
"""

import argparse
import sys
from collections.abc import Iterator

from etils import epath

from data import rows as rows_lib
from data.document import Document
from data.lesson import pairs
from data.page import to_html
from data.terminal import print_views
from data.view import find_streams, read_documents, view_documents, view_streams


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    from configs.load import user_errors

    parser = argparse.ArgumentParser("python -m data.inspect", description=__doc__)
    parser.add_argument("DIR", help="a folder written by data.prepare, or one stream in it")
    parser.add_argument(
        "--documents", type=int, default=3, metavar="N", help="documents to show of each stream"
    )
    parser.add_argument(
        "--rows", type=int, default=2, metavar="N", help="packed rows to show of each stream"
    )
    parser.add_argument(
        "--id", help="show this document: its own id, that of the one it is made of, or yours"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page instead of printing")
    parser.add_argument(
        "--export", metavar="FILE", help="write all tasks as question-answer pairs, JSON Lines"
    )
    parser.add_argument(
        "--judge",
        metavar="FILE",
        help="grade a sample of pairs: a .yaml of a server (base_url, model, ...), or a .csv to fill in",
    )
    parser.add_argument("--pairs", type=int, default=500, metavar="N", help="pairs to judge")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    with user_errors():
        if options.judge:
            from data.judge import judge

            streams = _streams(options.DIR, options.id)
            documents = (document for _, found in streams for document in found)
            print(judge(documents, options.judge, options.pairs))
            return
        if options.export:
            count = export(options.DIR, options.export, options.id)
            print(f"{options.export}: {count:,} pairs")
            return
        if options.id:
            views = view_documents(options.DIR, options.id)
        else:
            views = view_streams(
                options.DIR, num_documents=options.documents, num_rows=options.rows
            )
        if options.html:
            epath.Path(options.html).write_text(to_html(views))
            print(f"{options.html}: {len(views)} streams; open it in a browser")
        else:
            print_views(views)


def export(folder: str, file: str, wanted: str | None = None) -> int:
    """Writes the tasks of a prepared folder as pairs, of all documents or of one; gives their number.

    Raises:
        ValueError: there is no finished stream, no such document, or no task in any.
    """
    count = 0
    with rows_lib.whole_file(file) as local, open(local, "w", encoding="utf-8") as out:
        for name, documents in _streams(folder, wanted):
            for pair in pairs(documents):
                out.write(rows_lib.to_json({"stream": name, **pair}) + "\n")
                count += 1
        if not count:
            raise ValueError(
                f"--export: no document of {folder} has tasks (meta.tasks); they come from "
                "convert: comprehension or synthesis"
            )
    return count


def _streams(folder: str, wanted: str | None) -> Iterator[tuple[str, Iterator[Document]]]:
    if wanted is not None:
        for view in view_documents(folder, wanted):
            yield view.name, iter(view.documents)
        return
    for path in find_streams(folder):
        yield path.name, read_documents(path)


if __name__ == "__main__":
    main()
