"""A stack refuses a member whose tensors are not those of its module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitbench.train.stack import Stack


def test_a_state_with_a_tensor_that_the_module_lacks_is_refused() -> None:
    module = nn.Linear(2, 2)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    Stack(module, [state], torch.device("cpu"))
    with pytest.raises(ValueError, match=r"stack member 1: teacher\.weight is a tensor that the stack's module lacks"):
        Stack(module, [state, {**state, "teacher.weight": torch.zeros(1)}], torch.device("cpu"))
    with pytest.raises(ValueError, match="stack member 0: weight is a tensor that the stack's module has"):
        Stack(module, [{"bias": state["bias"]}], torch.device("cpu"))
