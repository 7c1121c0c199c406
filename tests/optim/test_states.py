"""States are saved, copied and loaded to the last bit, and refused where they do not fit."""

import copy
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ctr.optim import GroupAdam, GroupOptimizer

from .family import FAMILY, LAMBDAS, ONE_EACH, Member, give, ids, table, walk


@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
def test_a_saved_run_goes_on_bit_for_bit(member: Member, tmp_path: Path) -> None:
    straight, first = table(), table()
    opt = member.make([straight], **LAMBDAS)
    walk(opt, straight, range(40))
    half = member.make([first], **LAMBDAS)
    walk(half, first, range(20))
    torch.save({"p": first, "opt": half.state_dict()}, tmp_path / "half.pt")
    loaded = torch.load(tmp_path / "half.pt", weights_only=True)
    second = torch.nn.Parameter(loaded["p"].detach())
    rest = member.make([second], lr=123.0)  # the options come with the state
    rest.load_state_dict(loaded["opt"])
    walk(rest, second, range(20, 40))
    assert torch.equal(second, straight)
    assert (straight == 0).any()
    assert (straight != 0).any()
    assert rest.state[second].keys() == opt.state[straight].keys()
    for key, value in opt.state[straight].items():
        assert torch.equal(torch.as_tensor(rest.state[second][key]), torch.as_tensor(value))


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_lives_its_own_life(member: Member, how: str) -> None:
    p = table()
    opt = member.make([p], **LAMBDAS)
    walk(opt, p, range(10))
    if how == "deepcopy":
        twin = copy.deepcopy(opt)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(opt))
    else:
        buffer = io.BytesIO()
        torch.save(opt, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    q = twin.param_groups[0]["params"][0]
    assert q is not p
    walk(twin, q, range(10, 20))
    assert not torch.equal(p, q)
    walk(opt, p, range(10, 20))
    assert torch.equal(p, q)


@pytest.mark.parametrize("member", FAMILY, ids=ids(FAMILY))
def test_a_state_travels_between_devices(member: Member, elsewhere: str) -> None:
    straight, here = table(), table()
    opt, first = member.make([straight], **LAMBDAS), member.make([here], **LAMBDAS)
    walk(opt, straight, range(30))
    walk(first, here, range(10))
    there = torch.nn.Parameter(here.detach().to(elsewhere))
    second = member.make([there])
    second.load_state_dict(first.state_dict())
    walk(second, there, range(10, 20))
    back = torch.nn.Parameter(there.detach().cpu())
    third = member.make([back])
    third.load_state_dict(second.state_dict())
    walk(third, back, range(20, 30))
    torch.testing.assert_close(back, straight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
@pytest.mark.parametrize("how", ["load", "deepcopy", "pickle"])
def test_a_state_loads_again_and_into_copies(member: Member, how: str) -> None:
    straight, p = table(), table()
    opt, source = member.make([straight], **LAMBDAS), member.make([p], **LAMBDAS)
    walk(opt, straight, range(10))
    walk(source, p, range(10))
    twin = member.make([table()])
    if how == "load":
        twin.load_state_dict(source.state_dict())
    else:
        twin = copy.deepcopy(twin) if how == "deepcopy" else pickle.loads(pickle.dumps(twin))
    twin.load_state_dict(source.state_dict())
    q = twin.param_groups[0]["params"][0]
    q.data.copy_(p)
    twin.add_param_group({"params": [table()]})
    last = member.make([q])
    last.add_param_group({"params": [table()]})
    last.load_state_dict(twin.state_dict())  # torch has added an option of its own to the second group
    walk(last, q, range(10, 20))
    walk(opt, straight, range(10, 20))
    assert torch.equal(q, straight)


def test_a_state_of_another_optimizer_is_refused() -> None:
    p = table()
    with pytest.raises(ValueError, match=r"another optimizer.*lambda1"):
        GroupAdam([p]).load_state_dict(torch.optim.Adam([p]).state_dict())
    for spoil, message in (
        (lambda group: group.pop("lambda21"), r"no \['lambda21'\]"),
        (lambda group: group.update(weight_decay=0.1), r"unknown \['weight_decay'\]"),
    ):
        saved = copy.deepcopy(GroupAdam([p]).state_dict())
        spoil(saved["param_groups"][0])
        with pytest.raises(ValueError, match=message):
            GroupAdam([p]).load_state_dict(saved)


def assert_load_fails(opt: GroupOptimizer, saved: dict[str, Any], message: str) -> None:
    """The load raises and the optimizer is what it was."""
    before, state = copy.deepcopy(opt.state_dict()), dict(opt.state)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(saved)
    assert opt.param_groups[0]["params"][0] in state
    for p, mine in opt.state.items():
        assert mine is state[p]
    assert opt.state_dict()["param_groups"] == before["param_groups"]
    for key, value in before["state"][0].items():
        assert torch.equal(torch.as_tensor(opt.state_dict()["state"][0][key]), torch.as_tensor(value))


@pytest.mark.parametrize(("mine", "other"), list(itertools.permutations(ONE_EACH, 2)), ids=lambda m: m.id)
@pytest.mark.parametrize("options", ["theirs", "mine"])
def test_a_state_of_another_class_is_refused(mine: Member, other: Member, options: str) -> None:
    p, q = table(), table()
    opt, theirs = mine.make([("net.table", p)], **LAMBDAS), other.make([q], **LAMBDAS)
    walk(opt, p, range(3))
    walk(theirs, q, range(3))
    give(opt, p, torch.ones(6, 3), torch.ones(6, 3))
    saved = theirs.state_dict()
    if options == "mine":  # only the tensors tell
        saved["param_groups"] = copy.deepcopy(opt.state_dict()["param_groups"])
    same = saved["state"][0].keys() == opt.state[p].keys()  # Adam and AdaHessian: only the options tell
    if options == "mine" and same:
        opt.load_state_dict(saved)
        return
    assert_load_fails(opt, saved, "another optimizer" if options == "theirs" else r"another optimizer.*'net\.table'")
    opt.step()  # what was set for the next step is still there


@pytest.mark.parametrize("member", ONE_EACH, ids=ids(ONE_EACH))
def test_a_state_of_another_shape_is_refused_and_the_parameter_named(member: Member) -> None:
    p = table()
    opt = member.make([p], **LAMBDAS)
    walk(opt, p, range(3))
    small = torch.nn.Parameter(torch.ones(5, 3))
    theirs = member.make([small])
    give(theirs, small, torch.ones(5, 3), torch.ones(5, 3))
    theirs.step()
    assert_load_fails(opt, theirs.state_dict(), r"u of parameter 0 of group 0 is \(5, 3\).*\(6, 3\)")
    named = member.make([("net.table", p)])
    with pytest.raises(ValueError, match=r"u of parameter 'net\.table'"):
        named.load_state_dict(theirs.state_dict())
    for name in opt.buffers:
        saved = copy.deepcopy(opt.state_dict())
        saved["state"][0][name] = 3
        assert_load_fails(opt, saved, f"{name} of parameter 0 of group 0 is no tensor but int")


def test_a_state_whose_group_dim_does_not_fit_is_refused() -> None:
    bias = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(ValueError, match="group_dim 1 is out of range for parameter 'bias'"):
        GroupAdam([("bias", bias)]).load_state_dict(GroupAdam([table()], group_dim=1).state_dict())


def test_a_state_of_an_older_version_is_refused() -> None:
    p = table()
    opt = GroupAdam([("net.table", p)], **LAMBDAS)
    walk(opt, p, range(3))
    saved = copy.deepcopy(opt.state_dict())
    old = saved["state"][0]
    saved["state"][0] = {"step": 3, "z": old["u"], "D_prev": old["v"], "m": old["m"], "v": old["v"]}
    assert_load_fails(opt, saved, r"older version, for parameter 'net\.table' it holds z and D_prev")
    for spoilt, message in (({"lr": -1.0}, "lr of .* is -1.0"), ({"seen": torch.ones(6)}, r"seen of .* is \(6,\)")):
        saved = copy.deepcopy(opt.state_dict())
        saved["state"][0].update(spoilt)
        assert_load_fails(opt, saved, message)
