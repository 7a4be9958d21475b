"""The wheel, installed without a checkout nearby and used from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.schema import EXPERIMENT, PROFILE, RECIPE
from bettersynth_assets_tests.helpers.seeds import kit_row, write_images, write_lines

pytestmark = pytest.mark.e2e

FOUND = """
import json, bettersynth_assets, toolkit
from bettersynth_assets.config.model import shipped_files
from bettersynth_assets.config.profile import load_profile, resolve
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.settings import load_settings
profiles, recipes = shipped_files("profiles"), shipped_files("recipes")
print(json.dumps({
    "profiles": {name: load_profile(name).name for name in profiles},
    "recipes": {name: load_recipe(name).name for name in recipes},
    "data": str(load_settings().data_root),
    "clip": resolve(load_profile("miniature").models.clip),
    "deepspeed": resolve(load_profile("mgm-2b").training.stage_1.deepspeed or ""),
    "code": [bettersynth_assets.__file__, toolkit.__file__],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment with the wheel; other packages come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PROJECT_ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    bin_folder = folder / "venv" / "bin"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        str(bin_folder / "python"),
    ]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    # A path in a .pth file is searched for packages alone: the tests' own editable install is not followed.
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    # The start-up line of the wheel depends on the name of the program. Private: Dagster's console script calls it too.
    (bin_folder / "dagster").write_text('from dagster._cli import main\n\nif __name__ == "__main__":\n    main()\n')
    return bin_folder


def use(installed: Path, folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment in a folder; ``python`` is the environment's."""
    ours = ("BETTERSYNTH_", "DAGSTER_", "PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {"PATH": f"{installed}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1", **variables}
    program = [str(installed / command[0]), *command[1:]]
    return subprocess.run(program, cwd=folder, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def found(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what ``FOUND`` prints in an empty folder, and the ``folder``."""
    folder = tmp_path_factory.mktemp("empty")
    done = use(installed, folder, "python", "-c", FOUND)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "folder": folder}


def test_profiles_recipes_and_models_are_found_from_an_empty_folder(installed: Path, found: dict[str, Any]) -> None:
    for kind in ("profiles", "recipes"):
        names = sorted(path.stem for path in (PROJECT_ROOT / kind).glob("*.yaml"))
        assert found[kind] == {name: name for name in names}
    assert found["data"] == str(found["folder"] / "data")
    site = Path(found["code"][0]).parents[1]
    assert site.is_relative_to(installed.parent) and Path(found["code"][1]).parents[1] == site
    for file in (PROFILE, RECIPE, EXPERIMENT):  # the schema that the first line of the YAML files next to it names
        assert (site / "bettersynth_assets" / "shipped" / file).read_text() == (PROJECT_ROOT / file).read_text()
    assert Path(found["clip"]).is_dir() and Path(found["clip"]).is_relative_to(site)
    assert Path(found["deepspeed"]).is_file() and Path(found["deepspeed"]).is_relative_to(site)


def test_the_command_plans_a_shipped_experiment(installed: Path, tmp_path: Path) -> None:
    done = use(installed, tmp_path, "bettersynth", "experiment", "plan", "which_filter")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("which_filter: 5 arms") and not list(tmp_path.iterdir())


def test_recipes_in_the_working_folder_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("baseline: true\n")
    code = (
        "import sys; from bettersynth_assets.config.settings import load_settings; "
        "print(load_settings(recipe=sys.argv[1]).recipe.name)"
    )
    assert use(installed, tmp_path, "python", "-c", code, "mine").stdout == "mine\n"
    failed = use(installed, tmp_path, "python", "-c", code, "mime")
    assert "recipe 'mime' not found: did you mean 'mine'? Valid: baseline_random, " in failed.stderr


def test_the_kits_scripts_are_commands(installed: Path, tmp_path: Path) -> None:
    for name in ("bettersynth-train-mgm-2b-stage-1", "bettersynth-download-mgm-2b"):
        shown = use(installed, tmp_path, name, "--help")
        assert shown.returncode == 0 and "bash toolkit/" in shown.stdout, shown.stderr
    started = use(installed, tmp_path, "bettersynth-train-mgm-2b-stage-1", GPUS="1", DEVICE="cpu", DEEPSPEED="")
    assert started.returncode == 2
    assert "error: no such file: PRETRAIN_DATASET=" in started.stderr  # step 1 ran with the package's own Python
    assert not list(tmp_path.iterdir())


def test_the_graph_runs_in_a_new_folder_and_stores_its_history_there(installed: Path, tmp_path: Path) -> None:
    made = use(installed, tmp_path, "bettersynth-init")
    assert made.returncode == 0, made.stderr
    again = use(installed, tmp_path, "bettersynth-init")
    assert again.stdout == "dagster.yaml: exists, not changed\nworkspace.yaml: exists, not changed\n"
    write_images(tmp_path / "input", range(4))
    seed = write_lines(tmp_path / "input", [kit_row(number) for number in range(4)])
    (tmp_path / "small.yaml").write_text("extends: miniature\nshards: 2\n")
    done = use(
        installed, tmp_path, "python", str(installed / "dagster"), "asset", "materialize", "--select", "seed_dataset",
        BETTERSYNTH_SEED=str(seed), BETTERSYNTH_PROFILE="small.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "data" / "small" / "shared" / "seed_dataset").glob("shard-*/manifest.json"))) == 2
    (home,) = (tmp_path / ".dagster").iterdir()
    assert home.name.startswith("small-seed-") and (home / "history").is_dir()


def test_plain_dj_process_finds_our_operators_in_the_installed_wheel(installed: Path, found: dict[str, Any]) -> None:
    # Data-Juicer's command splits a dataset's path at spaces.
    with tempfile.TemporaryDirectory(prefix="dj-process-") as folder:
        root = Path(folder)
        write_images(root, range(4))
        rows = [kit_row(number) for number in range(4)]
        for row in rows:
            row["images"] = [str(root / name) for name in row["images"]]
        seed = write_lines(root, rows)
        entry = {"clip_model": found["clip"], "method": "top_k", "count": 3, "accelerator": "cpu"}
        config = {
            "dataset_path": str(seed), "export_path": str(root / "kept.jsonl"), "np": 1,
            "work_dir": str(root), "skip_op_error": False, "process": [{"clip_score_filter": entry}],
        }  # fmt: skip
        (root / "config.yaml").write_text(yaml.safe_dump(config))
        command = "from data_juicer.tools.process_data import main; main()"
        done = use(installed, root, "python", "-c", command, "--config", str(root / "config.yaml"))
        assert done.returncode == 0, done.stderr[-3000:]
        assert len((root / "kept.jsonl").read_text().splitlines()) == 3
