"""Log-probabilities of candidate answers, computed from the cached keys and values of their questions.

::

    a batch of R questions   ─► log-softmax at each question's end      ─► first token of every candidate
    concatenated candidates of a row (r, T), padded on the right         ─► the tokens after the first

All candidates of a row form one sequence; a mask lets each attend to the row's question and itself, and its positions
are those of a candidate on its own. The question's keys are neither computed again nor repeated per candidate. A batch
whose candidates have one token each (letters, yes and no) needs no forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from toolkit.models.mgm.answering.greedy import Batch, forward

LOGITS = 256
"""Positions whose logits are in memory at once: 262 MB in float32 with Gemma's vocabulary."""


def log_probabilities(batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Sum of the log-probabilities of each candidate's tokens, in nats, by a float32 log-softmax.

    Args:
        batch: questions whose answers have not begun; it is not changed.
        candidates: per row of the batch any number of lists of token ids. An end-of-answer token counts if it is in
            the list; a candidate without ids has log-probability 0.

    Returns:
        One number per candidate, in their order.
    """
    owners = [(row, ids) for row, row_candidates in enumerate(candidates) for ids in row_candidates if ids]
    if not owners:
        return [[0.0] * len(row_candidates) for row_candidates in candidates]
    device = batch.last.device
    firsts = torch.tensor([row for row, _ in owners], device=device)
    states, numbers = [batch.last[firsts]], list(range(len(owners)))
    targets = [ids[0] for _, ids in owners]
    if any(len(ids) > 1 for _, ids in owners):
        states.append(_later_states(batch, candidates))
        targets += [token for _, ids in owners for token in ids[1:]]
        numbers += [number for number, (_, ids) in enumerate(owners) for _ in ids[1:]]
    token_values = _log_softmax_at(batch, torch.cat(states), torch.tensor(targets, device=device))
    sums = torch.zeros(len(owners), dtype=torch.float64).index_add_(
        0, torch.tensor(numbers), token_values.double().cpu()
    )
    values = iter(sums.tolist())
    return [[next(values) if ids else 0.0 for ids in row_candidates] for row_candidates in candidates]


def _later_states(batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Normed states (S, h) at all tokens but the last of each candidate, candidate by candidate."""
    # A candidate's last token is predicted and never an input.
    fed = [[list(ids[:-1]) for ids in row_candidates if len(ids) > 1] for row_candidates in candidates]
    rows = [row for row, row_candidates in enumerate(fed) if row_candidates]
    longest = max(sum(map(len, fed[row])) for row in rows)
    device, dtype = batch.last.device, batch.last.dtype
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    owner = torch.full((len(rows), longest), -1)
    offsets = torch.zeros(len(rows), longest, dtype=torch.long)
    for at, row in enumerate(rows):
        for number, (end, piece) in enumerate(zip(accumulate(map(len, fed[row])), fed[row], strict=True)):
            span = slice(end - len(piece), end)
            ids[at, span], owner[at, span] = torch.tensor(piece), number
            offsets[at, span] = torch.arange(len(piece))
    ids, owner, offsets = ids.to(device), owner.to(device), offsets.to(device)
    later = torch.ones(longest, longest, dtype=torch.bool, device=device).triu(1)
    others = (owner.unsqueeze(2) != owner.unsqueeze(1)) | later  # (r, T, T)
    chosen = torch.tensor(rows, device=device)
    before = batch.hidden_keys[chosen].unsqueeze(1).expand(-1, longest, -1)
    mask = torch.cat([before, others], dim=2).to(dtype) * torch.finfo(dtype).min

    def cached(number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (column[number][chosen, :, : batch.filled] for column in (batch.keys, batch.values))
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)

    positions = batch.next_position[chosen].unsqueeze(1) + offsets
    hidden = forward(batch.model, ids, positions, mask, cached, asked=longest)
    normed: Tensor = batch.model.model.norm(hidden[owner >= 0])
    return normed


def _log_softmax_at(batch: Batch, states: Tensor, targets: Tensor) -> Tensor:
    """Log-probability (S) of each target, predicted from its state (S, h)."""
    parts = []
    for part, part_targets in zip(states.split(LOGITS), targets.split(LOGITS), strict=True):
        logits = batch.model.lm_head(part).float()
        parts.append(logits.gather(1, part_targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(dim=1))
    return torch.cat(parts)
