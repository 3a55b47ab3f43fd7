from __future__ import annotations

import pytest
import torch

from myna.train.schedule import one_cycle


def test_equals_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=101, pct_start=0.2)
    for step in range(100):
        # Their warmup peaks at step 0.2 * 101 - 1 of 100.
        ours = one_cycle(step, warmup_steps=0.2 * 101 - 1, total_steps=100)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()
