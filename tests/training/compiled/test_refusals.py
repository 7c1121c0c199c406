"""What the compiled step cannot train, and batches that it cannot take, are refused; never misread."""

import copy
import os
import pickle
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.training.compiled.step import NativeStep
from ctr.training.compiled.support import unsupported
from ctr.training.optimizers import make_optimizers
from tests.native.built import needs_kernels
from tests.training.compiled.twin import FIELDS, MODELS, batches, build, native

pytestmark = needs_kernels


@contextmanager
def unchanged(model):
    """The block changes no bit of a model's parameters and buffers."""
    before = bits(model)
    yield
    assert bits(model) == before


def bits(model):
    """Also of NaN, which Adam with eps = 0 makes of a weight behind a dead unit."""
    return {key: value.numpy().tobytes() for key, value in model.state_dict().items()}


def test_says_what_it_does_not_support():
    model = build("dcn")
    for opt, options in (("group_sgd", {"lr": 0.1}), ("amsgrad", {"lr": 0.1}), ("adam", {"lr": 0.1, "eps": 0.0})):
        assert unsupported(model, *make_optimizers(model, opt, options))
    assert unsupported(model.double(), *make_optimizers(model, "adam", {"lr": 0.1}))


def put(path, make):
    """A change that puts what ``make`` makes of the present module, or parameter, in its place."""

    def change(model):
        parent, _, name = path.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, name, make(getattr(owner, name)))

    return change


def unbiased(layer):
    return nn.Linear(layer.in_features, layer.out_features, bias=False)


def doubled(module, inputs, output):
    return output * 2


