"""A captioner behind a server that speaks OpenAI's chat protocol. In: RGB images, one question. Out: one answer each.

vLLM, SGLang and LMDeploy pin a torch of their own, so they run in an environment, on GPUs and on hosts of their own::

    vllm serve llava-hf/llava-1.5-7b-hf --port 8000
    models: {captioner: "http://127.0.0.1:8000/v1?add_special_tokens=true#llava-hf/llava-1.5-7b-hf"}    # in the profile

The name after ``#`` is that of the served model, and what stands behind a ``?`` goes into each request. Captions depend
on both, and not on the address. The server puts the question into the checkpoint's chat template; LLaVA-1.5's has no
first token of its own, which vLLM adds where it is asked to. Images are PNG, so it sees the pixels that we see.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.errors import ConfigError, nearest
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.models.llava import PROMPT
from bettersynth_assets.models.sampling import check_keys
from bettersynth_assets.models.sentences import whole

SCHEMES = ("http://", "https://")
TRIES = 5
SECONDS = 600.0
"""For one answer; a request may wait for all those before it."""


def is_address(model: str) -> bool:
    """Whether a profile's captioner is a server's."""
    return model.startswith(SCHEMES)


class Address(NamedTuple):
    """A profile's captioner, taken apart."""

    url: str
    name: str
    fields: dict[str, Any]
    """Of each request."""

    @property
    def key(self) -> str:
        """What captions depend on."""
        return " ".join(["served", self.name, *(f"{name}={value!r}" for name, value in sorted(self.fields.items()))])


def address(model: str) -> Address:
    """Take ``http://host:port/v1?field=value#name`` apart; values are JSON, or else text.

    Raises:
        ConfigError: it names no model.
    """
    parts = urlsplit(model)
    if not parts.fragment:
        raise ConfigError(
            f"models.captioner = {model!r} names no model: add it behind a #, as the server calls it, "
            f"e.g. {model.rstrip('#')}#llava-hf/llava-1.5-7b-hf"
        )
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Address(url, parts.fragment, {name: _value(text) for name, text in parse_qsl(parts.query)})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def data_url(rgb: Any) -> str:
    """An RGB image as PNG in a URL."""
    file = io.BytesIO()
    rgb.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class ServedCaptioner:
    """A vision-language model of any kind, asked through ``/chat/completions``."""

    device = "cpu"
    """Of what is done here."""
    default_prompt = PROMPT

    def __init__(self, model: str, *, device: str = "cpu", dtype: str = "", batch: int = 128) -> None:
        """Look whether the model is served.

        Args:
            model: as ``address`` takes it; ``OPENAI_API_KEY`` is sent where it is set.
            device: not used, and neither is ``dtype``: they are the server's.
            dtype: see there.
            batch: requests that wait at the server at once.

        Raises:
            ConfigError: nothing answers there, or it serves no such model.
        """
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.batch = BatchSize(batch)
        self.prepare: Callable[[Any], Any] = data_url
        self.address = address(model)
        again = Retry(
            TRIES, connect=1, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None,
            raise_on_status=False,  # the last answer's own words say more
        )  # fmt: skip
        self._session = requests.Session()
        for scheme in SCHEMES:
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=batch, max_retries=again))
        if key := os.environ.get("OPENAI_API_KEY"):
            self._session.headers["Authorization"] = f"Bearer {key}"
        served = [str(found["id"]) for found in self._answer("GET", "models", timeout=30.0)["data"]]
        url, name, _ = self.address
        if name not in served:
            raise ConfigError(f"models.captioner = {model!r}: {url} serves no {name!r}: {nearest(name, served)}")

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """Caption images; see ``GenerativeCaptioner.captions``.

        A caption that the limit of tokens broke off ends with its last whole sentence, or else word.

        Raises:
            ConfigError: the server refuses a request, or does not answer it within some tries.
            ValueError: ``sampling`` without one key per image.
        """
        check_keys(sampling, keys, len(images))

        def caption(at: int) -> str:
            image = images[at] if isinstance(images[at], str) else data_url(images[at])
            content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
            how = {"temperature": 0.0} if sampling is None else drawing(sampling, keys[at])  # type: ignore[index]
            (choice,) = self._answer(
                "POST",
                "chat/completions",
                json={
                    "model": self.address.name,
                    "messages": [{"role": "user", "content": content}],
                    "max_tokens": max_new_tokens,
                    **how,
                    **self.address.fields,
                },
                what=f" (row {keys[at]})" if keys else "",
            )["choices"]
            text = choice["message"]["content"] or ""
            return whole(text) if choice.get("finish_reason") == "length" else text.strip()

        with ThreadPoolExecutor(self.batch.size) as pool:
            return list(pool.map(caption, range(len(images))))

    def _answer(self, method: str, path: str, *, what: str = "", timeout: float = SECONDS, **body: Any) -> Any:
        import requests

        where = f"{self.address.url}/{path}"
        try:
            answer = self._session.request(method, where, timeout=timeout, **body)
        except requests.RequestException as error:
            raise ConfigError(
                f"models.captioner: {where} does not answer{what} ({type(error).__name__}): start the server, "
                f"e.g. `vllm serve {self.address.name}`, or name where it is"
            ) from error
        if not answer.ok:
            raise ConfigError(f"models.captioner: {where} answered {answer.status_code}{what}: {answer.text[:500]}")
        return answer.json()


def drawing(sampling: Sampling, key: str) -> dict[str, Any]:
    """How a row's tokens are drawn, with a seed of its own: from the recipe's and the row's key."""
    digest = hashlib.sha256(f"{sampling.seed} {key}".encode("utf-8", "surrogatepass")).digest()
    limits = {} if sampling.top_k is None else {"top_k": sampling.top_k}
    seed = int.from_bytes(digest[:4], "big") >> 1
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed, **limits}
