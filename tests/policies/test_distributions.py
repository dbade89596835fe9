from __future__ import annotations

import pytest
import torch

from quadriga.policies import distributions


def test_the_entropy_of_equal_logits_is_the_logarithm_of_their_number() -> None:
    assert float(distributions.entropy(torch.zeros(7, 5), None)) == pytest.approx(torch.tensor(5.0).log())


def test_a_learner_without_rows_adds_no_entropy() -> None:
    """Its share was lost with its runner; a NaN would spread over all learners."""
    assert float(distributions.entropy(torch.zeros(0, 5), None)) == 0.0
