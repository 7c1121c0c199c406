"""Models against small cases worked out in plain numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from ctr.models import DCN, LR, MLP, DeepFM, FeatureEmbedding
from ctr.optim import GroupAdagrad


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def set_parameters(model: nn.Module) -> dict[str, np.ndarray]:
    """Gives every parameter known values; returns them."""
    values = {}
    for name, p in model.named_parameters():
        values[name] = numbers(*p.shape) * 0.3 + 0.01
        p.data = torch.tensor(values[name])
    return values


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name != "embedding.weight")


def test_parameter_counts_of_the_papers_models() -> None:
    # Criteo: 26 * 8 + 13 = 221 inputs; 2 cross layers of 2 * 221; FC 64, 64; output over 221 + 64.
    dcn = DCN(10, num_fields=26, num_dense=13)
    assert parameters(dcn) == 2 * 2 * 221 + (221 * 64 + 64) + (64 * 64 + 64) + (285 + 1)
    # Avazu: 22 * 16 = 352 inputs; FC 64, 32, 16, 1.
    assert parameters(MLP(10, num_fields=22)) == 352 * 64 + 64 + 64 * 32 + 32 + 32 * 16 + 16 + 17


def test_dcn_by_hand() -> None:
    model = DCN(5, num_fields=2, num_dense=1, embedding_dim=2, hidden=(3, 2)).double()
    p = set_parameters(model)
    ids, dense = np.array([[0, 4], [2, 2]]), numbers(2, 1)
    logits = model(torch.tensor(ids, dtype=torch.int32), torch.tensor(dense))
    for row in range(2):
        x0 = np.concatenate([p["embedding.weight"][ids[row, 0]], p["embedding.weight"][ids[row, 1]], dense[row]])
        x = x0
        for w, b in zip(p["cross.weight"], p["cross.bias"], strict=True):
            x = x0 * float(np.dot(x, w)) + b + x
        h = x0
        for layer in ("deep.0", "deep.2"):
            h = np.maximum(p[f"{layer}.weight"] @ h + p[f"{layer}.bias"], 0)
        expected = p["output.weight"][0] @ np.concatenate([x, h]) + p["output.bias"][0]
        assert logits[row].item() == pytest.approx(expected, rel=1e-12)


def test_mlp_by_hand() -> None:
    model = MLP(5, num_fields=2, embedding_dim=2, hidden=(3, 2)).double()
    p = set_parameters(model)
    ids = np.array([[1, 3]])
    h = p["embedding.weight"][ids[0]].ravel()
    for layer in ("deep.0", "deep.2"):
        h = np.maximum(p[f"{layer}.weight"] @ h + p[f"{layer}.bias"], 0)
    expected = p["output.weight"][0] @ h + p["output.bias"][0]
    assert model(torch.tensor(ids), None).tolist() == [pytest.approx(expected, rel=1e-12)]


@pytest.mark.parametrize("num_dense", [0, 2])
def test_deepfm_by_hand(num_dense: int) -> None:
    model = DeepFM(5, num_fields=3, num_dense=num_dense, embedding_dim=3, hidden=(4,)).double()
    p = set_parameters(model)
    ids, dense = np.array([[0, 4, 2], [3, 3, 1]]), numbers(2, num_dense)
    logits = model(torch.tensor(ids), torch.tensor(dense) if num_dense else None)
    for row in range(2):
        weights, vectors = p["embedding.weight"][ids[row], 0], p["embedding.weight"][ids[row], 1:]
        pairs = sum(vectors[i] @ vectors[j] for i in range(3) for j in range(i + 1, 3))
        h = np.maximum(p["deep.0.weight"] @ np.concatenate([vectors.ravel(), dense[row]]) + p["deep.0.bias"], 0)
        wide = weights.sum() + (dense[row] @ p["dense"] if num_dense else 0.0)
        expected = wide + pairs + p["output.weight"][0] @ h + p["output.bias"][0]
        assert logits[row].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_dense", [0, 2])
def test_lr_by_hand(num_dense: int) -> None:
    model = LR(5, num_fields=3, num_dense=num_dense).double()
    assert not any(p.any() for p in model.parameters())
    p = set_parameters(model)
    ids, dense = np.array([[0, 4, 2], [3, 3, 1]]), numbers(2, num_dense)
    logits = model(torch.tensor(ids), torch.tensor(dense) if num_dense else None)
    for row in range(2):
        expected = p["embedding.weight"][ids[row]].sum() + p["bias"][0]
        expected += dense[row] @ p["dense"] if num_dense else 0.0
        assert logits[row].item() == pytest.approx(expected, rel=1e-12)


def test_lr_with_group_adagrad_and_l1_is_ftrl_proximal() -> None:
    """McMahan et al., KDD 2013, Algorithm 1 with beta = 0, on each feature's weight: same weights, same zeros."""
    rate, l1 = 0.2, 3.0
    model = LR(6, num_fields=2).double()
    optimizer = GroupAdagrad([model.embedding.weight], lr=rate, initial_accumulator_value=0.0, eps=0.0, lambda1=l1)
    chance = np.random.default_rng(0)
    z, n = np.zeros(6), np.zeros(6)
    for _ in range(60):
        ids, label = chance.choice(6, (1, 2), replace=False), float(chance.random() < 0.4)
        w = np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / (np.sqrt(n) / rate + (n == 0)))
        g = 1 / (1 + np.exp(-w[ids].sum())) - label
        sigma = (np.sqrt(n[ids[0]] + g * g) - np.sqrt(n[ids[0]])) / rate
        z[ids[0]] += g - sigma * w[ids[0]]
        n[ids[0]] += g * g
        loss = nn.functional.binary_cross_entropy_with_logits(model(torch.tensor(ids)), torch.tensor([label]).double())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    w = np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / (np.sqrt(n) / rate))
    assert 0 < (w == 0).sum() < 6
    np.testing.assert_allclose(model.embedding.weight.detach().numpy()[:, 0], w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [DCN, MLP, DeepFM])
