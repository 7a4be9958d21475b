"""Each Data-Juicer operator with default arguments on three rows works or is refused in one sentence."""

from __future__ import annotations

import pytest

from bettersynth_assets.errors import UserError
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import scored_table, tiny_profile

HUB = ("image_aesthetics_filter", "image_nsfw_filter", "image_text_matching_filter")
"""Those that would fetch a model from the hub, which takes minutes to fail where there is no network."""
WORK = 35
"""Operators that work with their defaults, at least; some more do where optional packages are installed."""


def halves(paths, texts):
    return [0.5] * len(texts)


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [False, True])
def test_every_operator_works_or_is_refused_in_one_sentence(tmp_path, tiny_models, trusted, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    table = scored_table(tmp_path, 3)
    profile = tiny_profile(tiny_models, shards=1, trusted_code=trusted)
    modules = registry().modules
    names = [name for name in sorted(modules) if modules[name].__module__.startswith(("data_juicer", "bettersynth"))]
    # With trust, only those that trust lets through are tried again, and of these those that fetch nothing.
    if trusted:
        names = ["python_lambda_mapper", "python_file_mapper", "image_ohem_selector", "latex_merge_tex_mapper"]
    work, refused = [], {}
    for name in names:
        if name in HUB:
            continue
        try:
            built = build_operators([{name: {}}], profile)
            done = run_process(
                table, built, stage="s", image_root=tmp_path, rescore=lambda paths, texts: [0.5] * len(texts)
            )
            assert done.kept.num_rows + done.rejects.num_rows + done.quarantine.num_rows == 3
            work.append(name)
        except UserError as error:
            refused[name] = str(error)
    assert all(name in words and "\n" not in words for name, words in refused.items()), refused
    if not trusted:
        assert len(names) > 200 and len(work) >= WORK, work
        assert {"words_num_filter", "clean_links_mapper", "random_selector", "image_watermark_filter"} <= {*work}
