"""Changed backbones: what a method that does not fold leaves behind, each in its cheapest exact form.

A form is a function `(vit, changes) -> None` that changes a copy of the backbone in place; `changes` are a pack's
tensors, named `override.<tensor of the backbone>` or `module.<block>.<name>`. No form knows the method that uses it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor

from apt_edge.backbone.vit import Vit
from apt_edge.errors import PackError


def changed(vit: Vit, form: str, changes: Mapping[str, Tensor]) -> Vit:
    """A changed copy of a frozen backbone; the backbone itself when there is no form.

    Raises:
        PackError: an unknown form, or tensors that do not fit the backbone.
    """
    if not form:
        return vit
    if form not in FORMS:
        raise PackError(f"there is no backbone form {form!r}", found=f"known: {', '.join(FORMS)}")
    vit = copy.deepcopy(vit)
    try:
        FORMS[form](vit, changes)
    except (KeyError, RuntimeError) as error:
        raise PackError(f"the tensors of the form {form} do not fit the backbone", found=str(error)) from None
    return vit.requires_grad_(False).eval()


def _override(vit: Vit, changes: Mapping[str, Tensor]) -> None:
    """Other weights of the same shapes."""
    state = vit.state_dict()
    for name, tensor in changes.items():
        state[name.removeprefix("override.")].copy_(tensor)


FORMS: dict[str, Callable[[Vit, Mapping[str, Tensor]], None]] = {"override": _override}
