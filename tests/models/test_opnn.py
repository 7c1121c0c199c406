"""OPNN against values worked out by hand."""

import pytest
import torch
from torch import nn

from ctr.models import OPNN
from ctr.models.dropout import draw_bits, half_dropout
from ctr.models.opnn import PairProducts, superposition


def test_pair_products_by_hand():
    pairs = PairProducts(num_fields=3, dim=2)
    with torch.no_grad():
        pairs.weight[:, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # W_01
        pairs.weight[:, 1] = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # W_02
        pairs.weight[:, 2] = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # W_12
    rows = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]]])
    # (1,2) W_01 = (7, 10); . (3,5) = 71.  (1,2) W_02 = (0, 1); . (7,11) = 11.  (3,5) W_12 = (3,-5); . (7,11) = -34.
    assert pairs(rows).tolist() == [[71.0, 11.0, -34.0]]


def test_superposition_by_hand():
    rows = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])  # their sum is (4, 7)
    assert superposition(rows).tolist() == [[16.0, 28.0, 28.0, 49.0]]


def test_logit_by_hand():
    model = OPNN(10, num_fields=2, embedding_dim=1, hidden=[2], dropout=0.0)
    assert model.pairs is not None
    with torch.no_grad():
        model.pairs.weight.fill_(3.0)
        model.hidden[0].weight.copy_(torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.0, 0.0]]))
        model.hidden[0].bias.copy_(torch.tensor([0.25, 0.5]))
        model.output.weight.copy_(torch.tensor([[2.0, 100.0]]))
        model.output.bias.fill_(-1.0)
    # rows 2, 5; product 30; first unit 2 + 10 + 15 + .25 = 27.25; second -2 + .5 < 0; logit 54.5 - 1
    assert model.from_rows(torch.tensor([[[2.0], [5.0]]])).tolist() == [53.5]


@pytest.mark.parametrize(("kernel", "width"), [("mat", 160 + 120), ("sum", 160 + 100)])
def test_paper_sizes(kernel, width):
    model = OPNN(100, num_fields=16, kernel=kernel)
    assert model.hidden[0].weight.shape == (512, width)
    assert [layer.weight.shape[0] for layer in model.hidden] == [512, 256, 128]
    assert model(torch.randint(100, (5, 16), dtype=torch.int32)).shape == (5,)


def test_dense_columns_come_last():
    model = OPNN(100, num_fields=3, num_dense=2, embedding_dim=4, dropout=0.0)
    assert model.hidden[0].weight.shape[1] == 12 + 3 + 2
    ids, dense = torch.randint(100, (5, 3)), torch.randn(5, 2)
    with torch.no_grad():
        model.hidden[0].weight[:, -2:] = 0
    torch.testing.assert_close(model(ids, dense), model(ids, torch.zeros_like(dense)))


def test_half_dropout_bit_by_bit():
    bits = torch.tensor([[0b101, -1], [0, 0b10]])
    kept = half_dropout(torch.ones(2, 66), bits)
    assert kept[0].tolist() == [2, 0, 2] + [0] * 61 + [2, 2]
    assert kept[1].tolist() == [0] * 65 + [2]


def test_half_dropout_keeps_half_and_the_mean():
    torch.manual_seed(0)
    kept = half_dropout(torch.ones(4096, 64), draw_bits(4096, 1))
    assert abs(float(kept.mean()) - 1) < 0.01
    assert kept.unique().tolist() == [0.0, 2.0]


def test_dropout_acts_in_training_only_and_its_state_is_torchs():
    model = OPNN(50, num_fields=4, embedding_dim=3, hidden=[16, 8])
    ids = torch.randint(50, (33, 4))
    state = torch.get_rng_state()
    first, second = model(ids), model(ids)
    torch.set_rng_state(state)
    assert torch.equal(model(ids), first)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_gradients_numerically():
    torch.manual_seed(0)
    model = OPNN(50, num_fields=4, embedding_dim=3, hidden=[5], kernel="mat").double()
    rows = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    bits = model.draw(6)
    assert torch.autograd.gradcheck(lambda r: model.from_rows(r, None, bits), (rows,))


def test_xavier_bound_and_zero_biases():
    model = OPNN(50, num_fields=16, generator=torch.Generator().manual_seed(1))
    assert model.pairs is not None
    assert 0.9 * 0.3**0.5 < model.pairs.weight.abs().max().item() <= 0.3**0.5
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("options", [{"kernel": "outer"}, {"dropout": 0.3}, {"hidden": []}, {"hidden": [4, 0]}])
def test_refuses_what_it_cannot_do(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        OPNN(10, 2, **options)


@pytest.mark.parametrize("kernel", ["mat", "sum"])
def test_one_field_has_no_pairs_and_trains(kernel):
    model = OPNN(20, 1, embedding_dim=3, hidden=[4], kernel=kernel, dropout=0)
    assert model.hidden[0].in_features == (3 if kernel == "mat" else 3 + 9)
    loss = model(torch.randint(0, 20, (6, 1))).square().sum()
    net = [p for name, p in model.named_parameters() if name != "embedding.weight"]
    gradients = torch.autograd.grad(loss, net)  # of all parameters, also those of no pair
    assert [g.shape for g in gradients] == [p.shape for p in net]
