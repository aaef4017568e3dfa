"""Tuning methods by the name that recipes use."""

from apt_edge.methods.apt import Apt
from apt_edge.methods.base import Method
from apt_edge.methods.linear import Linear
from apt_edge.methods.vpt_deep import VptDeep

METHODS: dict[str, type[Method]] = {"apt": Apt, "vpt-deep": VptDeep, "linear": Linear}
