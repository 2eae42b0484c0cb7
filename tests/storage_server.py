"""A stand-in for Google Cloud Storage: what gcsfs, TensorStore and array_record ask of it, in memory.

In a test it runs on threads of the test's own process, so killing a run leaves it alive and the test may look at the
objects, damage them, or step in before a request is served. `python tests/storage_server.py BUCKET...` serves by hand.

Like the real one it has whole objects with generations, conditional reads and writes, listings in pages, reads of ranges,
uploads in one piece and in several; no folders, no append, no rename. What it does not know it refuses with 400 and notes
in `refused`, so that no test passes on an answer that was made up.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 1000  # objects in a page of a listing
# All that a request may say beside its path. `fields` and the like only shorten an answer; `tensorstore` is a number
# against caches on the way.
PARAMETERS = {"alt", "fields", "prettyPrint", "projection", "tensorstore", "name", "uploadType"}
PARAMETERS |= {"ifGenerationMatch", "ifGenerationNotMatch"}
PARAMETERS |= {"prefix", "delimiter", "startOffset", "endOffset", "maxResults", "pageToken"}


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Object:
    content: bytes
    generation: int
    updated: float = field(default_factory=time.time)

    def describe(self, bucket: str, name: str) -> dict[str, Any]:
        """The object's resource, as the JSON API spells it."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.updated))
        told = {"kind": "storage#object", "name": name, "bucket": bucket, "updated": when}
        told |= {"timeCreated": when, "size": str(len(self.content)), "metageneration": "1"}
        return told | {"generation": str(self.generation), "md5Hash": md5(self.content)}


