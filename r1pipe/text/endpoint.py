"""One HTTP service that answers JSON with JSON.

It retries with growing pauses, limits the requests in flight, and gives None where no answer can be had. The back end
`openai`, the judge reward, judges of pairs and remote executors use it. A mistake in the config (unknown address, wrong
key, no such model) is an error; everything else that goes wrong loses only the one answer.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

from r1pipe.errors import ConfigError

T = TypeVar("T")

# Seconds before the second try. They double with each try, with jitter, up to LONGEST_WAIT_S.
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

# Where the service itself says when to try again.
LONGEST_REQUESTED_WAIT_S = 600.0

# Bytes.
LONGEST_REPLY = 4 << 20

# After this many requests in a row with neither an answer nor a refusal no more are sent: a dead service must not take
# hours.
GIVE_UP_AFTER = 32

# Tries to read a service's list of models, and seconds for one.
OWNER_TRIES = 3
OWNER_TIMEOUT_S = 5.0

# What a service says of itself in its list of models -> the fields at which it draws from the model's own distribution.
# vLLM and SGLang would else apply what the model's generation_config.json says.
PLAIN_DRAWING: dict[str, dict[str, Any]] = {
    "vllm": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "sglang": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
}

# Status codes that are a mistake in the config, and what to do.
MISTAKES = {
    401: "check the key",
    403: "check the key's rights",
    404: "check the address and the model's name",
    405: "check the address",
}


class Unreadable(ValueError):
    """The service answered with something else than what was requested; the request is sent again."""


class NoAnswer(Exception):
    """No readable answer can be had.

    Args:
        why: what went wrong last.
        refused: whether the service will never answer this very request.
    """

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.refused = refused


class _TryAgain(Exception):
    """A try failed, and another may succeed.

    Args:
        why: what went wrong.
        wait: seconds that the service asks to wait.
    """

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.wait = wait


class Endpoint:
    """A service at one address. Thread-safe.

    Args:
        url: where requests are posted.
        api_key_env: name of the environment variable that holds the key, which is sent as a bearer token.
        timeout: seconds for one request, connecting included.
        retries: further tries after a timeout, a broken connection, 408, 429, 5xx or an unreadable answer.
        max_in_flight: requests at a time.

    Attributes:
        why: what went wrong last.

    Raises:
        ConfigError: the address is not a URL, or the variable is not set.
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
        # Comes with huggingface_hub.
        import httpx2

        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"'{url}' is not the address of a service", fix="start it with http:// or https://"
            )
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self.max_in_flight = max_in_flight
        self.why = ""

        # Whether the service takes optional fields; None until it has answered a request with them.
        self._takes_optional: bool | None = None
        self._key = _key(url, api_key_env)
        limits = httpx2.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight)
        self._client = httpx2.Client(headers=_authorization(self._key), timeout=timeout, limits=limits)
        self._slots = threading.Semaphore(max_in_flight)
        self._lock = threading.Lock()
        self._failures = 0
        # A generator of its own: the random draws of training must not depend on a service.
        self._jitter = random.Random()

    @property
    def gave_up(self) -> bool:
        """Whether GIVE_UP_AFTER requests in a row had neither an answer nor a refusal.

        Then no more are sent until `ask_all` starts the next batch.
        """
        return self._failures >= GIVE_UP_AFTER

    def ask(
        self,
        body: Any,
        read: Callable[[Any], T],
        optional: Mapping[str, Any] | None = None,
    ) -> T | None:
        """Return `answer`, or None where there is none."""
        try:
            return self.answer(body, read, optional)
        except NoAnswer:
            return None

    def ask_all(
        self,
        bodies: Sequence[Any],
        read: Callable[[Any], T],
        optional: Mapping[str, Any] | None = None,
    ) -> list[T | None]:
        """Call `ask` for each body, `max_in_flight` at a time; return the answers in order.

        Warns where answers are missing.
        """
        if not bodies:
            return []
        self._failures = 0
        with ThreadPoolExecutor(min(self.max_in_flight, len(bodies))) as threads:
            answers = list(threads.map(lambda body: self.ask(body, read, optional), bodies))
        missing = sum(answer is None for answer in answers)
        if missing:
            warnings.warn(
                f"{self.url} gave no answer to {missing} of {len(answers)} requests; the last reason: {self.why}",
                stacklevel=3,
            )
        return answers

    def answer(
        self,
        body: Any,
        read: Callable[[Any], T],
        optional: Mapping[str, Any] | None = None,
    ) -> T:
        """Post a request and return what `read` makes of the reply. Once the service is given up, nothing is posted.

        Args:
            body: the request, as JSON.
            read: gets the reply; it raises Unreadable where the reply is not what was requested.
            optional: further fields of the request, which a service may refuse because it does not know them. Then it
                is asked without them from there on, with a warning.

        Raises:
            NoAnswer: no readable reply can be had.
            ConfigError: the service says that the request is a mistake of the config.
        """
        if not optional or self._takes_optional is False:
            return self._answer(body, read)
        try:
            answer = self._answer({**body, **optional}, read)
        except NoAnswer as error:
            if not error.refused or self._takes_optional:
                raise
            # Where this is refused as well, it was for another reason.
            answer = self._answer(body, read)
            self._leave_out(optional, error.why)
            return answer
        self._takes_optional = True
        return answer

    def _leave_out(self, optional: Mapping[str, Any], why: str) -> None:
        with self._lock:
            is_first = self._takes_optional is None
            if is_first:
                self._takes_optional = False
        if is_first:
            warnings.warn(
                f"{self.url} refuses {', '.join(optional)} ({why}), so requests go without them; what it takes "
                "from the model's generation_config.json it applies",
                stacklevel=4,
            )

    def _answer(self, body: Any, read: Callable[[Any], T]) -> T:
        """`answer` of a request with these fields and no others."""
        if self.gave_up:
            raise NoAnswer(self.why)

        requested_wait = 0.0
        for attempt in range(1 + self.retries):
            if attempt:
                pause = FIRST_WAIT_S * 2 ** (attempt - 1) * self._jitter.uniform(0.5, 1.5)
                time.sleep(max(requested_wait, min(LONGEST_WAIT_S, pause)))
            requested_wait = 0.0
            try:
                answer = read(self._post(body))
            except _TryAgain as error:
                self.why = error.why
                requested_wait = error.wait
            except Unreadable as error:
                self.why = str(error)
            except NoAnswer as error:
                # A refusal shows that the service is there, so it does not count towards giving up.
                self.why = error.why
                self._count(failed=False)
                raise
            else:
                self._count(failed=False)
                return answer

        self._count(failed=True)
        raise NoAnswer(self.why)

    def _count(self, failed: bool) -> None:
        with self._lock:
            self._failures = self._failures + 1 if failed else 0

    def _post(self, body: Any) -> Any:
        """Send one request and return the reply.

        Raises:
            _TryAgain: the same request may be answered later.
            NoAnswer: the service refuses this request.
            ConfigError: the service says that the request is a mistake of the config.
        """
        import httpx2

        try:
            with self._slots:
                status, headers, text = self._exchange(body)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            name = type(error).__name__
            raise _TryAgain(f"{name}: {error}" if str(error) else name) from None

        if status in MISTAKES or 300 <= status < 400:
            # A redirection is not followed: the key is sent with every request, and must not go to another address.
            moved = f", and has moved to {headers['location']!r}" if "location" in headers else ""
            raise ConfigError(
                f"{self.url} answers {status}{moved}: {text[:200]!r}",
                fix=MISTAKES.get(status, "check the address"),
            )
        if status in (408, 429) or status >= 500:
            raise _TryAgain(f"status {status}", _retry_after_seconds(headers.get("retry-after")))
        if status >= 400:
            # As for a prompt that is too long: the same request would be refused again.
            raise NoAnswer(f"status {status}: {text[:200]!r}", refused=True)
        try:
            return json.loads(text)
        except ValueError:
            raise _TryAgain(f"the reply is not JSON: {text[:200]!r}") from None

    def _exchange(self, body: Any) -> tuple[int, Any, str]:
        """Send one request; return the reply's status, headers and text."""
        import httpx2

        deadline = time.monotonic() + self.timeout
        with self._client.stream("POST", self.url, json=body) as reply:
            content = bytearray()
            for part in reply.iter_bytes():
                content += part
                # httpx2's own limit is for each part, so a reply that drips slowly would never end.
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout(f"no whole reply within {self.timeout:g} s")
                if len(content) > LONGEST_REPLY:
                    raise httpx2.ReadError(f"a reply of more than {LONGEST_REPLY} bytes")
        headers = {name.lower(): self._without_key(value) for name, value in reply.headers.items()}
        return reply.status_code, headers, self._without_key(content.decode("utf8", "replace"))

    def _without_key(self, text: str) -> str:
        """A service may repeat the key that it was sent, and what it says is quoted and written down."""
        return text.replace(self._key, "***") if self._key else text


