"""A small OpenAI-compatible server on this machine that misbehaves as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What the server does with request number n (from 0): (status, headers, body) or one of the words
# "drop" (closes the connection), "junk" (200 and no JSON), "odd" (JSON, but no completion).
Behaviour = Callable[[int, dict[str, Any]], tuple[int, dict[str, str], str] | str | None]


class CompletionServer:
    """What was asked, and how it answers: the prompt reversed, unless `behave` says otherwise."""

    def __init__(self, behave: Behaviour = lambda n, body: None, delay_s: float = 0.0):
        self.behave, self.delay_s = behave, delay_s
        self.requests: list[tuple[float, str, dict[str, Any], dict[str, str]]] = []
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body, _ in self.requests]


@contextmanager
def serving(server: CompletionServer) -> Iterator[CompletionServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.requests)
                server.requests.append((time.monotonic(), self.path, body, dict(self.headers)))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                time.sleep(server.delay_s)
                answer = server.behave(number, body)
            finally:
                with server.lock:
                    server.at_once -= 1
            if answer == "drop":
                self.close_connection = True
                return
            if answer == "junk":
                answer = (200, {}, "<html>bad gateway</html>")
            elif answer == "odd":
                answer = (200, {}, '{"choices": []}')
            status, headers, text = answer or (200, {}, json.dumps(reply(self.path, body)))
            payload = text.encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except OSError:  # the client has given up waiting
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Http(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away

    http = Http(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def reply(path: str, body: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    if path.endswith("/chat/completions"):
        text = body["messages"][-1]["content"][::-1]
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    else:
        choice = {"text": body["prompt"][::-1], "finish_reason": "stop"}
    return {"choices": [choice], "usage": usage}