class StorageServer:
    """The server and its objects; a context manager.

    Attributes:
        objects: by (bucket, name).
        before: called with (method, object name) before a request is served; a status that it returns is the answer in
            place of the real one, and nothing is done.
        refused: requests that the stand-in does not know, or failed at.
        served: requests of each client, by the word that its User-Agent begins with.
    """

    def __init__(self, *buckets: str, port: int = 0):
        self.buckets = buckets
        self.objects: dict[tuple[str, str], Object] = {}
        self.before: Callable[[str, str], int | None] = lambda method, name: None
        self.refused: list[str] = []
        self.served: Counter[str] = Counter()
        self.uploads: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}
        self.lock = threading.RLock()
        self.numbers = itertools.count(int(time.time() * 1e6))
        handler = type("Handler", (_Handler,), {"storage": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "StorageServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self) -> dict[str, str]:
        """Variables that point the three libraries here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,  # gcsfs, and Orbax's google-cloud-storage
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,  # google-cloud-cpp in array_record
            # Else gcsfs asks over gRPC, which no variable leads elsewhere, what kind of bucket it is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            # Nobody to ask for credentials; asking takes ten seconds where there is no network.
            "FSSPEC_GCS_TOKEN": "anon",
            "GOOGLE_CLOUD_PROJECT": "stand-in",
        }

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of a bucket's objects that begin with a prefix, sorted."""
        with self.lock:
            return sorted(n for b, n in self.objects if b == bucket and n.startswith(prefix))

    def content(self, bucket: str, name: str) -> bytes:
        return self.find(bucket, name).content

    def find(self, bucket: str, name: str) -> Object:
        if (bucket, name) not in self.objects:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return self.objects[bucket, name]

    def put(
        self, bucket: str, name: str, content: bytes, query: dict[str, str] | None = None
    ) -> Object:
        """Writes an object whole, if the conditions of the query hold."""
        with self.lock:
            self.check(bucket, name, query or {}, missed=412)
            self.objects[bucket, name] = Object(content, next(self.numbers))
            return self.objects[bucket, name]

    def delete(self, bucket: str, name: str, query: dict[str, str] | None = None) -> None:
        with self.lock:
            self.find(bucket, name)
            self.check(bucket, name, query or {}, missed=412)
            del self.objects[bucket, name]

    def check(self, bucket: str, name: str, query: dict[str, str], *, missed: int) -> None:
        """Raises where a condition does not hold; `missed`: the status when the generation is one not wanted."""
        if bucket not in self.buckets:
            raise Refused(404, f"No such bucket: {bucket}")
        now = self.objects.get((bucket, name))
        generation = str(now.generation if now else 0)
        if query.get("ifGenerationMatch", generation) != generation:
            raise Refused(412, f"{name}: generation is {generation}")
        if query.get("ifGenerationNotMatch") == generation:
            raise Refused(missed, f"{name}: generation is {generation}")

    def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        """A page of a bucket's objects, and of the folders that a delimiter makes of their names."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        begin = max(query.get("startOffset", ""), query.get("pageToken", ""))
        page: dict[str, Any] = {"kind": "storage#objects", "items": [], "prefixes": []}
        with self.lock:
            for name in self.names(bucket, prefix):
                folder = None
                if delimiter and delimiter in name[len(prefix) :]:
                    folder = name[: name.index(delimiter, len(prefix)) + len(delimiter)]
                entry = folder or name
                if entry < begin or entry in page["prefixes"]:
                    continue
                if entry >= (query.get("endOffset") or "\U0010ffff"):
                    break
                if len(page["items"] + page["prefixes"]) == int(query.get("maxResults", PAGE)):
                    return page | {"nextPageToken": entry}
                if folder:
                    page["prefixes"].append(folder)
                else:
                    page["items"].append(self.objects[bucket, name].describe(bucket, name))
        return page


class _Handler(BaseHTTPRequestHandler):
    storage: StorageServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: Nagle's wait would cost 40 ms an answer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Serves a connection until the client lets go of it, or is killed."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def serve(self) -> None:
        """Answers any request."""
        self.storage.served[self.headers.get("User-Agent", "").split("/")[0]] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        try:
            if unknown := query.keys() - PARAMETERS:
                raise Refused(400, f"the stand-in does not know {unknown}")
            self._route([unquote(part) for part in url.path.split("/")[1:]], query, body)
        except Refused as error:
            if error.status == 400:
                self.storage.refused.append(f"{self.command} {self.path}")
            told = {"error": {"code": error.status, "message": str(error), "errors": []}}
            self._json(told, error.status)
        except ConnectionError:
            raise
        except Exception as error:
            self.storage.refused.append(f"{self.command} {self.path}: {error!r}")
            raise

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def _route(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
        storage = self.storage
        match [self.command, *parts]:
            case ["GET", "storage", "v1", "b", bucket]:
                storage.check(bucket, "", {}, missed=404)
                self._json({"kind": "storage#bucket", "name": bucket, "id": bucket})
            case ["GET", "storage", "v1", "b", bucket, "o"]:
                storage.check(bucket, "", {}, missed=404)
                self._json(storage.listing(bucket, query))
            case ["GET", "storage" | "download", *_, "b", bucket, "o", name]:
                self._read(bucket, name, query)
            case ["DELETE", "storage", "v1", "b", bucket, "o", name]:
                self._step_in(name)
                storage.delete(bucket, name, query)
                self._answer(204, b"")
            case ["POST", "upload", "storage", "v1", "b", bucket, "o"]:
                storage.check(bucket, "", {}, missed=404)
                self._upload(bucket, query, body)
            case ["POST", "upload", "session", number]:
                self._upload_more(number, body)
            case _:
                raise Refused(400, "the stand-in does not know this request")

    def _step_in(self, name: str) -> None:
        if status := self.storage.before(self.command, name):
            raise Refused(status, "stepped in by the test")

    def _read(self, bucket: str, name: str, query: dict[str, str]) -> None:
        self._step_in(name)
        found = self.storage.find(bucket, name)
        self.storage.check(bucket, name, query, missed=304)
        if query.get("alt") != "media":
            return self._json(found.describe(bucket, name))
        size = stop = len(found.content)
        start, status = 0, 200
        headers = {"x-goog-generation": str(found.generation), "x-goog-metageneration": "1"}
        headers |= {"x-goog-hash": f"md5={md5(found.content)}"}
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = asked[1], asked[2]
            start = int(first) if first else max(0, size - int(last))  # -N: the last N bytes
            stop = min(size, int(last) + 1) if first and last else size
            if start >= size:
                raise Refused(416, f"{name} has {size} bytes")
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{size}"
        self._answer(status, found.content[start:stop], "application/octet-stream", headers)

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        match query.get("uploadType"):
            case "media":
                self._store(bucket, query["name"], query, body)
            case "multipart":  # a description, then the content
                mark = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
                assert mark is not None
                _, described, rest = body.split(b"--" + mark[1].encode(), 2)
                name = json.loads(re.split(rb"\r?\n\r?\n", described, maxsplit=1)[1])["name"]
                content = rest[: rest.rindex(b"--" + mark[1].encode())]
                content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
                self._store(bucket, name, query, re.sub(rb"\r?\n\Z", b"", content))
            case "resumable":
                number = str(next(self.storage.numbers))
                self.storage.uploads[number] = (bucket, query["name"], query, bytearray())
                place = f"{self.storage.url}/upload/session/{number}"
                self._answer(200, b"", headers={"Location": place})
            case kind:
                raise Refused(400, f"uploadType {kind}")

    def _upload_more(self, number: str, body: bytes) -> None:
        """The next piece of an upload: `Content-Range: bytes FIRST-LAST/SIZE`, SIZE being * until the last one."""
        bucket, name, query, held = self.storage.uploads[number]
        place, _, size = self.headers["Content-Range"].removeprefix("bytes ").partition("/")
        if place != "*":
            held[int(place.split("-")[0]) :] = body
        if size == "*":
            return self._answer(308, b"", headers={"Range": f"bytes=0-{len(held) - 1}"})
        self._store(bucket, name, query, bytes(held))
        del self.storage.uploads[number]

    def _store(self, bucket: str, name: str, query: dict[str, str], content: bytes) -> None:
        self._step_in(name)
        self._json(self.storage.put(bucket, name, content, query).describe(bucket, name))

    def _json(self, value: Any, status: int = 200) -> None:
        content = b"" if status == 304 else json.dumps(value).encode()
        self._answer(status, content, "application/json; charset=UTF-8")

    def _answer(
        self, status: int, content: bytes, kind: str = "text/plain", headers: Any = None
    ) -> None:
        self.send_response(status)
        length = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (length | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle_expect_100(self) -> bool:
        """Says "go on", at once: the client waits for it."""
        done = super().handle_expect_100()
        self.wfile.flush()
        return done

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


if __name__ == "__main__":
    with StorageServer(*sys.argv[1:]) as server:
        for variable, setting in server.environment().items():
            print(f"export {variable}={setting}", flush=True)
        threading.Event().wait()
