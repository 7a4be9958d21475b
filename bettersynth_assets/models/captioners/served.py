"""Captioner served over OpenAI's chat protocol. In: RGB images, one question. Out: one answer each.

vLLM, SGLang and LMDeploy pin their torch version, so they run in separate environments, on separate GPUs or hosts::

    vllm serve llava-hf/llava-1.5-7b-hf --port 8000
    models: {captioner: "http://127.0.0.1:8000/v1?add_special_tokens=true#llava-hf/llava-1.5-7b-hf"}    # in the profile

``config.address`` documents the parts. Captions depend on the model's name and the fields, not on the address. The
server applies the checkpoint's chat template; that of LLaVA-1.5 lacks the first token, which vLLM adds on request.
Images are sent as PNG, so the server sees the same pixels. ``served_answers`` documents which faults affect one row and
which end the run.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

from bettersynth_assets.config.address import address
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.models.captioners.llava import PROMPT
from bettersynth_assets.models.captioners.sentences import trim_incomplete
from bettersynth_assets.models.captioners.served_answers import Endpoint
from bettersynth_assets.models.sampling import check_keys
from bettersynth_assets.records.reserved import CaptionError
from toolkit.suggest import nearest

if TYPE_CHECKING:
    from PIL.Image import Image


def data_url(rgb: Image) -> str:
    """Encode an RGB image as PNG in a ``data:`` URL."""
    file = io.BytesIO()
    rgb.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class ServedCaptioner:
    """A vision-language model of any kind, called through ``/chat/completions``."""

    device = "cpu"
    """Device of the code in this process."""
    default_prompt = PROMPT

    def __init__(self, model: str, *, device: str = "cpu", dtype: str = "", batch: int = 128) -> None:
        """Check that the model is served.

        Args:
            model: an address for ``address``; a key is read from the environment (``served_answers``).
            device: unused, like ``dtype``: the server determines both.
            dtype: unused.
            batch: concurrent requests to the server.

        Raises:
            ConfigError: the server does not answer, or does not serve this model.
        """
        self.batch = BatchSize(batch)
        self.prepare: Callable[[Image], str] = data_url
        self.address = address(model)
        self._endpoint = Endpoint(self.address, batch)
        served = self._endpoint.models()
        url, name, _ = self.address
        if name not in served:
            raise ConfigError(f"models.captioner = {model!r}: {url} does not serve {name!r}: {nearest(name, served)}")

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str | CaptionError]:
        """Caption images; see ``GenerativeCaptioner.captions``.

        A caption that the token limit cut off ends with its last complete sentence, or else word. A row for which the
        server returns no caption gets an error in its place.

        Raises:
            ConfigError: the server does not answer, or refuses every request.
            ValueError: ``sampling`` without one key per image.
        """
        check_keys(sampling, keys, len(images))
        is_over = Event()  # a request failed for all rows: the others are not sent

        def caption(at: int) -> str | CaptionError:
            if is_over.is_set():
                return CaptionError("caption_failed", "not asked")
            image = images[at] if isinstance(images[at], str) else data_url(images[at])
            content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": prompt}]
            how = {"temperature": 0.0} if sampling is None else drawing(sampling, keys[at])  # type: ignore[index]
            body = {
                "model": self.address.name,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": max_new_tokens,
                **how,
                **self.address.fields,
            }
            try:
                text, is_cut = self._endpoint.caption(body, f" (row {keys[at]})" if keys else "")
            except CaptionError as error:
                return error
            except ConfigError:
                is_over.set()
                raise
            return trim_incomplete(text) if is_cut else text.strip()

        with ThreadPoolExecutor(self.batch.size) as pool:
            return list(pool.map(caption, range(len(images))))


def drawing(sampling: Sampling, key: str) -> dict[str, Any]:
    """Return the request's sampling fields, with a random seed derived from the recipe's seed and the row's key."""
    digest = hashlib.sha256(f"{sampling.seed} {key}".encode("utf-8", "surrogatepass")).digest()
    limits = {} if sampling.top_k is None else {"top_k": sampling.top_k}
    seed = int.from_bytes(digest[:4], "big") >> 1
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed, **limits}
