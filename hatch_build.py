"""Build hook: an editable install takes profiles and recipes from the checkout, so it copies only the start-up line."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableFiles(BuildHookInterface):
    """Leaves ``bettersynth_assets/shipped`` out of editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            build_data["force_include_editable"] = {f"{self.root}/bettersynth_cli.pth": "bettersynth_cli.pth"}
