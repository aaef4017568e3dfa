"""The order of clips and draws is a function of seed and epoch, and is shared by every method and every process."""

from __future__ import annotations

import pytest

from train.engine.order import Order


def keys(order: Order, epoch: int = 0) -> list[tuple[int, tuple[int, ...]]]:
    order.epoch = epoch
    return [key for batch in order for key in batch]


def test_each_epoch_has_its_own_order_of_all_clips() -> None:
    order = Order(24, 8, seed=5)
    first, second, again = keys(order), keys(order, 1), keys(Order(24, 8, seed=5))
    assert first == again
    assert [clip for clip, _ in first] != [clip for clip, _ in second]
    assert sorted(clip for clip, _ in first) == list(range(24))
    assert {draws for _, draws in second} == {(1,)}
    assert keys(Order(24, 8, seed=6)) != first


def test_training_takes_whole_steps_and_validation_everything() -> None:
    assert [len(batch) for batch in Order(23, 4, seed=0, accumulate=2)] == [4, 4, 4, 4]
    assert Order(23, 4, seed=0, accumulate=2).steps == 2
    assert [len(batch) for batch in Order(23, 8, seed=None)] == [8, 8, 7]
    assert keys(Order(3, 8, seed=None)) == [(0, (0,)), (1, (0,)), (2, (0,))]
    assert Order(7, 8, seed=0).steps == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_epoch_goes_on_where_it_was(accumulate: int) -> None:
    whole = Order(24, 8 // accumulate, seed=1, accumulate=accumulate)
    rest = Order(24, 8 // accumulate, seed=1, accumulate=accumulate)
    whole.epoch = rest.epoch = 3
    rest.first_step = 2
    assert list(rest) == list(whole)[2 * accumulate :]
    assert [key for batch in whole for key in batch] == keys(Order(24, 8, seed=1), 3)


def test_kept_views_are_drawn_without_repetition_and_all_of_them_in_the_long_run() -> None:
    order = Order(10, 5, seed=0, views=4, samples=2)
    seen = set()
    for epoch in range(12):
        for clip, draws in keys(order, epoch):
            assert len(set(draws)) == 2
            seen |= {(clip, draw) for draw in draws}
    assert seen == {(clip, draw) for clip in range(10) for draw in range(4)}


def test_fresh_draws_never_repeat() -> None:
    order = Order(4, 2, seed=0, samples=3)
    draws = [draw for epoch in range(5) for clip, draws in keys(order, epoch) if clip == 1 for draw in draws]
    assert draws == list(range(15))
