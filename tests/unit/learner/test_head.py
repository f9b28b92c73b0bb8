"""The head in chunks against log_softmax in float64 and its own autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamgym.learner.head import ChunkedHead


@pytest.mark.parametrize("size", [1, 5, 12, 40])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_values_and_gradients_are_those_of_log_softmax(size: int, entropy_gradient: bool) -> None:
    states, weight, targets = inputs()
    found = ChunkedHead.apply(states, weight, targets, 0.7, entropy_gradient, size)
    logs = (states @ weight.T / 0.7).log_softmax(-1)
    expected = logs[torch.arange(12), targets], -(logs.exp() * logs).sum(-1)
    torch.testing.assert_close(found, expected)
    slopes = torch.randn(2, 12, dtype=torch.float64)
    torch.testing.assert_close(
        gradients(found, slopes, entropy_gradient, states, weight),
        gradients(expected, slopes, entropy_gradient, states, weight),
    )


def test_entropies_have_no_gradient_where_none_is_asked_for() -> None:
    states, weight, targets = inputs()
    assert not ChunkedHead.apply(states, weight, targets, 1.0, False, 5)[1].requires_grad


def test_a_frozen_head_gets_no_gradient() -> None:
    states, weight, targets = inputs()
    weight = weight.detach()
    ChunkedHead.apply(states, weight, targets, 1.0, False, 5)[0].sum().backward()
    assert weight.grad is None and states.grad is not None


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    states = torch.randn(12, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 6, dtype=torch.float64, requires_grad=True)
    return states, weight, torch.randint(0, 31, (12,))


def gradients(
    values: tuple[Tensor, Tensor], slopes: Tensor, entropy: bool, states: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    total = (values[0] * slopes[0]).sum() + (values[1] * slopes[1]).sum() * entropy
    return torch.autograd.grad(total, (states, weight))
