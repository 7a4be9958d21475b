"""The toolkit accepts the plans that the stages pass to it, and they have the contest's fixed settings."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages import evaluate
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets.stages.training_plan import launcher, training_plan
from bettersynth_assets_tests.helpers.fake_graph import write_profile
from toolkit.evaluation.run import make_plan
from toolkit.evaluation.units import UnitLocation
from toolkit.training.plan import parse_plan

STAGE = {"global_batch": 2, "per_device_batch": 2, "learning_rate": 0.001}
FILES = {
    "textvqa": {"questions": "q.jsonl", "annotations": "a.json", "images": "images"},
    "mmbench": {"table": "m.tsv"},
}
NAMES = [name for roles in FILES.values() for name in roles.values()]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A profile whose files exist but are empty."""

    def build(**training: object) -> Path:
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "config.json").write_text('{"model_type": "mgm_gemma"}')
        for name in ("seed.jsonl", "tune.json", *(f"bench/{name}" for name in NAMES)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            if name.endswith("images"):
                (tmp_path / name).mkdir(exist_ok=True)
            else:
                (tmp_path / name).write_text("[]")
        (tmp_path / "base" / "config.json").write_text('{"model_type": "mgm_gemma"}')
        write_profile(
            tmp_path / "p.yaml",
            models=dict.fromkeys(("clip", "watermark", "captioner"), "none/none") | {"base": str(tmp_path / "base")},
            training={"seeds": [3], "stage_1": STAGE, "stage_2": STAGE, "finetune_json": str(tmp_path / "tune.json"),
                      "finetune_images": str(tmp_path), **training},
            evaluation={"benchmarks": {
                benchmark: {role: str(tmp_path / "bench" / name) for role, name in roles.items()}
                for benchmark, roles in FILES.items()
            }},
        )  # fmt: skip
        monkeypatch.setenv("BETTERSYNTH_PROFILE", str(tmp_path / "p.yaml"))
        monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))
        return tmp_path

    return build


@pytest.mark.slow
def test_the_toolkit_accepts_the_training_plan_and_it_is_the_contests(project):
    root = project(stage_2={**STAGE, "max_steps": 50, "max_grad_norm": 1.0})
    plan = parse_plan(training_plan(ResolvedRun(load_settings()), root / "out" / "seed-3", root / "tune.json", 3))
    first, second = plan.stages
    assert (plan.seed, plan.device, plan.dtype, plan.cache_dir) == (3, "cpu", "float32", None)
    assert plan.output_dir == root / "out" / "seed-3"
    assert (first.name, first.trained, first.image_aspect, first.group_by_modality_length, first.max_steps) == (
        "pretrain", "projector", "square", False, None,
    )  # fmt: skip
    assert (second.name, second.trained, second.image_aspect, second.group_by_modality_length, second.max_steps) == (
        "finetune", "projector+llm", "pad", True, 50,
    )  # fmt: skip
    assert second.max_grad_norm == 1.0


@pytest.mark.slow
def test_both_arms_share_the_features_of_the_towers(project):
    project(feature_cache=True)
    settings = load_settings()
    caches = {
        training_plan(ResolvedRun(load_settings(recipe=recipe)), settings.data_root, settings.data_root, 3)["cache_dir"]
        for recipe in ("third_place", "baseline_random")
    }
    assert caches == {str(settings.data_root / "p" / "features")}


