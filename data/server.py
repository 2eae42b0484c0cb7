"""An OpenAI-compatible server as a `Generate`: texts to continue, or conversations to reply to.

Many requests are under way at once. What a server refuses for a while (429, 5xx, time-outs, dropped
connections, answers that are not JSON) is asked again with a growing wait, drawn at random so that
requests do not come back together, or when the server says (`Retry-After`, for all requests). What
it refuses for good fails alone (400: a prompt too long), or ends the job where every request would
fail (401, 403, 404). Rates are kept under the recipe's limits; tokens and cost are counted.

The key is read from the environment and goes into a header, nowhere else: an error that quotes it
comes out without it.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from json import JSONDecodeError
from typing import Any

from data.generator import Completion, Prompt, ServerConfig
from data.journal import journaled
from data.rate import Bucket, backoff, retry_after

RETRIED = {408, 409, 425, 429}  # and all of 5xx
FATAL = {401, 402, 403, 404, 405}
CHARS_PER_TOKEN = 4  # to reserve tokens before the server has counted them
_EXCERPT = 300


@dataclass
class Usage:
    """What a server was asked and what it cost.

    Attributes:
        requests: sent, the repeated ones too.
        retries: of them, sent again.
        failed: prompts given up.
        uncounted: answers in which the server did not say the number of tokens.
        prompt_tokens, tokens: read and written, as the server counts them.
        cost: US$, by the recipe's prices.
    """

    requests: int = 0
    retries: int = 0
    failed: int = 0
    uncounted: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.requests} requests ({self.retries} again, {self.failed} given up), "
            f"{self.prompt_tokens} tokens read, {self.tokens} written, ${self.cost:.2f}"
        )


class Server:
    """A server, and what was used of it.

    Args:
        config: where it is and how it is asked.
        journal: how the paths of a journal begin, so that a job that is started again goes on
            (`data.journal`); None keeps none.

    Raises:
        ValueError: the environment variable of the key is not set.
    """

    def __init__(self, config: ServerConfig, *, journal: str | None = None):
        self.config = config
        self.usage = Usage()
        self._journal = journal
        self._key = _key(config)
        self._requests = Bucket(config.requests_per_minute)
        self._tokens = Bucket(config.tokens_per_minute)
        self._not_before = 0.0
        self._lock = threading.Lock()

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Completion]:
        """Completions of `prompts`, as they come.

        Raises:
            ValueError: the server refuses all requests, a prompt does not fit the endpoint, or
                `max_cost` is spent. What was finished is in the journal.
        """
        if self._journal is None:
            return self._generate(prompts)
        key = f"{self.config.base_url} {self.config.model} {self.config.endpoint}"
        return journaled(self._generate, self._journal, key=key)(prompts)

    def __repr__(self) -> str:
        return f"Server({self.config.base_url!r}, {self.config.model!r})"

    def _generate(self, prompts: Iterable[Prompt]) -> Iterator[Completion]:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx.Timeout(self.config.timeout_s, connect=min(30.0, self.config.timeout_s))
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=self.config.concurrency
        )
        client = httpx.Client(headers=headers, timeout=timeout, limits=limits)
        pool = ThreadPoolExecutor(self.config.concurrency, "server")
        stop = threading.Event()
        left = iter(prompts)
        running: set[Future[Completion]] = set()
        refused: ValueError | None = None
        try:
            while True:
                while refused is None and len(running) < self.config.concurrency:
                    prompt = next(left, None)
                    if prompt is None:
                        break
                    url, body = self._request(prompt)
                    running.add(pool.submit(self._complete, client, prompt.id, url, body, stop))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        completion = future.result()
                    except ValueError as error:
                        refused = refused or error
                        stop.set()
                    else:
                        if refused is None or completion.finish != "error":
                            yield completion
            if refused:
                raise refused
        finally:
            stop.set()
            client.close()  # requests under way end at once
            pool.shutdown(wait=False, cancel_futures=True)

    def _request(self, prompt: Prompt) -> tuple[str, dict[str, Any]]:
        """Where a prompt is sent, and the body."""
        config, sampling = self.config, prompt.sampling
        is_text = all(turn.role == "text" for turn in prompt.turns)
        body: dict[str, Any] = {"model": config.model}
        if config.endpoint == "completions":
            if not is_text:
                raise ValueError(
                    f"endpoint: completions continues texts, but prompt {prompt.id} is a "
                    "conversation; set endpoint: chat"
                )
            text = "\n\n".join(turn.text for turn in prompt.turns)
            if prompt.literal_special and config.bos:
                text = text.removeprefix(config.bos)
            body["prompt"] = text
        else:
            if prompt.literal_special:
                raise ValueError(
                    f"endpoint: chat cannot take prompt {prompt.id}, which writes its special "
                    "tokens itself; set endpoint: completions"
                )
            roles = {"text": "user"}
            body["messages"] = [
                {"role": roles.get(turn.role, turn.role), "content": turn.text}
                for turn in prompt.turns
            ]
        body |= {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        # Not in OpenAI's own interface, so they are sent only where they say something.
        for name, neutral in (("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
            if (value := getattr(sampling, name)) != neutral:
                body[name] = value
        body = {name: value for name, value in (body | config.extra).items() if value is not None}
        path = "completions" if config.endpoint == "completions" else "chat/completions"
        return f"{config.base_url.rstrip('/')}/{path}", body

    def _complete(
        self, client: Any, id: str, url: str, body: dict[str, Any], stop: threading.Event
    ) -> Completion:
        """One prompt, asked until it is answered or given up."""
        import httpx

        fault = ""
        reserved = _num_chars(body) / CHARS_PER_TOKEN + body.get("max_tokens", 0)
        for attempt in range(self.config.attempts):
            if not self._wait(reserved, stop):
                break
            self._count(requests=1, retries=int(attempt > 0))
            after: float | None = None
            used = 0.0
            try:
                answer = client.post(url, json=body)
                if answer.status_code == 200:
                    completion, used = self._read(id, answer.json())
                    if completion.finish != "error":
                        return completion
                    self._count(failed=1)
                    return completion
                fault = self._hide(f"{answer.status_code}: {answer.text[:_EXCERPT]}")
                if answer.status_code in FATAL:
                    raise ValueError(f"{url} refuses: {fault}{self._advice(answer.status_code)}")
                if answer.status_code < 500 and answer.status_code not in RETRIED:
                    break
                after = retry_after(answer.headers, time.time())
            except httpx.RequestError as error:
                fault = self._hide(f"{type(error).__name__}: {error}")
            except (_Unreadable, UnicodeDecodeError, JSONDecodeError) as error:
                fault = self._hide(f"not an answer of a completion server: {error}"[:_EXCERPT])
            except RuntimeError as error:  # the client was closed: the job ends
                if not stop.is_set():
                    raise
                fault = str(error)
            finally:
                self._tokens.give_back(reserved - used)
            if attempt + 1 < self.config.attempts:
                self._rest(attempt, after, stop)
        self._count(failed=1)
        return Completion(id, "", "error", error=fault or "the job was stopped")

    def _wait(self, tokens: float, stop: threading.Event) -> bool:
        """Waits for the rates and for what the server asked; false where the job ends."""
        if self.config.max_cost is not None and self.usage.cost >= self.config.max_cost:
            raise ValueError(
                f"max_cost: ${self.config.max_cost:g} is spent ({self.usage}); raise it and run "
                "the same command to go on"
            )
        pause = max(self._requests.take(1), self._tokens.take(tokens))
        pause = max(pause, self._not_before - time.monotonic())
        while pause > 0 and not stop.is_set():
            stop.wait(pause)
            pause = self._not_before - time.monotonic()  # another request may have been told since
        return not stop.is_set()

    def _rest(self, attempt: int, after: float | None, stop: threading.Event) -> None:
        """Waits before a request is sent again."""
        if after is not None:  # the server knows better, and means all of us
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + after)
        stop.wait(backoff(self.config.backoff_s, attempt) if after is None else 0)

    def _read(self, id: str, answer: Any) -> tuple[Completion, float]:
        """The completion in a server's answer, counted, and its tokens."""
        try:
            choice = answer["choices"][0]
            chat = self.config.endpoint == "chat"
            text = choice["message"]["content"] if chat else choice["text"]
            reason = choice.get("finish_reason")
            usage = answer.get("usage") or {}
            counts = [usage.get(f"{kind}_tokens") for kind in ("prompt", "completion")]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Unreadable(f"{type(error).__name__} {error} in {str(answer)[:120]}") from error
        if not isinstance(text, str | None):
            raise _Unreadable(f"its text is {text!r}")
        known = all(isinstance(count, int) for count in counts)
        read, written = (int(count or 0) if known else 0 for count in counts)
        price = read * self.config.price_in + written * self.config.price_out
        self._count(prompt_tokens=read, tokens=written, uncounted=int(not known), cost=price / 1e6)
        if reason not in ("stop", "length", None) or text is None:
            why = f"the server stopped it: {reason}"
            return Completion(id, "", "error", read, written, error=why), read + written
        finish = "length" if reason == "length" else "stop"
        return Completion(id, text, finish, read, written), read + written

    def _count(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                setattr(self.usage, name, getattr(self.usage, name) + amount)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            if self.config.api_key_env:
                return f"; see what the environment variable {self.config.api_key_env} holds"
            return "; name the environment variable that holds the key: api_key_env"
        return f"; see base_url ({self.config.base_url}) and model ({self.config.model})"

    def facts(self) -> dict[str, Any]:
        """The usage as a record, for `run.json`."""
        return asdict(self.usage)


class _Unreadable(Exception):
    """An answer that is JSON and yet none of a completion server."""


def _key(config: ServerConfig) -> str:
    if config.api_key_env is None:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ValueError(
            f"api_key_env: the environment variable {config.api_key_env} is not set; it must hold "
            "the server's key"
        )
    return key


def _num_chars(body: Mapping[str, Any]) -> int:
    messages = body.get("messages", ())
    return len(body.get("prompt", "")) + sum(len(message["content"]) for message in messages)
