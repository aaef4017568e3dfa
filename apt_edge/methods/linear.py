"""Linear probing: the backbone stays untouched, only the pooled norm and the classifier are trained."""

from __future__ import annotations

from apt_edge.backbone.vit import ExtraKV, Vit, VitConfig
from apt_edge.methods.base import Method


class Linear(Method):
    """No prompts at all; the baseline that every prompt method has to beat."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config, range(0))

    def extra(self, vit: Vit) -> dict[int, ExtraKV]:
        """Nothing."""
        return {}