def tied(layers):
    layers = [*layers, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
    layers[8].weight = layers[6].weight
    return nn.Sequential(*layers)


CHANGES = {
    "another activation": ("mlp dcn", put("deep.1", lambda _: nn.Tanh())),
    "no bias": ("mlp dcn", put("deep.0", unbiased)),
    "two activations": ("mlp dcn", lambda model: model.deep.insert(1, nn.ReLU())),
    "no deep layers": ("dcn", put("deep", lambda _: nn.Sequential())),
    "an activation among linear layers": ("opnn", lambda model: model.hidden.append(nn.ReLU())),
    "linear for cross": ("dcn", put("cross", lambda old: nn.Linear(43, 43))),
    "something for cross": ("dcn", put("cross", lambda old: nn.Sequential(old))),
    "two outputs": ("mlp dcn opnn", put("output", lambda old: nn.Linear(old.in_features, 2))),
    "a wrapped output": ("mlp dcn opnn", put("output", lambda old: nn.Sequential(old))),
    "a layer used twice": ("mlp", lambda model: model.deep.extend([nn.Linear(16, 16), nn.ReLU()] * 2)),
    "a weight used twice": ("mlp", put("deep", tied)),
    "a forward hook": ("mlp dcn", lambda model: model.deep[0].register_forward_hook(doubled)),
    "a backward hook": ("mlp", lambda model: model.deep[0].register_full_backward_pre_hook(lambda module, grad: None)),
    "a hook of a weight": ("mlp", lambda model: model.output.weight.register_hook(lambda grad: grad * 2)),
    "another forward": ("mlp dcn", lambda model: setattr(model.deep, "forward", lambda x: x)),
    "another from_rows": ("mlp dcn opnn", lambda model: setattr(model, "from_rows", lambda rows, dense: rows)),
    "a short seen": ("mlp", lambda model: setattr(model.embedding, "seen", torch.zeros(3, dtype=torch.bool))),
}


@pytest.mark.parametrize(("name", "change"), [(name, key) for key in CHANGES for name in CHANGES[key][0].split()])
def test_layers_that_were_changed_are_not_taken_for_the_models_own(name, change):
    model = build(name)
    assert unsupported(model, *make_optimizers(model, "adam", {"lr": 0.1})) is None
    CHANGES[change][1](model)
    assert "does not know this" in unsupported(model, *make_optimizers(model, "adam", {"lr": 0.1}))


def test_optimizers_that_do_more_are_not_taken():
    model = build("mlp")
    for which in (0, 1):
        for register in ("register_step_pre_hook", "register_step_post_hook"):
            optimizers = make_optimizers(model, "adam", {"lr": 0.1})
            getattr(optimizers[which], register)(lambda *_: None)
            assert "hooks" in unsupported(model, *optimizers)
    of_all = register_optimizer_step_post_hook(lambda *_: None)
    try:
        assert "hooks" in unsupported(model, *make_optimizers(model, "adam", {"lr": 0.1}))
    finally:
        of_all.remove()
    rows, net = make_optimizers(model, "adam", {"lr": 0.1})
    rows.add_param_group({"params": []})
    assert "param group" in unsupported(model, rows, net)
    rows, net = make_optimizers(model, "adam", {"lr": 0.1})
    net.param_groups[0]["params"].append(model.output.bias)
    assert "all parameters" in unsupported(model, rows, net)


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
    step = native(model)
    with unchanged(model), pytest.raises(CtrError, match="columns"):
        step.train(Batch(torch.zeros(8, fields, dtype=torch.int32), torch.zeros(8, dense), torch.zeros(8)))
    step.train(batches(1)[0])  # and one of its own is taken


@pytest.mark.parametrize(("ids", "dense"), [(7, 8), (9, 8), (8, 7), (8, 9)])
def test_a_batch_whose_parts_differ_in_length_is_refused(ids, dense):
    step = native(build("mlp"))
    with pytest.raises(CtrError, match=re.escape(f"[{ids}, {dense}, 8] rows")):
        step.train(Batch(torch.zeros(ids, FIELDS, dtype=torch.int32), torch.zeros(dense, 3), torch.zeros(8)))


def test_a_batch_of_other_dimensions_is_refused():
    step, batch = native(build("mlp")), batches(1)[0]
    deep = torch.stack([batch.ids, batch.ids], 2)
    wide, twice = torch.stack([batch.dense, batch.dense], 2), torch.stack([batch.label, batch.label], 1)
    for ids, dense, label in (
        (deep, batch.dense, batch.label),
        (batch.ids, wide, batch.label),
        (batch.ids, batch.dense, twice),
        (batch.ids[:, 0], batch.dense, batch.label),
        (batch.ids, batch.dense[:, 0], batch.label),
        (batch.ids, batch.dense, batch.label[0]),
    ):
        with pytest.raises(CtrError, match=r"expected ids \[B, F\]"):
            step.train(Batch(ids, dense, label))
    assert step.steps == 0


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_batch_changes_nothing(name):
    model = build(name)
    step = native(model)
    first, second = batches(2)
    step.train(first)
    with unchanged(model):
        logits, loss = step.train(Batch(first.ids[:0], first.dense[:0], first.label[:0]))
    assert len(logits) == 0
    assert loss != loss
    assert step.steps == 1
    assert len(step.predict(Batch(first.ids[:0], first.dense[:0], first.label[:0]))) == 0
    step.train(second)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int64])
def test_other_integers_are_ids_too(kind):
    steps = [native(build("mlp")) for _ in range(2)]
    batch = batches(1)[0]
    ids = batch.ids % 100
    one, _ = steps[0].train(Batch(ids, batch.dense, batch.label))
    other, _ = steps[1].train(Batch(ids.to(kind), batch.dense, batch.label))
    assert torch.equal(one, other)


def test_a_refused_batch_draws_no_dropout():
    step, batch = native(build("opnn")), batches(1)[0]
    bad = batch.ids.clone()
    bad[1, 1] = -1
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for ids, reason in ((bad, "id -1"), (batch.ids.float(), "ids of type torch.float32")):
        with pytest.raises(CtrError, match=reason):
            step.train(Batch(ids, batch.dense, batch.label))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_is_refused_again_and_the_next_one_is_not():
    step, batch = native(build("mlp")), batches(1)[0]
    expected, _ = native(build("mlp")).train(batch)
    bad = Batch(batch.ids[:-1], batch.dense, batch.label)
    for _ in range(2):
        with pytest.raises(CtrError, match="rows"):
            step.train(bad)
    assert torch.equal(step.train(batch)[0], expected)
    with pytest.raises(CtrError, match="rows"):
        step.train(bad)


