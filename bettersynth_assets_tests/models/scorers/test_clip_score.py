from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.errors import DeviceError
from bettersynth_assets.images.decoding import opened
from bettersynth_assets.images.opening import ImageError, open_rgb
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches
from bettersynth_assets.models.checkpoints import load_processor
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer, load_scorer, scorer_key
from bettersynth_assets_tests.helpers.operators import build_operators, operators_key
from bettersynth_assets_tests.helpers.rows import break_image, seed_table, tiny_profile
from toolkit.tokens import kit_text


@pytest.fixture
def pairs(tmp_path):
    table = seed_table(tmp_path, 12)
    return [tmp_path / name for name in table["image"].to_pylist()], table["caption"].to_pylist()


def test_scores_equal_those_of_data_juicers_filter(tiny_models, pairs, tmp_path):
    paths, captions = pairs
    scorer = ClipScorer(str(tiny_models.clip), batch=5)
    ours = score_files(scorer, paths, captions).scores
    (built,) = build_operators([{"image_text_similarity_filter": {}}], tiny_profile(tiny_models))
    samples = [
        {"text": kit_text(caption), "images": [str(path)], "__dj__stats__": {}}
        for path, caption in zip(paths, captions, strict=True)
    ]
    theirs = [
        built.operator.compute_stats_single(sample)["__dj__stats__"]["image_text_similarity"][0] for sample in samples
    ]
    assert np.ptp(theirs) > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_open_clip_scores_are_the_cosine_of_its_embeddings(tiny_models, pairs):
    import open_clip

    paths, captions = pairs
    name = f"local-dir:{tiny_models.open_clip}"
    model, transform = open_clip.create_model_from_pretrained(name)
    tokens = open_clip.get_tokenizer(name)(captions)
    with torch.inference_mode():
        image = model.eval().encode_image(torch.stack([transform(open_rgb(path)) for path in paths]))
        text = model.encode_text(tokens)
    expected = torch.cosine_similarity(image, text).numpy()
    scored = score_files(ClipScorer(str(tiny_models.open_clip), batch=5), paths, captions)
    np.testing.assert_allclose(scored.scores, expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_pixels_equal_those_of_the_checkpoints_transform(tiny_models, tmp_path):
    import open_clip

    sizes = [(64, 48), (47, 91), (301, 200), (33, 33), (64, 65)]
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]
    processor = load_processor(tiny_models.clip).image_processor
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{tiny_models.open_clip}")
    expected = {
        "clip": processor(images=images, return_tensors="pt")["pixel_values"],
        "open_clip": torch.stack([transform(image) for image in images]),
    }
    for kind, wanted in expected.items():
        scorer = ClipScorer(str(getattr(tiny_models, kind)))
        assert scorer.prepare(images[0]).dtype == torch.uint8
        assert torch.equal(as_pixels(images, scorer.prepare, scorer._backend.levels, "cpu", torch.float32), wanted), (
            kind
        )


