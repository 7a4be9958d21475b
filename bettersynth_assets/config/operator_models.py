"""The models of a profile that operators load. In: the profile's ``models``. Out: ``ResolvedModel`` by role."""

from __future__ import annotations

from dataclasses import dataclass, field

from bettersynth_assets.config.profile import Models
from bettersynth_assets.config.resolved_model import ResolvedModel, resolve_model


@dataclass(frozen=True)
class OperatorModels:
    """Models by role, each resolved once, when an operator of the recipe first needs it."""

    models: Models
    _resolved: dict[str, ResolvedModel] = field(default_factory=dict, repr=False, compare=False)

    def named(self, role: str) -> str | None:
        """Return a role's folder, file or hub id as the profile names it; None if it names none."""
        model_name: str | None = getattr(self.models, role)
        return model_name

    def model(self, role: str) -> ResolvedModel | None:
        """Return the model of a role; None if the profile names none.

        Raises:
            ConfigError: the named model does not exist.
        """
        named = self.named(role)
        if named is not None and role not in self._resolved:
            self._resolved[role] = resolve_model(named, role=role)
        return self._resolved.get(role)