@pytest.mark.slow
def test_the_toolkit_accepts_the_evaluation_plan(project):
    root = project()
    places = {name: UnitLocation(folder=root / name, key="k") for name in FILES}
    plan = make_plan(evaluate.evaluation_plan(ResolvedRun(load_settings()), root / "out", root / "base", places))
    assert (plan.batch_size, plan.device) == (32, "cpu")
    files = {chosen.name: dict(chosen.files) for chosen in plan.chosen()}
    assert files == {
        benchmark: {role: root / "bench" / name for role, name in roles.items()} for benchmark, roles in FILES.items()
    }


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"benchmarks": {"textvqa": {"images": "i"}}}, "benchmarks.textvqa: key 'questions' is missing"),
        ({"benchmarks": {"mmbench": {"tabel": "m.tsv"}}}, "unknown key 'tabel': did you mean 'table'"),
        (
            {"split": "tune", "benchmarks": {"mmbench": {"table": "m"}}},
            "split: tune has no files of mmbench: name quest",
        ),
        ({"benchmarks": {"mmbench": {"table": "m", "tune": {"table": "m"}}}}, "files of `tune` are those of `report`"),
        ({"benchmarks": {"mmbench": {"table": "m", "tune": {"tabel": "n"}}}}, "unknown key 'tabel'"),
        ({"benchmarks": {"mmbench": {"table": "m", "tune": "n"}}}, "tune = 'n': give files by role"),
        ({"benchmarks": {"mmbnch": {}}}, "unknown benchmark 'mmbnch': did you mean 'mmbench'"),
        ({"benchmarks": {"mmbench": None}}, "no benchmark is left"),
        ({"mmbench": "m.tsv"}, r"mmbench has moved: write benchmarks: \{mmbench: \{table: …\}\}"),
        ({"textvqa_images": "i"}, r"textvqa_images has moved: write benchmarks: \{textvqa: \{images: …\}\}"),
    ],
)
def test_benchmarks_that_a_profile_cannot_name_are_refused(tmp_path, evaluation, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load_profile(str(write_profile(tmp_path / "p.yaml", evaluation=evaluation)))
    assert "\n" not in str(refused.value)


def test_a_missing_benchmark_is_named_with_its_key(project):
    root = project()
    (root / "bench" / "m.tsv").unlink()
    with pytest.raises(ConfigError, match=r"evaluation\.benchmarks\.mmbench\.table = '.*': nothing at"):
        _ = ResolvedRun(load_settings()).benchmarks


def test_a_benchmark_without_files_in_the_profile_uses_those_of_the_miniature_world(tmp_path, monkeypatch):
    evaluation = {"benchmarks": {"mmbench": {}}}
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(write_profile(tmp_path / "p.yaml", evaluation=evaluation)))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))
    table = tmp_path / "data" / "miniature-world" / "report" / "mmbench" / "mmbench_dev.tsv"
    assert ResolvedRun(load_settings()).benchmarks == {"mmbench": {"table": str(table)}}


def test_a_split_has_files_of_its_own_and_shares_the_others(tmp_path, monkeypatch):
    files = {role: str(tmp_path / role) for role in ("questions", "annotations", "images")}
    other = str(tmp_path / "tune.jsonl")
    for path in (*files.values(), other):
        Path(path).touch()
    values = {"textvqa": {**files, "tune": {"questions": other}}, "gqa": {}}
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))
    found = {}
    for split in ("report", "tune"):
        profile = write_profile(tmp_path / "p.yaml", evaluation={"benchmarks": values, "split": split})
        monkeypatch.setenv("BETTERSYNTH_PROFILE", str(profile))
        found[split] = ResolvedRun(load_settings()).benchmarks
    assert found["report"]["textvqa"] == files and found["tune"]["textvqa"] == {**files, "questions": other}
    world = tmp_path / "data" / "miniature-world"
    assert {split: made["gqa"]["images"] for split, made in found.items()} == {
        split: str(world / split / "gqa" / "images") for split in ("report", "tune")
    }


@pytest.mark.slow
def test_the_training_key_depends_on_its_settings_and_not_on_the_launcher(project):
    project()
    stage = Pipeline(STAGES, ResolvedRun(load_settings())).stages["mgm_checkpoint"]
    before = stage.depends(ResolvedRun(load_settings()), "all", {})
    project(launcher=["torchrun", "-m"])
    assert stage.depends(ResolvedRun(load_settings()), "all", {}) == before
    project(stage_1={**STAGE, "learning_rate": 0.002})
    assert stage.depends(ResolvedRun(load_settings()), "all", {}) != before


@pytest.mark.slow
def test_settings_of_resources_and_logs_go_to_the_trainer_and_not_into_the_key(project, monkeypatch):
    root = project()
    stage = Pipeline(STAGES, ResolvedRun(load_settings())).stages["mgm_checkpoint"]
    before = stage.depends(ResolvedRun(load_settings()), "all", {})
    project(
        checkpoint_every=50, checkpoint_limit=3, log_every=5, stage_1={**STAGE, "workers": 2}, stage_2=STAGE,
        launcher=["python", "-m"],
    )  # fmt: skip
    settings = load_settings()
    assert stage.depends(ResolvedRun(settings), "all", {}) == before
    gpu = settings.profile.gpu.model_copy(update={"memory_limit_gib": 20.5})
    settings = replace(settings, profile=settings.profile.model_copy(update={"gpu": gpu}))
    plan = parse_plan(training_plan(ResolvedRun(settings), root / "out" / "seed-3", root / "tune.json", 3))
    assert (plan.checkpoint_every, plan.checkpoint_limit, plan.log_every) == (50, 3, 5)
    assert (plan.memory_limit_gib, plan.stages[0].workers, plan.stages[1].workers) == (20.5, 2, 0)
    assert launcher(ResolvedRun(settings)) == [str(Path(sys.executable).parent / "python"), "-m"]
    project(stage_1={**STAGE, "per_device_batch": STAGE["per_device_batch"] + 1, "pad_multiple": 8}, speed="reference")
    assert stage.depends(ResolvedRun(load_settings()), "all", {}) == before
    project(stage_1={**STAGE, "loss_group": 1})
    assert stage.depends(ResolvedRun(load_settings()), "all", {}) != before
