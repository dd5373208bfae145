"""One HTTP service that answers JSON with JSON: retries with back-off, a limit on requests in flight, None where no answer can be had.

Used by the generator that is a service, the judge reward, judges of pairs and remote executors. httpx2 comes with huggingface_hub. A service that is a
mistake in the config (unknown address, wrong key, no such model) is an error; everything else that goes wrong costs the one answer.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

from r1pipe.errors import ConfigError

T = TypeVar("T")

FIRST_WAIT_S = 0.5  # before the second try; doubled each time, with jitter
LONGEST_WAIT_S = 30.0
LONGEST_ASKED_WAIT_S = 600.0  # of a service that says itself when to come again
LONGEST_REPLY = 4 << 20  # bytes
GIVE_UP_AFTER = 32  # requests in a row without an answer or a refusal, after which no more are made: a dead service must not cost hours
AGAIN = object()  # in the place of a reply: ask again
MISTAKES = {
    401: "check the key",
    403: "check the key's rights",
    404: "check the address and the model's name",
    405: "check the address",
}


class Unreadable(ValueError):
    """The service answered, but not with what was asked for; it is asked again."""


class NoAnswer(Exception):
    """No readable answer can be had.

    Args:
        why: what went wrong last.
        refused: the service will not answer this very request, however often it is asked.
    """

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.why, self.refused = why, refused


class Endpoint:
    """A service at one address. Thread-safe.

    Args:
        url: where requests are posted.
        api_key_env: name of the environment variable that holds the key, sent as a bearer token.
        timeout: seconds for one request, connecting included.
        retries: further tries after a timeout, a broken connection, 408, 429, 5xx or an unreadable answer.
        max_in_flight: requests at a time.

    Raises:
        ConfigError: the variable is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        max_in_flight: int = 16,
    ) -> None:
        import httpx2

        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"'{url}' is no address of a service", fix="give one that starts with http:// or https://"
            )
        headers = {}
        if api_key_env is not None:
            if not os.environ.get(api_key_env):
                raise ConfigError(
                    f"the environment variable {api_key_env} is not set, which should hold the key for {url}",
                    fix=f"export {api_key_env}=...",
                )
            headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
        self.url, self.timeout, self.retries, self.max_in_flight = url, timeout, retries, max_in_flight
        limits = httpx2.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight)
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)
        self._slots = threading.Semaphore(max_in_flight)
        self._lock, self._failures = threading.Lock(), 0
        self._jitter = random.Random()  # its own: the training's draws must not depend on a service
        self.why = ""  # what went wrong last

    def ask(self, body: Any, read: Callable[[Any], T]) -> T | None:
        """`answer`, or None where there is none."""
        try:
            return self.answer(body, read)
        except NoAnswer:
            return None

    def answer(self, body: Any, read: Callable[[Any], T]) -> T:
        """Post `body`; what `read` makes of the reply. Once the service is given up, nothing is posted.

        A request that the service refuses shows that it is there, so it does not count towards giving up.

        Raises:
            NoAnswer: no readable reply can be had.
            ConfigError: the service says that the request is a mistake of the config.
        """
        if self.gave_up:
            raise NoAnswer(self.why)
        wait, refused = 0.0, False
        for attempt in range(1 + self.retries):
            if attempt:
                time.sleep(
                    max(wait, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1) * self._jitter.uniform(0.5, 1.5)))
                )
            reply, wait = self._try(body)
            if reply is None:
                refused = True
                break
            if reply is AGAIN:
                continue
            try:
                answer = read(reply)
            except Unreadable as error:
                self.why = str(error)
                continue
            with self._lock:
                self._failures = 0
            return answer
        with self._lock:
            self._failures = 0 if refused else self._failures + 1
        raise NoAnswer(self.why, refused)

    @property
    def gave_up(self) -> bool:
        """So many requests in a row had neither an answer nor a refusal that no more are made, until `ask_all` starts the next batch."""
        return self._failures >= GIVE_UP_AFTER

    def ask_all(self, bodies: Sequence[Any], read: Callable[[Any], T]) -> list[T | None]:
        """`ask` for each, `max_in_flight` at a time, in order; warns where answers are missing."""
        if not bodies:
            return []
        self._failures = 0
        with ThreadPoolExecutor(min(self.max_in_flight, len(bodies))) as threads:
            answers = list(threads.map(lambda body: self.ask(body, read), bodies))
        if missing := sum(answer is None for answer in answers):
            warnings.warn(
                f"{self.url} gave no answer to {missing} of {len(answers)} requests; the last reason: {self.why}",
                stacklevel=3,
            )
        return answers

    def _try(self, body: Any) -> tuple[Any, float]:
        """One request: (the reply, 0), (AGAIN, seconds that the service asks to wait), or (None, 0) where asking again is of no use."""
        import httpx2

        try:
            with self._slots:
                status, headers, text = self._post(body)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            self.why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return AGAIN, 0.0
        if (
            status in MISTAKES or 300 <= status < 400
        ):  # where it has moved to is not followed: a key is sent with every request
            moved = f", and has moved to {headers['location']!r}" if "location" in headers else ""
            raise ConfigError(
                f"{self.url} answers {status}{moved}: {text[:200]!r}", fix=MISTAKES.get(status, "check the address")
            )
        if status in (408, 429) or status >= 500:
            self.why = f"status {status}"
            return AGAIN, _seconds(headers.get("retry-after"))
        if status >= 400:  # this one request is refused, as one that is too long; the same again would be as well
            self.why = f"status {status}: {text[:200]!r}"
            return None, 0.0
        try:
            return json.loads(text), 0.0
        except ValueError:
            self.why = f"the reply is not JSON: {text[:200]!r}"
            return AGAIN, 0.0

    def _post(self, body: Any) -> tuple[int, Any, str]:
        import httpx2

        deadline = time.monotonic() + self.timeout
        with self._client.stream("POST", self.url, json=body) as reply:
            content = bytearray()
            for part in reply.iter_bytes():
                content += part
                if time.monotonic() > deadline:  # httpx2's own limit is for each part, so a slow drip would never end
                    raise httpx2.ReadTimeout(f"no whole reply within {self.timeout:g} s")
                if len(content) > LONGEST_REPLY:
                    raise httpx2.ReadError(f"a reply of more than {LONGEST_REPLY} bytes")
        return reply.status_code, reply.headers, content.decode("utf8", "replace")


@lru_cache(maxsize=64)
def endpoint(url: str, api_key_env: str | None, timeout: float, retries: int, max_in_flight: int) -> Endpoint:
    """The process's one Endpoint with these settings, so that connections are kept from batch to batch."""
    return Endpoint(url, api_key_env=api_key_env, timeout=timeout, retries=retries, max_in_flight=max_in_flight)


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header, a number or a date, in seconds from now."""
    if not retry_after:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(0.0, seconds), LONGEST_ASKED_WAIT_S)
