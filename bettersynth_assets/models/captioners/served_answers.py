"""Requests to a server of OpenAI's chat protocol. In: a path, a body. Out: the caption, or why there is none.

A fault affects either the run or one row. A ``ConfigError`` ends the run at once: there is no server, it refuses the
key, it does not know the model or the path, or it redirects. A ``CaptionError`` concerns one row, which keeps its
original caption: the server refuses the image, its answer holds no caption, or the request still fails with 429, 5xx or
a time-out after several tries.
"""

from __future__ import annotations

import json
import os
import re
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bettersynth_assets.config.address import SCHEMES, Address
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners.chat_completion import CONTROL, Refused, caption_of, failed
from bettersynth_assets.records.reserved import CaptionError

if TYPE_CHECKING:
    import requests

TRIES = 5
"""Tries on 429, 5xx and broken connections, with growing pauses."""
SLOW_TRIES = 2
"""Tries on a request that is not answered in time."""
ANSWER_TRIES = 3
"""Tries on an answer without a caption."""
SECONDS = 600.0
"""Time limit of one answer; a request may wait for all those before it."""
CONNECT_SECONDS = 20.0
MAX_WAIT = 60.0
MAX_ANSWER_BYTES = 65_536
MAX_LIST_BYTES = 16 * 2**20
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
ROW_STATUSES = frozenset({400, 413, 415, 422, 451})
"""The server refuses this image or prompt; other rows may be accepted."""


class Endpoint:
    """One server, called from several threads."""

    def __init__(self, address: Address, connections: int) -> None:
        """Open a session; keys come from the environment only, never from the address or ``~/.netrc``."""
        import requests
        from requests.adapters import HTTPAdapter

        self.address = address
        self._session = requests.Session()
        self._session.trust_env = not _is_this_machine(address.url)  # a proxy would redirect requests to this machine
        self._session.auth = _authorize
        self._session.headers["Accept-Encoding"] = "identity"
        for scheme in SCHEMES:
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=0))

    def models(self) -> list[str]:
        """Return the names of the served models.

        Raises:
            ConfigError: the server does not answer, or returns no list.
        """
        try:
            body = self._ask("GET", "models", tries=2, seconds=30.0, limit=MAX_LIST_BYTES)
        except CaptionError as error:
            raise ConfigError(f"models.captioner: {error.detail}") from None
        try:
            return [str(model["id"]) for model in json.loads(body)["data"]]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"models.captioner: {self.address.url}/models is no list of models ({type(error).__name__}): use the "
                "address that speaks OpenAI's protocol, which usually ends in /v1"
            ) from None

    def caption(self, body: dict[str, Any], row: str) -> tuple[str, bool]:
        """Request one caption.

        Returns:
            The text, and whether the token limit cut it off.

        Raises:
            CaptionError: this row gets no caption.
            ConfigError: no row would get a caption.
        """
        error: CaptionError | None = None
        for _ in range(ANSWER_TRIES):
            try:
                return caption_of(self._ask("POST", "chat/completions", row=row, body=body))
            except Refused:
                raise
            except CaptionError as fault:
                error = fault
        assert error is not None
        raise error

    def _ask(
        self,
        method: str,
        path: str,
        *,
        row: str = "",
        tries: int = TRIES,
        seconds: float | None = None,
        limit: int = MAX_ANSWER_BYTES,
        body: Any = None,
    ) -> bytes:
        """Return the body of a successful answer, at most ``limit`` bytes."""
        import requests

        where, seconds = f"{self.address.url}/{path}", seconds or SECONDS
        for attempt in range(1, tries + 1):
            wait = _pause(attempt)
            try:
                with self._session.request(
                    method, where, timeout=(CONNECT_SECONDS, seconds), stream=True, allow_redirects=False, json=body
                ) as answer:
                    if answer.status_code not in RETRIED:
                        _check(answer, where, row)
                        return _read_body(answer, limit, seconds)
                    fault = Refused(
                        f"{where} answered {answer.status_code}{row} {attempt} times: {_error_text(answer)}"
                    )
                    wait = _pause(attempt, answer.headers.get("Retry-After"))
            except requests.RequestException as error:
                if not _is_interrupted(error):
                    unreachable = ConfigError(
                        f"models.captioner: {where} does not answer{row} ({type(error).__name__}): start the server, "
                        f"e.g. `vllm serve {self.address.name}`, or set models.captioner to its address"
                    )
                    if attempt == tries:
                        raise unreachable from None
                else:
                    is_slow = isinstance(error, requests.Timeout)
                    how = f"did not answer within {seconds:g} s" if is_slow else f"broke off ({type(error).__name__})"
                    fault = Refused(f"{where} {how}{row}, {attempt} times")
                    if is_slow and attempt >= SLOW_TRIES:
                        raise fault from None
            if attempt < tries:
                time.sleep(wait)
        raise fault


def _is_interrupted(error: Exception) -> bool:
    """Whether the server accepted a request but sent no complete answer; otherwise it is unreachable."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return False
    if isinstance(
        getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError | ConnectTimeoutError
    ):
        return False
    kinds = (requests.Timeout, requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, (*kinds, requests.exceptions.ContentDecodingError))


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the key; used as the session's ``auth``, it also keeps requests from reading ``~/.netrc``."""
    header, key = os.environ.get("BETTERSYNTH_CAPTIONER_AUTHORIZATION"), os.environ.get("OPENAI_API_KEY")
    if header or key:
        request.headers["Authorization"] = header or f"Bearer {key}"
    return request


def _check(answer: requests.Response, where: str, row: str) -> None:
    """Raise the error that corresponds to an unsuccessful answer."""
    status = answer.status_code
    if status < 300:
        return
    if status < 400:
        raise ConfigError(
            f"models.captioner: {where} redirects to {answer.headers.get('Location', 'nowhere')!r}, but images are not "
            "sent to another address: set models.captioner to the final address"
        )
    if status in ROW_STATUSES:
        raise Refused(f"{where} answered {status}{row}: {_error_text(answer)}")
    fix = ": set OPENAI_API_KEY in the environment to a key that the server accepts" if status in (401, 403) else ""
    raise ConfigError(f"models.captioner: {where} answered {status}{row}: {_error_text(answer)}{fix}")


def _read_body(answer: requests.Response, limit: int, seconds: float) -> bytes:
    """Read the body; fail as soon as it is too long or too slow."""
    pieces, size, deadline = [], 0, time.monotonic() + seconds
    for piece in answer.iter_content(8192):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise failed(f"the answer is longer than {limit} bytes")
        if time.monotonic() > deadline:
            raise failed(f"the answer was not complete within {seconds:.0f} s")
    return b"".join(pieces)


def _error_text(answer: requests.Response) -> str:
    """Return the beginning of an error's body in one line."""
    import requests

    try:
        text = next(answer.iter_content(2048), b"").decode("utf-8", "replace")
    except requests.RequestException:
        return ""
    return " ".join(CONTROL.sub(" ", text).split())[:300]


def _pause(attempt: int, retry_after: str | None = None) -> float:
    """Return the seconds before the next try: doubled each time, or as the server requests, at most ``MAX_WAIT``."""
    requested = float(retry_after) if retry_after and re.fullmatch(r"\d+(\.\d+)?", retry_after.strip()) else 0.0
    return min(MAX_WAIT, max(requested, 0.5 * 2 ** (attempt - 1)))
