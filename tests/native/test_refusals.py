"""What the compiled step cannot train, and batches that it cannot take, are refused; never misread."""

import copy
import os
import pickle
import re
import signal

import pytest
import torch
from torch import nn

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.native.library import available
from ctr.native.step import NativeStep
from ctr.native.support import unsupported
from ctr.optim.pairs import make_optimizers
from tests.native.twin import FIELDS, MODELS, batches, build, native

pytestmark = pytest.mark.skipif(not available(), reason="the compiled kernels are not built")


def test_says_what_it_does_not_support():
    model = build("dcn")
    for opt, options in (("group_sgd", {"lr": 0.1}), ("amsgrad", {"lr": 0.1}), ("adam", {"lr": 0.1, "eps": 0.0})):
        assert unsupported(model, *make_optimizers(model, opt, options))
    assert unsupported(model.double(), *make_optimizers(model, "adam", {"lr": 0.1}))


def with_tanh(model):
    model.deep[1] = nn.Tanh()


def without_bias(model):
    model.deep[0] = nn.Linear(model.deep[0].in_features, model.deep[0].out_features, bias=False)


def with_two_activations(model):
    model.deep.insert(1, nn.ReLU())


def with_a_hook(model):
    model.deep[0].register_forward_hook(lambda module, inputs, output: output * 2)


def with_another_forward(model):
    model.deep.forward = lambda x: x


@pytest.mark.parametrize("change", [with_tanh, without_bias, with_two_activations, with_a_hook, with_another_forward])
@pytest.mark.parametrize("name", ["mlp", "dcn"])
def test_layers_that_were_changed_are_not_taken_for_the_models_own(name, change):
    model = build(name)
    assert unsupported(model, *make_optimizers(model, "adam", {"lr": 0.1})) is None
    change(model)
    assert "does not know this" in unsupported(model, *make_optimizers(model, "adam", {"lr": 0.1}))


@pytest.mark.parametrize("which", ["embedding.weight", "output.bias"])
def test_frozen_parameters_are_not_trained(which):
    model = build("mlp")
    optimizers = make_optimizers(model, "adam", {"lr": 0.1})
    model.get_parameter(which).requires_grad_(False)
    assert "all parameters" in unsupported(model, *optimizers)


def test_parameters_that_no_optimizer_holds_are_not_trained():
    model = build("mlp")
    rows, _ = make_optimizers(model, "adam", {"lr": 0.1})
    assert "all parameters" in unsupported(model, rows, torch.optim.Adam(model.output.parameters()))
    assert "all parameters" in unsupported(model, rows, torch.optim.Adam(model.parameters()))


def test_a_net_of_double_precision_under_a_float_table_is_not_taken():
    model = build("mlp")
    model.output.double()
    assert "float32" in unsupported(model, *make_optimizers(model, "adam", {"lr": 0.1}))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("fields", "dense"), [(4, 3), (6, 3), (5, 2), (5, 4)])
def test_a_first_batch_of_other_columns_than_the_model_has_is_refused(name, fields, dense):
    model = build(name)  # of 5 fields and 3 dense columns
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step = native(model)
    with pytest.raises(CtrError, match="columns"):
        step.train(Batch(torch.zeros(8, fields, dtype=torch.int32), torch.zeros(8, dense), torch.zeros(8)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    step.train(batches(1)[0])  # and one of its own is taken


@pytest.mark.parametrize(("ids", "dense"), [(7, 8), (9, 8), (8, 7), (8, 9)])
def test_a_batch_whose_parts_differ_in_length_is_refused(ids, dense):
    step = native(build("mlp"))
    with pytest.raises(CtrError, match=re.escape(f"[{ids}, {dense}, 8] rows")):
        step.train(Batch(torch.zeros(ids, FIELDS, dtype=torch.int32), torch.zeros(dense, 3), torch.zeros(8)))


@pytest.mark.parametrize("bad", [2**32, 2**32 + 5, -(2**32), 2**62])
def test_long_ids_do_not_wrap(bad):
    batch = batches(1)[0]
    ids = batch.ids.long()
    step = native(build("mlp"))
    step.train(Batch(ids, batch.dense, batch.label))
    ids[3, 2] = bad
    with pytest.raises(CtrError, match=f"id {bad} of field 2"):
        step.train(Batch(ids, batch.dense, batch.label))
    assert step.steps == 1
    with pytest.raises(CtrError, match=r"torch.float32; expected integers"):
        step.train(Batch(batch.ids.float(), batch.dense, batch.label))


def test_a_step_needs_a_thread_and_is_not_copied():
    model = build("mlp")
    with pytest.raises(ValueError, match="threads=0"):
        NativeStep(model, *make_optimizers(model, "adam", {"lr": 0.1}), threads=0)
    step = native(model)
    step.train(batches(1)[0])
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            attempt(step)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_fork_is_told_that_the_threads_stayed_behind():
    step = native(build("mlp"))
    batch = batches(1)[0]
    step.train(batch)
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        code = 1
        try:
            step.train(batch)
        except CtrError as error:
            code = 0 if "forked" in str(error) else 2
        step.__del__()  # must not wait for threads that are not there
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    step.train(batch)


def test_an_l2_that_is_scheduled_away_where_D_can_be_0():
    """Without eps it was lambda2 that kept D from 0."""
    model = build("mlp")
    step = native(model, "group_adam", {"lr": 0.1, "eps": 0.0, "lambda2": 1e-3})
    first, second = batches(2)
    step.train(first)
    step.row_optimizer.param_groups[0]["lambda2"] = 0.0
    before = model.embedding.weight.clone()
    with pytest.raises(CtrError, match="D could be 0"):
        step.train(second)
    assert torch.equal(model.embedding.weight, before)
