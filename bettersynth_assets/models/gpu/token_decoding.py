"""Decoding of a batch whose prompts have one length. In: embedded prompts. Out: the tokens that follow.

Replaces ``model.generate`` of transformers. Gain: LLaVA-1.5-7B makes 37.6 captions/s instead of 28.2 on one H200, batch
64, 40 tokens (docs/results/captioning.md).

Works for any decoder-only language model of transformers, with its static cache. Prompts of one length need no padding
and no mask but the causal one, so every step has the same shapes: on a GPU it is captured once as a CUDA graph and then
replayed, because launching its kernels one by one takes several times as long as they run. The tokens are those of
``model.generate``: the likeliest, or those that ``sampling`` draws.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.models.sampling import drawn, limits

LOOK_EVERY = 4
"""Steps between two looks at whether all rows have ended; each look waits for the device."""
KEPT = 2
"""Shapes of batches whose decoders are kept, each with its cache: full batches, and the last ones of shards."""


class TokenDecoder:
    """Decoding by one language model, whatever the shape of the batch."""

    def __init__(self, model: Any) -> None:
        """Take a ``...ForCausalLM``, in evaluation mode, on its device; its generation settings say what ends a row."""
        settings = model.generation_config
        ends = settings.eos_token_id
        self._stop = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._pad = settings.pad_token_id if settings.pad_token_id is not None else min(self._stop, default=0)
        self._model = model
        self._decoders: dict[tuple[int, int, int, Sampling | None], BatchDecoder] = {}

    def __call__(
        self, embeds: Any, *, new_tokens: int, most: int, sampling: Sampling | None = None, numbers: Any = None
    ) -> Any:
        """Decode.

        Args:
            embeds: (B, P, h), the embedded prompts.
            new_tokens: most tokens that are written.
            most: rows of a full batch. A smaller one is brought to a power of two, so that few shapes come.
            sampling: how tokens are drawn; None takes the likeliest.
            numbers: (B, new_tokens), what decides each drawn token; see ``sampling.uniforms``.

        Returns:
            (B, n) tokens; see ``BatchDecoder``.
        """
        rows = min(most, 1 << (len(embeds) - 1).bit_length())
        shape = rows, embeds.shape[1], new_tokens, sampling
        decoder = self._decoders.pop(shape, None)
        while decoder is None and len(self._decoders) >= KEPT:
            del self._decoders[next(iter(self._decoders))]
        self._decoders[shape] = decoder or BatchDecoder(
            self._model,
            rows=rows,
            prompt=shape[1],
            new_tokens=new_tokens,
            stop=self._stop,
            pad=self._pad,
            sampling=sampling,
        )
        return self._decoders[shape](embeds, numbers)


class BatchDecoder:
    """A language model's cache and step for one shape of batch."""

    def __init__(
        self,
        model: Any,
        *,
        rows: int,
        prompt: int,
        new_tokens: int,
        stop: Collection[int],
        pad: int,
        sampling: Sampling | None = None,
    ) -> None:
        """Make room for a batch.

        Args:
            model: ``...ForCausalLM``, in evaluation mode, on its device.
            rows: of a full batch; on a GPU smaller ones are filled up.
            prompt: length P of all prompts.
            new_tokens: most tokens that are written.
            stop: tokens that end a row.
            pad: token that stands behind the end.
            sampling: how tokens are drawn; None takes the likeliest.
        """
        import torch
        from transformers import StaticCache

        self._model, self._prompt, self._pad = model, prompt, pad
        device = model.device
        # Attention kernels want masks whose rows begin at multiples of eight.
        self._length = -(-(prompt + new_tokens) // 8) * 8
        self._rows = rows if device.type == "cuda" else None
        self._cache = StaticCache(config=model.config.get_text_config(), max_cache_len=self._length)
        self._stop = torch.tensor(sorted(stop), device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._new_tokens = new_tokens
        self._limits = None if sampling is None else limits(sampling)
        self._graph: Any = None

    def __call__(self, embeds: Any, numbers: Any = None) -> Any:
        """Decode.

        Args:
            embeds: (B, P, h), B at most ``rows``.
            numbers: (B, new_tokens), where tokens are drawn.

        Returns:
            (B, n) tokens, n at most ``new_tokens``; each row ends with one of ``stop``, if it ended, and padding.
        """
        import torch

        count = len(embeds)
        with torch.inference_mode():
            if self._rows is None:
                self._cache = type(self._cache)(config=self._model.config.get_text_config(), max_cache_len=self._length)
            elif count < self._rows:
                embeds = torch.cat([embeds, embeds[-1:].expand(self._rows - count, -1, -1)])
            self._begin(embeds, numbers)
            if self._rows is not None and self._graph is None:
                self._capture(embeds, numbers)
            done = 1
            while done < self._new_tokens and (done % LOOK_EVERY or not bool(self._ended.all())):
                if self._graph is None:
                    self._step()
                else:
                    self._graph.replay()
                done += 1
            return self._tokens[:count, :done].clone()

    def _begin(self, embeds: Any, numbers: Any) -> None:
        """Read the prompts and choose the first tokens."""
        import torch

        self._rewind(0)
        positions = torch.arange(self._prompt, device=embeds.device)
        hidden = self._forward(positions, inputs_embeds=embeds)
        if self._graph is None:
            self._tokens = torch.full((len(embeds), self._new_tokens), self._pad, device=embeds.device)
            self._ended = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
            self._last = torch.zeros((len(embeds), 1), dtype=torch.long, device=embeds.device)
            self._numbers = torch.zeros((len(embeds), self._new_tokens), device=embeds.device)
        self._tokens.fill_(self._pad)
        self._ended.zero_()
        self._position.fill_(self._prompt - 1)
        if numbers is not None:
            self._numbers[: len(numbers)].copy_(numbers)
        self._take(hidden)

    def _step(self) -> None:
        self._take(self._forward(self._position, input_ids=self._last))

    def _forward(self, positions: Any, **inputs: Any) -> Any:
        """(B, h) of the last of some positions, the others of which are in the cache or in ``inputs``."""
        import torch

        dtype = self._model.dtype
        later = torch.arange(self._length, device=positions.device) > positions.unsqueeze(1)
        mask = (later.to(dtype) * torch.finfo(dtype).min)[None, None]  # (1, 1, T, length), on top of the scores
        with self._attention():
            return self._model.model(
                **inputs,
                attention_mask=mask,
                position_ids=positions.unsqueeze(0),
                cache=self._cache,
                use_cache=True,
            ).last_hidden_state[:, -1]

    def _rewind(self, length: int) -> None:
        """Let the cache go on behind so many tokens; in place, as a captured graph reads these tensors."""
        layer: Any
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(length)

    def _attention(self) -> AbstractContextManager[None]:
        if self._rows is None:
            return nullcontext()
        from bettersynth_assets.models.gpu.decode_attention import used_in

        return used_in(self._model)

    def _take(self, hidden: Any) -> None:
        """Write down the next token of each row that goes on, and make it the next one to read."""
        import torch

        place = self._position - (self._prompt - 1)
        logits = self._model.lm_head(hidden)
        if self._limits is None:
            chosen = logits.argmax(-1)
        else:
            chosen = drawn(self._limits(None, logits.float()), self._numbers.index_select(1, place)[:, 0])
        chosen = chosen.masked_fill(self._ended, self._pad)
        self._tokens.index_copy_(1, place, chosen.unsqueeze(1))
        self._ended |= torch.isin(chosen, self._stop)
        self._last.copy_(chosen.unsqueeze(1))
        self._position += 1

    def _capture(self, embeds: Any, numbers: Any) -> None:
        """Record a step, after a few outside of the graph, as kernels are chosen at their first call."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step()
                self._position.fill_(self._prompt)
                self._rewind(self._prompt)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on decoding images meanwhile, which only this mode lets them.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        self._graph = graph
        self._begin(embeds, numbers)