def test_initial_values(model: type[DCN] | type[MLP] | type[DeepFM]) -> None:
    """Xavier uniform, biases 0, rows within +-0.01; the generator alone decides."""
    one, same, other = (model(1000, 26, 13, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    for name, p in one.named_parameters():
        assert torch.equal(p, same.get_parameter(name))
        if "bias" in name or name == "dense":
            assert not p.any()
            continue
        assert not torch.equal(p, other.get_parameter(name))
        if name == "embedding.weight":
            limit = 0.01
        elif name == "cross.weight":
            limit = (6 / (p.shape[1] + 1)) ** 0.5
        else:
            limit = (6 / sum(p.shape)) ** 0.5
        assert 0.9 * limit < p.abs().max().item() <= limit


@pytest.mark.parametrize("unseen", ["zero", "init"])
def test_rows_never_trained_at_evaluation(unseen: str) -> None:
    embedding = FeatureEmbedding(4, 3, unseen=unseen)  # type: ignore[arg-type]
    ids = torch.tensor([[0, 2]], dtype=torch.int32)
    trained = embedding(ids)
    assert torch.equal(trained, embedding.weight[[0, 2]].unsqueeze(0))
    trained.sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.is_sparse
    assert embedding.seen.tolist() == [True, False, True, False]
    embedding.eval()
    rows = embedding(torch.tensor([[1, 2]], dtype=torch.int32))
    assert torch.equal(rows[0, 1], embedding.weight[2])
    assert torch.equal(rows[0, 0], embedding.weight[1] if unseen == "init" else torch.zeros(3))
    assert embedding.seen.tolist() == [True, False, True, False]  # evaluation marks nothing


def test_seen_is_saved_with_the_model() -> None:
    model = DCN(4, 1)
    model(torch.tensor([[2]]), None)
    other = DCN(4, 1)
    other.load_state_dict(model.state_dict())
    assert other.embedding.seen.tolist() == [False, False, True, False]


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="num_features=0"):
        FeatureEmbedding(0, 3)
    with pytest.raises(ValueError, match="unseen='mean'; expected 'zero' or 'init'"):
        FeatureEmbedding(1, 3, unseen="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model\.embedding_dim=2; expected 1: a weight for each feature"):
        LR(3, 2, embedding_dim=2)
    with pytest.raises(ValueError, match=r"model\.embedding_dim=1; expected at least 2: a weight and a vector"):
        DeepFM(3, 2, embedding_dim=1)
