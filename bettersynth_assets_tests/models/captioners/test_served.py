from __future__ import annotations

import re

import pytest

from bettersynth_assets.config.recipe import CaptionSection, Sampling
from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners.caption_files import caption_files
from bettersynth_assets.models.captioners.captioner import captioner_key, load_captioner
from bettersynth_assets.models.captioners.llava import LlavaCaptioner
from bettersynth_assets.models.captioners.served import ServedCaptioner
from bettersynth_assets.models.scorers.clip_score import load_scorer
from bettersynth_assets.records.reserved import CaptionError
from bettersynth_assets_tests.helpers.caption_server import NAME, serving
from bettersynth_assets_tests.helpers.rows import tiny_profile
from tiny_models.synthesis import distinct_images, make_llava
from toolkit.progress import Progress


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module")
def server(folder):
    with serving(LlavaCaptioner(str(folder), batch=4)) as state:
        yield state


@pytest.fixture(scope="module")
def images():
    return distinct_images()


@pytest.mark.slow
def test_a_served_model_gives_the_captions_of_the_same_local_checkpoint(server, folder, images):
    served = ServedCaptioner(f"{server.address}#{NAME}", batch=3)
    here = LlavaCaptioner(str(folder), batch=4)
    for tokens in (4, 12):
        expected = here.captions(images, prompt="a photo of the red", max_new_tokens=tokens)
        assert len(set(expected)) > 3
        assert served.captions(images, prompt="a photo of the red", max_new_tokens=tokens) == expected
        prepared = [served.prepare(image) for image in images]
        assert served.captions(prepared, prompt="a photo of the red", max_new_tokens=tokens) == expected
    assert {body["temperature"] for body in server.asked} == {0.0} and {body["model"] for body in server.asked} == {
        NAME
    }


@pytest.mark.slow
def test_a_profile_can_name_a_server_and_its_captions_are_scored_like_others(
    server, folder, images, tiny_models, tmp_path
):
    profile = tiny_profile(tiny_models)
    paths = [tmp_path / f"{at}.png" for at in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    paths.insert(2, tmp_path / "broken.png")
    paths[2].write_bytes(b"no image")
    ids = [str(at) for at in range(len(paths))]

    def captions_of(captioner):
        section = CaptionSection(max_new_tokens=12)
        progress = Progress(lambda text: None, "captions", len(paths))
        return caption_files(
            paths,
            ids,
            captioner,
            load_scorer(resolve_model(profile.models.clip, role="clip"), profile.gpu),
            section,
            progress,
        )

    served = load_captioner(resolve_model(f"{server.address}/#{NAME}", role="captioner"), profile.gpu)
    assert isinstance(served, ServedCaptioner) and served is load_captioner(
        resolve_model(f"{server.address}/#{NAME}", role="captioner"), profile.gpu
    )
    captions = captions_of(served)
    expected = captions_of(load_captioner(resolve_model(str(folder), role="captioner"), profile.gpu))
    for field in ("reason", "raw"):
        assert [getattr(one, field, "") for one in captions] == [getattr(one, field, "") for one in expected]
    assert sum(getattr(caption, "score", None) is not None for caption in captions) > 3


def test_the_sampling_seed_depends_on_the_row_and_not_on_its_position(server, images):
    served = ServedCaptioner(f"{server.address}#{NAME}", batch=4)

    def seeds(keys, **how):
        del server.asked[:]
        served.captions(images[: len(keys)], prompt="a dog", max_new_tokens=2, sampling=Sampling(**how), keys=keys)
        return sorted((body["seed"], body["temperature"], body["top_p"], body.get("top_k")) for body in server.asked)

    first = seeds(["a", "b", "c"], temperature=0.7, seed=1)
    assert seeds(["c", "a", "b"], temperature=0.7, seed=1) == first and len({seed for seed, *_ in first}) == 3
    assert {tuple(limits) for _, *limits in first} == {(0.7, 1.0, None)}
    assert not {seed for seed, *_ in first} & {seed for seed, *_ in seeds(["a", "b", "c"], seed=2, top_k=5)}
    assert {body["top_k"] for body in server.asked} == {5}
    with pytest.raises(ValueError, match="one key per image: 3 images, 0 keys"):
        served.captions(images[:3], prompt="a dog", max_new_tokens=2, sampling=Sampling())


@pytest.mark.slow
def test_a_busy_server_is_retried_and_a_refused_row_records_the_servers_message(server, images):
    served = ServedCaptioner(f"{server.address}#{NAME}", batch=1)
    server.refusals[:] = [503, 429]
    assert len(served.captions(images[:2], prompt="a dog", max_new_tokens=2)) == 2 and not server.refusals
    server.refusals[:] = [400]
    refused, caption = served.captions(images[:2], prompt="a dog", max_new_tokens=2, keys=["r7", "r8"])
    assert isinstance(refused, CaptionError) and isinstance(caption, str)
    assert re.search(r"/v1/chat/completions answered 400 \(row r7\): .*the image has no size", refused.detail)


@pytest.mark.slow
def test_an_unreachable_server_gives_an_error_with_the_fix(server):
    with pytest.raises(ConfigError, match=r"does not serve 'org/tiny-lava': did you mean 'org/tiny-llava'\?"):
        ServedCaptioner(f"{server.address}#org/tiny-lava")
    with pytest.raises(ConfigError, match=r"names no model: append #"):
        ServedCaptioner(server.address)
    with serving(None) as ended:
        pass
    with pytest.raises(ConfigError, match=r"does not answer .*start the server, e.g. `vllm serve org/tiny-llava`"):
        ServedCaptioner(f"{ended.address}#{NAME}")


def test_the_key_depends_on_the_served_model_and_not_on_its_address(tiny_models):
    profile = tiny_profile(tiny_models)

    def key(captioner, **gpu):
        model = resolve_model(captioner, role="captioner")
        return captioner_key(model, profile.gpu.model_copy(update=gpu))

    assert key("http://a:1/v1#m") == key("https://b/v1#m", caption_batch=7) != key("http://a:1/v1#n")
    assert key("http://a:1/v1?top_k=5#m") not in (key("http://a:1/v1#m"), key("http://a:1/v1?top_k=6#m"))


def test_query_parameters_of_the_address_are_sent_with_each_request(server, images):
    del server.asked[:]
    address = f"{server.address}?add_special_tokens=true&repetition_penalty=1.5&mode=plain#{NAME}"
    ServedCaptioner(address, batch=2).captions(images[:2], prompt="a dog", max_new_tokens=2)
    fields = [
        {name: body[name] for name in ("add_special_tokens", "repetition_penalty", "mode")} for body in server.asked
    ]
    assert fields == [{"add_special_tokens": True, "repetition_penalty": 1.5, "mode": "plain"}] * 2