@lru_cache(maxsize=64)
def plain_drawing(base_url: str, api_key_env: str | None) -> dict[str, Any]:
    """The fields at which a service draws from the model's own distribution, whatever generation_config.json says.

    Of a service that does not say what it is they are vLLM's, since many stand in front of one; it may refuse them.
    """
    owner = models_owner(base_url, api_key_env)
    return PLAIN_DRAWING.get(owner, PLAIN_DRAWING["vllm"])


def models_owner(base_url: str, api_key_env: str | None) -> str:
    """Return what a service calls itself in its list of models: vllm, sglang, llamacpp, ...; empty if unknown."""
    models = _listed_models(base_url, api_key_env)
    return str(models[0].get("owned_by", "")).lower() if models else ""


def models_of(base_url: str, api_key_env: str | None) -> list[str]:
    """Return the names of a service's models; none where it does not say."""
    return [str(model["id"]) for model in _listed_models(base_url, api_key_env) if model.get("id")]


def _listed_models(base_url: str, api_key_env: str | None) -> list[dict[str, Any]]:
    import httpx2

    url = base_url.rstrip("/") + "/models"
    headers = _authorization(_key(base_url, api_key_env))
    for attempt in range(OWNER_TRIES):
        if attempt:
            time.sleep(FIRST_WAIT_S)
        try:
            reply = httpx2.get(url, headers=headers, timeout=OWNER_TIMEOUT_S)
            return [model for model in reply.json()["data"] if isinstance(model, dict)]
        except httpx2.TransportError:
            continue
        except (ValueError, KeyError, TypeError):
            break
    return []


@lru_cache(maxsize=64)
def endpoint(url: str, api_key_env: str | None, timeout: float, retries: int, max_in_flight: int) -> Endpoint:
    """Return the process's one Endpoint with these settings, so that connections are kept from batch to batch."""
    return Endpoint(
        url, api_key_env=api_key_env, timeout=timeout, retries=retries, max_in_flight=max_in_flight
    )


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _key(url: str, api_key_env: str | None) -> str:
    """The key for a service; empty where it needs none."""
    if api_key_env is None:
        return ""
    key = os.environ.get(api_key_env)
    if not key:
        raise ConfigError(
            f"the environment variable {api_key_env} is not set, which should hold the key for {url}",
            fix=f"export {api_key_env}=...",
        )
    return key


def _retry_after_seconds(header: str | None) -> float:
    """Return a Retry-After header, which is a number or a date, as seconds from now."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(0.0, seconds), LONGEST_REQUESTED_WAIT_S)