def test_the_default_type_of_torch_does_not_matter():
    expected, _ = native(build("mlp")).train(batches(1)[0])
    batch, model = batches(1)[0], build("mlp")
    torch.set_default_dtype(torch.float64)
    try:
        logits, _ = native(model).train(batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(logits, expected)


def test_two_threads_may_share_a_step():
    step, some = native(build("mlp")), batches(30)
    alone = native(build("mlp"))
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(lambda: [step.predict(batch) for batch in some * 10])
        for batch in some:
            step.train(batch)
        reading.result()
    for batch in some:
        alone.train(batch)
    assert all(torch.equal(a, b) for a, b in zip(step.model.parameters(), alone.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("which", "option", "value"),
    [("net", "weight_decay", 0.1), ("net", "maximize", True), ("row", "maximize", True), ("row", "lr", 0.0)],
)
def test_options_that_come_to_what_it_does_not_know(which, option, value):
    model = build("mlp")
    step = native(model)
    first, second = batches(2)
    step.train(first)
    getattr(step, f"{which}_optimizer").param_groups[0][option] = value
    with unchanged(model), pytest.raises(CtrError, match="cannot go on"):
        step.train(second)


def test_parts_that_were_replaced_are_noticed():
    batch = batches(1)[0]
    for change in (
        lambda model: model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True),
        lambda model: setattr(model.embedding, "seen", model.embedding.seen.clone()),
        lambda model: setattr(model, "dropout", 0),
        lambda model: torch.nn.utils.parametrize.register_parametrization(
            model.embedding, "weight", torch.nn.Identity(), unsafe=True
        ),
    ):
        model = build("opnn")
        step = native(model)
        step.train(batch)
        change(model)
        with pytest.raises(CtrError, match="replaced"):
            step.train(batch)


def test_a_state_that_does_not_fit_changes_nothing():
    first, second = batches(2)
    mine, other = native(build("mlp")), native(build("mlp", hidden=[8]))
    narrow, sums = native(build("mlp", dim=4)), native(build("mlp"), "group_adagrad")
    for step in (mine, other, narrow, sums):
        step.train(first)
    before = copy.deepcopy(mine.state_dict())
    uneven = copy.deepcopy(before)
    uneven["row_optimizer"]["state"][0]["step"] = 7
    for wrong, message in (
        (other.state_dict(), "this state is of a net with parameters"),
        (narrow.state_dict(), "this state is of a net with parameters"),
        (sums.state_dict(), "this state is of a net with another optimizer than Adam"),
        ({**before, "row_optimizer": sums.state_dict()["row_optimizer"]}, "this state is of another optimizer"),
        ({**before, "row_optimizer": narrow.state_dict()["row_optimizer"]}, r"its shape must be \(300, 8\)"),
        ({"net_optimizer": before["net_optimizer"]}, "not one of a training step: it holds net_optimizer"),
        ({"backend": "native", "table": torch.zeros(3, 33), "history": torch.zeros(2, 2)}, "of an older version"),
        (uneven, r"different numbers of steps: \[1, 7\]"),
    ):
        with pytest.raises(ValueError, match=message):
            mine.load_state_dict(wrong)
    after = mine.state_dict()
    for key, value in before["row_optimizer"]["state"][0].items():
        assert torch.equal(torch.as_tensor(after["row_optimizer"]["state"][0][key]), torch.as_tensor(value))
    mine.train(second)


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
    for threads in (0, 1025):
        with pytest.raises(ValueError, match=f"threads={threads}"):
            NativeStep(model, *make_optimizers(model, "adam", {"lr": 0.1}), threads=threads)
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
        step._forward.__del__()  # must not wait for threads that are not there
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
    with unchanged(model), pytest.raises(CtrError, match="D could be 0"):
        step.train(second)
