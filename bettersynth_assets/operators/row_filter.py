"""A filter of one method. In: one row as operators see it. Out: None to keep it, or (value, reason)."""

from __future__ import annotations

from typing import Any

from data_juicer.ops.base_op import Filter
from data_juicer.utils.mm_utils import remove_special_tokens

Rejection = tuple[float | None, str]
"""The value that was refused, None where there is none, and the reason in words."""


class RowFilter(Filter):
    """Base of filters that look at one row and say why they reject it.

    In a recipe, value and reason are in the table of rejects. In plain ``dj-process`` the row is gone.
    """

    def reject(self, sample: dict[str, Any]) -> Rejection | None:
        """Judge a row.

        Args:
            sample: ``text`` in the kit's format, ``images`` (one absolute path), ``__dj__stats__`` with
                ``image_width``, ``image_height`` and ``image_text_similarity`` (lists of one number) and what earlier
                operators wrote; ``id``, and the extra fields of the seed.
        """
        raise NotImplementedError

    def caption(self, sample: dict[str, Any]) -> str:
        """A row's text without the kit's tokens."""
        return str(remove_special_tokens(sample[self.text_key])).strip()

    def compute_stats_single(self, sample: dict[str, Any], context: bool = False) -> dict[str, Any]:
        """Data-Juicer's first call; ``reject`` measures and judges at once."""
        return sample

    def process_single(self, sample: dict[str, Any]) -> bool:
        """Data-Juicer's second call: whether a row stays."""
        return self.reject(sample) is None
