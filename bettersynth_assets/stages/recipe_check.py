"""Checks a recipe under a profile before the first stage runs. Writes no file.

In: a resolved run. Out: warnings, or an error that names the thing, its value and the fix. Operators are built, but
models of captioners or diffusion pipelines are not loaded. Rows are only read if a list names a field that only extra
fields of the seed file can provide.
"""

from __future__ import annotations

from collections.abc import Collection

from bettersynth_assets.config.model import shipped_files
from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipe import Operator, Recipe
from bettersynth_assets.config.resolved_model import ResolvedModel
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners.captioner_kind import captioner_kind
from bettersynth_assets.models.diffusion import check_package
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.custom_operators import content_of, custom_names
from bettersynth_assets.operators.data_juicer import build_operators
from bettersynth_assets.operators.fields import check_fields, extra_fields_read
from bettersynth_assets.operators.recipe_lists import check_operators, check_select, entry_of
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.trust import warning
from bettersynth_assets.records.seed_file import seed_fields
from bettersynth_assets.stages.recipe_operators import register_operators
from toolkit.files import digest_of


def check_recipe(run: ResolvedRun) -> list[str]:
    """Check a recipe: its models first, which is fast, then its operators. The preflight check of its stages.

    Returns:
        Warnings about operators that have not been reviewed.

    Raises:
        ConfigError: an unusable operator or argument; a missing model, package or word list; a captioner of another
            kind than the recipe needs; or a field that no row has.
    """
    register_operators(run)
    section_models(run)
    lists, profile, models = operator_lists(run.recipe), run.settings.profile, run.operator_models
    if all(_is_plain(entry, models) for entries in lists.values() for entry in entries):
        return []
    for entries in lists.values():
        check_operators(entries, trusted_code=profile.trusted_code)
        check_fields(entries, _seed_fields(run, entries))
    check_select(run.recipe.budget.select)
    for location, entries in lists.items():
        shards = 1 if location == "budget.select" else profile.shards
        # On the CPU, because the checking process may not be one of those that use the GPUs.
        build_operators(entries, models, run.gpu, device="cpu", shards=shards, trusted_code=profile.trusted_code)
    names = sorted({entry_of(entry)[0] for entries in lists.values() for entry in entries} - custom_names())
    modules = registry().modules
    return [message for name in names if (message := warning(name, modules[name]))]


def recipe_key(settings: Settings) -> str:
    """Hash what ``check_recipe`` reads, except for the models' files."""
    profile = settings.profile.model_dump(include={"models", "trusted_code", "seed", "shards"})
    return digest_of(settings.recipe.model_dump(), content_of(settings.recipe.custom_operators), profile)


def operator_lists(recipe: Recipe) -> dict[str, list[Operator]]:
    """Return a recipe's lists of operators by their location in it."""
    return {"process": recipe.process, "caption.refilter": recipe.refilter, "budget.select": recipe.budget.select}


def section_models(run: ResolvedRun) -> list[ResolvedModel]:
    """Return the models of the recipe's ``caption`` and ``regenerate`` sections.

    Raises:
        ConfigError: one is missing or unusable; a package that it needs is not installed.
    """
    models, caption = [], run.recipe.caption
    if caption and caption.captioner:
        _check_captioner(run.settings, caption.captioner)
    if run.recipe.regenerate:
        check_package()
        models.append(run.diffusion)
    if caption:
        models.append(run.captioner)
    return models


def _check_captioner(settings: Settings, required: str) -> None:
    """Check that the profile has the kind of captioner that the recipe is written for; name the profiles that fit."""
    kind = captioner_kind(settings.profile.models.captioner)
    if kind == required:
        return
    suitable = [
        name
        for name in sorted(shipped_files("profiles"))
        if captioner_kind(load_profile(name).models.captioner) == required
    ]
    raise ConfigError(
        f"recipe {settings.recipe.name!r} needs `captioner: {required}`, but models.captioner of profile "
        f"{settings.profile.name!r} is {'a ' + kind if kind else 'of an unknown kind'}: set BETTERSYNTH_PROFILE to "
        f"{' or '.join(suitable) or 'a profile with such a captioner'}, or remove `captioner` from the recipe"
    )


def _is_plain(entry: Operator, models: OperatorModels) -> bool:
    """Whether an entry is usable without a check by Data-Juicer; its model is checked here too."""
    name, arguments = entry_of(entry)
    spec = spec_of(name)
    if spec.limits and spec.check:
        spec.check(arguments)
        return True
    tests = spec.known_values
    if tests is None:
        return False
    if spec.model:
        models.model(spec.model.role)
    return all(argument in tests and tests[argument](value) for argument, value in arguments.items())


def _seed_fields(run: ResolvedRun, entries: list[Operator]) -> Collection[str] | None:
    """Extra fields of the seed file, which is only read if a list names one. None if there are too many fields."""
    return seed_fields(run.seed) if extra_fields_read(entries) and not run.seed.is_generated else ()