def test_pixels_of_other_processors_equal_theirs(tiny_models):
    from transformers import CLIPImageProcessorPil

    image = Image.fromarray(np.random.default_rng(3).integers(0, 255, (61, 40, 3), dtype=np.uint8))
    blip = load_processor(tiny_models.captioner).image_processor
    bare = CLIPImageProcessorPil(do_normalize=False, size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
    for processor, has_levels in ((blip, True), (bare, False)):
        prepare, levels = resizing(processor)
        assert (levels is not None) == has_levels
        wanted = processor(images=image, return_tensors="pt")["pixel_values"]
        assert torch.equal(as_pixels([image], prepare, levels, "cpu", torch.float32), wanted)


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_scores_are_reproducible_and_independent_of_neighbours(tiny_models, pairs, kind):
    paths, captions = pairs
    scorer = ClipScorer(str(getattr(tiny_models, kind)), batch=4)
    first = score_files(scorer, paths, captions).scores
    assert np.array_equal(first, score_files(scorer, paths, captions).scores)
    alone = [score_files(scorer, [path], [caption]).scores[0] for path, caption in zip(paths, captions, strict=True)]
    np.testing.assert_allclose(first, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_captions_longer_than_the_context_are_flagged_and_still_scored(tiny_models, kind):
    scorer = ClipScorer(str(getattr(tiny_models, kind)))
    image = scorer.prepare(open_rgb_noise())
    captions = ["a", "a " * 14, "a " * 15, "a " * 200]
    pairs = scorer.start([image] * 4, scorer.tokens(captions))()
    assert pairs.truncated.tolist() == [False, False, True, True]
    assert np.isfinite(pairs.scores).all() and len(pairs.scores) == 4


def open_rgb_noise():
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def test_a_broken_image_fails_alone_and_its_neighbours_keep_their_scores(tiny_models, pairs, tmp_path):
    paths, captions = pairs
    scorer = ClipScorer(str(tiny_models.clip), batch=4)
    whole = score_files(scorer, paths, captions).scores
    break_image(tmp_path, "images/005.png")
    paths[2].write_bytes(b"")
    broken = score_files(scorer, paths, captions)
    assert {index: error.reason for index, error in broken.errors.items()} == {2: "decode_error", 5: "decode_error"}
    assert np.isnan(broken.scores[[2, 5]]).all() and len(broken.embeddings) == 10
    good = [index for index in range(12) if index not in (2, 5)]
    np.testing.assert_allclose(broken.scores[good], whole[good], atol=1e-5)


def test_no_rows_give_no_scores(tiny_models):
    scored = score_files(ClipScorer(str(tiny_models.clip)), [], [])
    assert scored.scores.shape == (0,) and scored.truncated == []


def test_shards_share_one_loaded_scorer(tiny_models):
    gpu = tiny_profile(tiny_models).gpu
    one, again = (resolve_model(str(tiny_models.clip), role="clip") for _ in range(2))
    assert load_scorer(one, gpu) is load_scorer(again, gpu)


def out_of_memory_over(limit, calls):
    def run(part):
        calls.append(len(part))
        if len(part) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 2 for item in part]

    return run


def test_out_of_memory_halves_the_batch_for_later_calls_too():
    calls, batch = [], BatchSize(16)
    assert in_batches(list(range(20)), batch, out_of_memory_over(4, calls)) == [item * 2 for item in range(20)]
    assert calls == [16, 8, 4, 4, 4, 4, 4]
    in_batches(list(range(4)), batch, out_of_memory_over(4, calls))
    assert calls[-1] == 4 and batch.size == 4


def test_after_three_halvings_the_error_gives_the_fix():
    calls = []
    with pytest.raises(DeviceError, match=r"out of GPU memory at a batch of 2 \(asked for 16\): set a smaller batch"):
        in_batches(list(range(20)), BatchSize(16), out_of_memory_over(1, calls))
    assert calls == [16, 8, 4, 2]


def test_files_are_opened_in_order_in_chunks_and_errors_keep_their_position(pairs, tmp_path):
    paths, _ = pairs
    break_image(tmp_path, "images/001.png")
    chunks = list(opened(paths, 5, lambda image: image.width))
    assert [first for first, _ in chunks] == [0, 5, 10]
    widths = [item for _, items in chunks for item in items]
    assert isinstance(widths[1], ImageError)
    assert [width for width in widths if isinstance(width, int)] == [48, *range(50, 60)]


def test_patch_embedding_by_matrix_product_equals_the_convolution():
    from bettersynth_assets.models.scorers.backend import as_product

    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 8, kernel_size=4, stride=4)
    pixels = torch.randn(2, 3, 12, 20)
    expected = convolution(pixels)
    as_product(convolution)
    assert expected.shape == (2, 8, 3, 5)
    torch.testing.assert_close(convolution(pixels), expected)


def test_keys_contain_the_preprocessing_method_only_if_it_is_not_the_default(tiny_models):
    profile = tiny_profile(tiny_models)
    entries = [{"image_watermark_filter": {}}]
    model = resolve_model(profile.models.clip, role="clip")
    plain = scorer_key(model, profile.gpu), operators_key(entries, profile)
    fast = profile.gpu.model_copy(update={"decode": "nvjpeg", "compiled": True, "dtype": "bfloat16"})
    other = profile.model_copy(update={"gpu": fast})
    how = {"decode": "nvjpeg", "dtype": "bfloat16"}
    assert scorer_key(model, other.gpu) == {**plain[0], "gpu": {**plain[0]["gpu"], **how, "compiled": True}}
    assert operators_key(entries, other) == {**plain[1], **how}
    words = [{"words_num_filter": {}}]
    assert operators_key(words, other) == operators_key(words, profile)
    with pytest.raises(DeviceError, match=r"gpu\.decode = nvjpeg decodes on a GPU, and this step has none"):
        load_scorer(model, fast.model_copy(update={"devices": "cpu"}))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_a_padded_cuda_graph_batch_gives_the_same_scores(device):
    from bettersynth_assets.models.gpu.cuda_graph import CudaGraph

    calls = []

    def run(batch):
        calls.append(len(batch))
        return batch * 2 + 1

    captured = CudaGraph(run, 4)
    for rows in (4, 1, 3):
        batch = torch.arange(rows * 2.0, device=device).view(rows, 2) + rows
        assert torch.equal(captured(batch), batch * 2 + 1)
    assert {*calls} == {4}
