"""Networks, their tensors, sizes and costs. `sizes`, `tensors`, `costs` and `weights.start` do not import torch."""
