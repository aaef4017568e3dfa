"""Tuning methods by the name that recipes use."""

from apt_edge.methods.adaptformer import AdaptFormer
from apt_edge.methods.aim import Aim
from apt_edge.methods.apt import Apt
from apt_edge.methods.base import Method
from apt_edge.methods.full import Full
from apt_edge.methods.linear import Linear
from apt_edge.methods.lora import Lora
from apt_edge.methods.st_adapter import StAdapter
from apt_edge.methods.vpt_deep import VptDeep
from apt_edge.methods.vpt_shallow import VptShallow

METHODS: dict[str, type[Method]] = {
    "apt": Apt,
    "linear": Linear,
    "full": Full,
    "vpt-shallow": VptShallow,
    "vpt-deep": VptDeep,
    "adaptformer": AdaptFormer,
    "st-adapter": StAdapter,
    "aim": Aim,
    "lora": Lora,
}
