"""Tasks of packs: what fits a graph goes in uncopied, what does not is refused with what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from apt_edge.errors import ModelError, PackError
from apt_edge.pack import BackboneRef, FoldedKV, PromptPack, folded_head
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.tasks import own_task, task_of
from tests.apt_edge.task_models import backbone, packs
from tests.conftest import tiny_pack


def model(root: Path, name: str) -> ModelDir:
    return ModelDir.load(root / name)


def with_prompts(count: int, block: int = 0, scale: float = 1) -> PromptPack:
    pack = packs()["one"]
    drawn = scale * np.random.default_rng(3).normal(size=(1, count, 32)).astype(np.float32)
    return dataclasses.replace(pack, kv={**pack.kv, block: FoldedKV(drawn, drawn)})


def test_arrays_of_the_graphs_type_are_not_copied(task_models):
    pack = packs()["one"]
    task = task_of(pack, model(task_models, "bound"), "one")
    for block, kv in pack.kv.items():
        for part, array in zip(("key", "value"), kv, strict=True):
            assert np.shares_memory(task.values[f"blocks.{block}.attn.prompt_{part}"], array)
    assert np.array_equal(task.values["head.weight"], folded_head(pack.head)[0])
    own = own_task(model(task_models, "bound"))
    assert (own.name, own.labels) == ("bound", pack.labels)
    assert all(np.array_equal(own.values[name], array) for name, array in task.values.items())


def test_half_precision_gives_float32_values(task_models, tmp_path):
    packs()["one"].save(tmp_path / "half.safetensors", half=True)
    task = task_of(PromptPack.load(tmp_path / "half.safetensors"), model(task_models, "bound"), "one")
    assert {array.dtype for array in task.values.values()} == {np.dtype(np.float32)}


def test_blocks_without_prompts_get_none(task_models):
    free = model(task_models, "free")
    late, none = (task_of(packs()[name], free, name).values for name in ("late", "none"))
    assert late["blocks.0.attn.prompt_key"].shape == none["blocks.1.attn.prompt_value"].shape == (1, 1, 0, 32)
    assert late["blocks.1.attn.prompt_key"].shape == (1, 1, 4, 32)


def test_a_shared_prompt_is_repeated_where_the_graph_has_one_for_each_head(task_models):
    bound = model(task_models, "bound")
    inputs = {
        name: {**port, "shape": [1, 2, *port["shape"][2:]]} if "prompt" in name else port
        for name, port in bound.facts["inputs"].items()
    }
    wide = dataclasses.replace(bound, facts={**bound.facts, "inputs": inputs})
    key = task_of(packs()["one"], wide, "one").values["blocks.0.attn.prompt_key"]
    assert np.array_equal(key, np.repeat(packs()["one"].kv[0].key[None], 2, axis=1))


OTHERS = {
    "another backbone": ("bound", {"backbone": BackboneRef("else", "0" * 64)}, r"do not belong together.*task t.*else"),
    "other clips": (
        "bound",
        {"clip": dataclasses.replace(packs()["one"].clip, stride=2)},
        r"other clips.*stride 2 against 4.*fix",
    ),
    "changed weights": (
        "bound",
        {"form": "parallel", "changes": {"module.x": np.ones(1, np.float32)}},
        r"weights of its own.*form parallel.*export this one alone",
    ),
    "a folded model": ("folded-one", {}, r"no other task than its own.*--set prompts\.mode=bound"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_pack_of_another_kind_is_refused(task_models, case):
    name, changes, message = OTHERS[case]
    with pytest.raises(PackError, match=f"(?s){message}"):
        task_of(dataclasses.replace(packs()["one"], **changes), model(task_models, name), "t")


MISFITS = {
    "fewer prompts than the graph has": ("bound", with_prompts(5), r"1x5x32, not 1x6x32.*max_count=N"),
    "more prompts than the profile has": ("free", with_prompts(9), r"1x9x32, not 1x0..8x32.*max_count=N"),
    "no prompts where the count is fixed": ("bound", packs()["late"], r"1x0x32, not 1x6x32"),
    "another number of classes": (
        "bound",
        dataclasses.replace(with_prompts(6), head=packs()["other"].head, labels=packs()["other"].labels),
        r"head\.weight.*64x3, not 64x5.*max_classes=K",
    ),
    "a prompt for each head where the graph shares one": ("free", packs()["wide"], r"2x6x32, not 1x0..8x32.*each head"),
    "prompts in a block that the graph knows none of": ("free", with_prompts(2, block=7), r"no place.*block 7"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_pack_that_the_graph_has_no_room_for_is_refused(task_models, case):
    name, pack, message = MISFITS[case]
    with pytest.raises(PackError, match=f"(?s){message}"):
        task_of(pack, model(task_models, name), "t")


@pytest.mark.parametrize(("scale", "fits"), [(1, True), (1e5, False)])
def test_prompts_beyond_the_graphs_type_are_refused(task_models, scale, fits):
    bound = model(task_models, "bound")
    inputs = {
        name: {**port, "dtype": "float16"} if "prompt" in name else port for name, port in bound.facts["inputs"].items()
    }
    half = dataclasses.replace(bound, facts={**bound.facts, "inputs": inputs})
    if fits:
        values = task_of(with_prompts(6), half, "t").values
        assert values["blocks.0.attn.prompt_key"].dtype == np.float16
        assert values["head.weight"].dtype == np.float32
        with pytest.raises(PackError, match=r"(?s)blocks\.0\.attn\.prompt_key of task t .* not finite.*tune"):
            task_of(with_prompts(6, scale=np.nan), half, "t")
    else:
        with pytest.raises(PackError, match=r"(?s)blocks\.0\.attn\.prompt_key of task t is beyond .* float16"):
            task_of(with_prompts(6, scale=scale), half, "t")


def test_a_graph_in_bfloat16_takes_no_task(task_models):
    bound = model(task_models, "bound")
    inputs = {
        name: {**port, "dtype": "bfloat16"} if "prompt" in name else port
        for name, port in bound.facts["inputs"].items()
    }
    brain = dataclasses.replace(bound, facts={**bound.facts, "inputs": inputs})
    for make in (lambda: task_of(packs()["one"], brain, "t"), lambda: own_task(brain)):
        with pytest.raises(ModelError, match=r"(?s)in bfloat16.*--set precision=float16"):
            make()


def test_an_engine_takes_no_empty_prompts(task_models):
    free = model(task_models, "free")
    inputs = {
        name: {**port, "profile": [[1, 1, 1, 32], *port["profile"][1:]]} if "prompt" in name else port
        for name, port in free.facts["inputs"].items()
    }
    with pytest.raises(PackError, match="TensorRT knows no empty prompts"):
        task_of(packs()["none"], dataclasses.replace(free, facts={**free.facts, "inputs": inputs}), "t")


def test_a_model_of_changed_weights_holds_no_other_task(task_models):
    bound = model(task_models, "bound")
    changed = dataclasses.replace(bound, facts={**bound.facts, "form": "parallel"})
    with pytest.raises(PackError, match=r"bound has weights of its own"):
        task_of(tiny_pack(backbone(), tokens=6), changed, "t")
