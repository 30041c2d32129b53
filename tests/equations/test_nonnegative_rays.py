import torch
from cases import draw

from leakage_audit.equations.nonnegative_rays import extreme_rays
from leakage_audit.runtime import Budget


def test_the_columns_whatever_mixed_them():
    sparse = draw(400, 12).clamp_min(0) * (torch.rand(400, 12, generator=torch.Generator().manual_seed(0)) < 0.5)
    rows = sparse @ draw(12, 12, seed=2)
    rays = extreme_rays(rows, 1e-12, 8, 0, Budget())
    found = rows @ rays.T
    cosine = torch.nn.functional.normalize(found, dim=0).T @ torch.nn.functional.normalize(sparse, dim=0)
    assert sorted(cosine.argmax(1).tolist()) == list(range(12))
    assert cosine.amax(1).min() > 1 - 1e-12


def test_no_cone_no_rays():
    assert len(extreme_rays(torch.cat([draw(20, 3), -draw(20, 3)]), 1e-12, 3, 0, Budget())) == 0


def test_time_is_kept():
    assert len(extreme_rays(draw(20, 3).abs(), 0.0, 3, 0, Budget(seconds=1e-9))) == 0
