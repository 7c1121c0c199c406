"""A sparse logistic regression with planted support: the grouped optimizers find it, the plain ones do not."""

import pytest
import torch

from .family import ONE_EACH, Member, give, ids

FEATURES, DIM, RELEVANT = 40, 3, 10


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """8 of 40 features a sample; the first 10 move the logit by +-1.5, the others are noise."""
    gen = torch.Generator().manual_seed(0)
    effect = torch.zeros(FEATURES)
    effect[:RELEVANT] = torch.tensor([1.5, -1.5]).repeat(RELEVANT // 2)
    out = []
    for _ in range(250):
        features = torch.rand(128, FEATURES, generator=gen).topk(8, dim=1).indices
        clicks = torch.rand(128, generator=gen) < torch.sigmoid(effect[features].sum(1))
        out.append((features, clicks.float()))
    return out


STREAM = batches()


def train(member: Member, make: object) -> torch.Tensor:
    torch.manual_seed(1)
    table = torch.nn.Embedding(FEATURES, DIM)
    with torch.no_grad():
        table.weight.mul_(0.1)
    opt = make(table.parameters())  # type: ignore[operator]
    for features, clicks in STREAM:
        p = torch.nn.functional.embedding(features, table.weight).sum((1, 2))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(p, clicks)
        if member.second_order:
            # The diagonal in closed form: every weight of a row sees the samples that hold the row.
            q = torch.sigmoid(p.detach())
            per_row = torch.zeros(FEATURES).index_add_(
                0, features.flatten(), (q * (1 - q) / len(q)).repeat_interleave(features.shape[1])
            )
            (grad,) = torch.autograd.grad(loss, [table.weight])
            give(opt, table.weight, grad, per_row[:, None].expand(-1, DIM).contiguous())
        else:
            opt.zero_grad()
            loss.backward()
        opt.step()
    return table.weight.detach()


@pytest.mark.slow
@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_the_support_is_recovered_at_some_lambda21(member: Member) -> None:
    lr = {"sgd": 1.0, "momentum": 0.1}.get(member.id, member.lr)
    plain = train(member, lambda params: member.plain(params, lr))
    assert plain.ne(0).all()
    planted = torch.arange(FEATURES) < RELEVANT
    counts = {}
    for lambda21 in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        alive = train(member, lambda params, l21=lambda21: member.make(params, lr=lr, lambda21=l21)).ne(0).any(1)
        counts[lambda21] = int(alive.sum())
        if torch.equal(alive, planted):
            return
    pytest.fail(f"no lambda21 leaves the planted rows and only them; alive: {counts}")
