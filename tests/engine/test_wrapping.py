"""What guards put around a network that they share: each acts for its own, and all of it goes."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from anechoic.engine.memory_efficient import memory_efficient, saving_memory
from anechoic.engine.wrapping import Block, Hook, compiled_call, frozen, surround
from anechoic.errors import GuardError


def elsewhere(function, *args):
    """Call a function in a thread that no block of this one reaches."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function, *args).result()


class TestBlock:
    def test_it_reaches_its_own_context_and_copies_of_it(self):
        with Block() as block:
            copied = contextvars.copy_context()
            assert block.entered()
            assert not elsewhere(block.entered)
            assert elsewhere(copied.run, block.entered)
        assert not block.entered()

    def test_it_may_end_in_another_context_than_it_began(self):
        block = Block()
        copied = contextvars.copy_context()
        copied.run(block.__enter__)
        block.__exit__()
        assert block.ended
        with Block(block.owner, block.network):
            pass

    def test_inside_another_around_the_same_network_it_is_refused(self):
        with (
            Block() as block,
            pytest.raises(GuardError, match="a guard inside a guard"),
            Block(network=block.network),
        ):
            pass

    def test_beside_another_of_the_same_owner_it_is_refused(self):
        def second():
            with pytest.raises(GuardError, match="in another thread or task"), Block(block.owner):
                pass

        with Block() as block:
            elsewhere(second)


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


def compiled_in_place():
    network = Doubling()
    network._compiled_call_impl = lambda x: 2 * x + 0
    return network


@pytest.mark.parametrize("make", [Doubling, compiled_in_place])
def test_hooks_of_several_blocks_act_for_their_own_and_go_one_by_one(make):
    network = make()
    own, x = network._compiled_call_impl, torch.ones(1)

    def inside(added):
        """Evaluate the network in a block that adds to its input, and multiplies its output."""
        with Block() as block:
            before = Hook(block, lambda network, args, kwargs: ((args[0] + added,), kwargs))
            after = Hook(block, lambda network, args, kwargs, output: 10 * output)
            undo = surround(network, before, after)
            undone.append(undo)
            return network(x).item()

    undone = []
    assert [elsewhere(inside, added) for added in (1, 2)] == [40, 60]
    assert inside(3) == 80
    assert network(x).item() == 2
    assert compiled_call(network) is own
    for undo in undone:
        undo()
    assert network._compiled_call_impl is own
    assert not network._forward_pre_hooks
    assert not network._forward_hooks


def test_weights_stay_frozen_until_the_last_block_that_wants_it_ends():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    one, other = frozen([layer]), frozen([layer])
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not layer.weight.requires_grad
    other.__exit__(None, None, None)
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)


def test_a_decoder_keeps_less_for_the_block_that_asked_alone():
    layer = nn.Conv1d(2, 2, 3).requires_grad_(False)
    parts = memory_efficient([layer])
    x = torch.randn(1, 2, 8, requires_grad=True)

    def made_by():
        return type(layer(x).grad_fn).__name__

    usual = made_by()
    with saving_memory(parts):
        assert made_by() != usual
        assert elsewhere(made_by) == usual
        assert len(memory_efficient([layer])) == 1  # another thread's guard finds it, too
        with saving_memory(parts):
            pass
        assert made_by() != usual
    assert made_by() == usual
    assert "forward" not in vars(layer)
