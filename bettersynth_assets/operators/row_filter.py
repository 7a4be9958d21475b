"""Base class of filters with one method. In: a row as operators see it. Out: None to keep it, or (value, reason)."""

from __future__ import annotations

from typing import Any

from data_juicer.ops.base_op import Filter
from data_juicer.utils.mm_utils import remove_special_tokens

Rejection = tuple[float | None, str]
"""The refused value, None if there is none, and the reason as text."""


class RowFilter(Filter):
    """Base class of filters that judge one row and report why they reject it.

    In a recipe, value and reason go to the table of rejects. In plain ``dj-process`` the row is only removed.
    """

    def reject(self, sample: dict[str, Any]) -> Rejection | None:
        """Judge a row.

        Args:
            sample: ``text`` in the kit's format, ``images`` (one absolute path), ``__dj__stats__`` with
                ``image_width``, ``image_height`` and ``image_text_similarity`` (lists of one number) and the stats of
                earlier operators; ``id``, and the extra fields of the seed file.
        """
        raise NotImplementedError

    def caption(self, sample: dict[str, Any]) -> str:
        """Return a row's text without the kit's tokens."""
        return str(remove_special_tokens(sample[self.text_key])).strip()

    def compute_stats_single(self, sample: dict[str, Any], context: bool = False) -> dict[str, Any]:
        """Compute no stats: ``reject`` measures and judges at once. Called by Data-Juicer first."""
        return sample

    def process_single(self, sample: dict[str, Any]) -> bool:
        """Return whether a row stays. Called by Data-Juicer second."""
        return self.reject(sample) is None
