"""Errors name the culprit: the option, the parameter, the gradient."""

import copy

import pytest
import torch

from ctr.optim import OPTIMIZERS, GroupAdagrad, GroupAdaHessian, GroupAdam, GroupMomentum

from .family import sparse, table


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_a_parameter_of_a_wrong_dtype_is_named(name: str, dtype: torch.dtype) -> None:
    good, bad = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2, dtype=dtype))
    with pytest.raises(ValueError, match=r"parameter 1 of group 0 is torch\.\w+; weights must be float32 or float64"):
        OPTIMIZERS[name]([good, bad], lr=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"parameter 'net\.bad' is"):
        OPTIMIZERS[name]([("net.good", good), ("net.bad", bad)], lr=0.1)  # type: ignore[call-arg]


def test_an_integer_parameter_is_named() -> None:
    with pytest.raises(ValueError, match=r"parameter 0 of group 0 is torch\.int64"):
        GroupAdam([torch.ones(2, 2, dtype=torch.int64)])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", -1e-3),
        ("lambda1", -1e-9),
        ("lambda21", -1.0),
        ("lambda2", float("nan")),
        ("lambda21", float("inf")),
        ("lambda21", "strong"),
        ("norm", "l2"),
        ("threshold", "firm"),
        ("group_dim", 2),
        ("group_dim", -1),
        ("group_dim", 0.5),
        ("lazy", 1),
    ],
)
def test_a_bad_option_is_named(name: str, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        OPTIMIZERS[name]([table()], **{"lr": 0.1, option: value})  # type: ignore[call-arg]
    opt = OPTIMIZERS[name]([table()], lr=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=option):
        opt.add_param_group({"params": [table()], option: value})
    assert len(opt.param_groups) == 1


def test_the_bad_options_of_single_classes_are_named() -> None:
    for make, option in (
        (lambda p: GroupAdam(p, betas=(0.9, 1.0)), "betas"),
        (lambda p: GroupAdam(p, betas=0.9), "betas"),  # type: ignore[arg-type]
        (lambda p: GroupAdam(p, eps=-1e-8), "eps"),
        (lambda p: GroupMomentum(p, 0.1, momentum=1.0), "momentum"),
        (lambda p: GroupMomentum(p, 0.1, momentum=-0.1), "momentum"),
        (lambda p: GroupAdagrad(p, initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda p: GroupAdaHessian(p, hessian_power=-1.0), "hessian_power"),
    ):
        with pytest.raises(ValueError, match=option):
            make([table()])


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(TypeError, match="lamda21"):
        GroupAdam([table()], lamda21=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"lamda21.*known are.*lambda21"):
        GroupAdam([{"params": [table()], "lamda21": 1.0}])


def test_group_dim_out_of_range_names_the_parameter() -> None:
    linear = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"group_dim 1 is out of range for parameter 'bias' of shape \(4,\)"):
        GroupAdam(linear.named_parameters(), group_dim=1)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_gradient_is_caught_before_anything_moves(kind: str, value: float) -> None:
    good, bad = table(), table()
    opt = GroupAdam([("good", good), ("bad", bad)], check_finite=True)
    good.grad = torch.ones(6, 3)
    bad.grad = torch.ones(6, 3) if kind == "dense" else sparse([1, 4], torch.ones(2, 3), 6)
    opt.step()
    before = copy.deepcopy((good.data, bad.data, opt.state[good]))
    values = bad.grad if kind == "dense" else bad.grad._values()
    values[1, 1] = value
    with pytest.raises(RuntimeError, match="parameter 'bad' holds NaN or infinity"):
        opt.step()
    assert torch.equal(good, before[0])
    assert torch.equal(bad, before[1])
    assert opt.state[good]["step"] == before[2]["step"]


def test_a_sparse_gradient_where_groups_are_columns_is_refused() -> None:
    p = table()
    opt = GroupAdam([p], group_dim=1)
    p.grad = sparse([1], torch.ones(1, 3), 6)
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0 is sparse by rows.*group_dim 0 or None"):
        opt.step()
    p.grad = torch.ones(6, 3).to_sparse()
    with pytest.raises(RuntimeError, match="parameter 0 of group 0 has 2 sparse dimensions"):
        opt.step()
