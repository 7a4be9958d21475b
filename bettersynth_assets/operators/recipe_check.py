"""Checks a recipe under a profile before the first stage runs. Writes no file.

In: settings. Out: warnings, or an error that names the thing, its value and the fix. Operators are built, but models of
captioners or diffusion pipelines are not loaded. Rows are only read if a list names a field that only extra fields of
the seed file can provide.
"""

from __future__ import annotations

from collections.abc import Collection

from bettersynth_assets.config.address import address, is_address
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Operator, Recipe
from bettersynth_assets.config.resolved_model import model_path
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.models.captioners.captioner_kind import check_captioner
from bettersynth_assets.models.diffusion import diffusion_model
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.custom_operators import content_of, custom_names, use_custom_operators
from bettersynth_assets.operators.data_juicer import build_operators
from bettersynth_assets.operators.fields import check_fields, extra_fields_read
from bettersynth_assets.operators.recipe_lists import check_operators, check_select, entry_of
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.trust import warning
from bettersynth_assets.records.seed_file import seed_fields
from toolkit.files import digest_of

_checked: set[str] = set()


def check_recipe(settings: Settings) -> list[str]:
    """Check a recipe: its models first, which is fast, then its operators.

    Returns:
        Warnings about operators that have not been reviewed.

    Raises:
        ConfigError: an unusable operator or argument; a missing model, package or word list; a captioner of another
            kind than the recipe needs; or a field that no row has.
    """
    use_custom_operators(settings)
    _check_models(settings)
    lists = lists_of(settings.recipe)
    if all(_is_plain(entry, settings.profile) for entries in lists.values() for entry in entries):
        return []
    for entries in lists.values():
        check_operators(entries, trusted_code=settings.profile.trusted_code)
        check_fields(entries, _seed_fields(settings, entries))
    check_select(settings.recipe.budget.select)
    # On the CPU, because the checking process may not be one of those that use the GPUs.
    cpu = settings.profile.gpu.model_copy(update={"devices": "cpu", "decode": "pillow"})
    profile = settings.profile.model_copy(update={"gpu": cpu})
    for place, entries in lists.items():
        build_operators(entries, profile, has_all_rows=place == "budget.select")
    names = sorted({entry_of(entry)[0] for entries in lists.values() for entry in entries} - custom_names())
    modules = registry().modules
    return [words for name in names if (words := warning(name, modules[name]))]


def check_once(settings: Settings) -> None:
    """Call ``check_recipe`` once per process; for stages, which run for each shard."""
    use_custom_operators(settings)
    key = recipe_key(settings)
    if key not in _checked:
        check_recipe(settings)
        _checked.add(key)


def recipe_key(settings: Settings) -> str:
    """Hash what ``check_recipe`` reads, except for the models' files."""
    profile = settings.profile.model_dump(include={"models", "trusted_code", "seed", "shards"})
    return digest_of(settings.recipe.model_dump(), content_of(settings.recipe), profile)


def lists_of(recipe: Recipe) -> dict[str, list[Operator]]:
    """Return a recipe's lists of operators by their location in it."""
    return {"process": recipe.process, "caption.refilter": recipe.refilter, "budget.select": recipe.budget.select}


def _check_models(settings: Settings) -> None:
    recipe, models = settings.recipe, settings.profile.models
    check_captioner(recipe, settings.profile)
    if recipe.regenerate:
        diffusion_model(settings.profile)
    if recipe.caption and is_address(models.captioner):
        address(models.captioner)
    elif recipe.caption:
        model_path(models.captioner, role="captioner")


def _is_plain(entry: Operator, profile: Profile) -> bool:
    """Whether an entry is usable without a check by Data-Juicer; its model is checked here too."""
    name, arguments = entry_of(entry)
    spec = spec_of(name)
    if spec.limits and spec.check:
        spec.check(arguments)
        return True
    known = spec.known_values
    if known is None:
        return False
    if spec.model:
        model_path(getattr(profile.models, spec.model.role), role=spec.model.role)
    return all(argument in known and known[argument](value) for argument, value in arguments.items())


def _seed_fields(settings: Settings, entries: list[Operator]) -> Collection[str] | None:
    """Extra fields of the seed file, which is only read if a list names one. None if there are too many fields."""
    if settings.profile.seed is None or not extra_fields_read(entries):
        return ()
    return seed_fields(settings)
