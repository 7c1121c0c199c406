"""The compiled step against its torch twin."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from ctr.errors import CtrError
from ctr.models import MLP, FeatureEmbedding
from ctr.optim import LambdaSchedule, touched_rows
from ctr.training.compiled import forward
from ctr.training.memory import peak, reset_peak
from ctr.training.optimizers import make_optimizers
from ctr.training.step import TorchStep
from tests.native.built import needs_kernels
from tests.training.compiled.twin import (
    FEATURES,
    FIELDS,
    MODELS,
    OPTIMIZERS,
    TorchTwin,
    as_double,
    batches,
    build,
    native,
)

pytestmark = needs_kernels


def difference(ours, theirs):
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max(float((a.detach().double() - b.detach().double()).abs().max()) for a, b in pairs)


def compare(ours, theirs, exact=None):
    """Equal but for rounding, and zero sets equal. Where rounding grows (Adam on gradients that all but cancel), the
    torch twin itself strays as far (to a factor) from a float64 one."""
    allowed = 1e-5 if exact is None else max(1e-5, 10 * difference(theirs, exact))
    assert difference(ours, theirs) < allowed
    assert torch.equal(ours.embedding.weight == 0, theirs.embedding.weight == 0)
    assert torch.equal(ours.embedding.seen, theirs.embedding.seen)


def run_both(name, opt, options, *, dim=8, dense=3, steps=100, size=64, threads=2, weighted=False, **model_options):
    ours, theirs, exact = (build(name, dim, dense, **model_options) for _ in range(3))
    made = batches(steps, size, dense, weighted=weighted)
    found = outcomes(native(ours, opt, options, threads), made)
    expected = outcomes(TorchTwin(theirs, opt, options), made)
    strays = [0.0] * steps
    if difference(ours, theirs) < 1e-5 and max(distances(found, expected)) < 1e-4:
        exact = None  # it would allow more alone
    else:
        double = TorchTwin(exact.double(), opt, options)
        strays = distances(expected, outcomes(double, [as_double(batch) for batch in made]))
    for (_, loss), (_, their_loss), distance, stray in zip(
        found, expected, distances(found, expected), strays, strict=True
    ):
        assert abs(loss - their_loss) < 1e-4
        assert distance < max(1e-4, 10 * stray)
    compare(ours, theirs, exact)
    return ours


def outcomes(step, made):
    """Logits and loss of each batch; with the same dropout whatever the step."""
    found = []
    for number, batch in enumerate(made):
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes a millisecond
        found.append(step.train(batch))
    return found


def distances(found, expected):
    """Of the logits of each batch."""
    return [float((a - b).abs().max()) for (a, _), (b, _) in zip(found, expected, strict=True)]


# Each model and each optimizer once: neither's code knows of the other.
EACH_ONCE = {("dcn", "group_adam"), ("mlp", "group_adagrad"), ("opnn", "adagrad"), ("mlp", "adam")}


@pytest.mark.parametrize(
    ("model", "opt"),
    [
        pytest.param(model, opt, marks=() if (model, opt) in EACH_ONCE else pytest.mark.slow)
        for model in MODELS
        for opt in OPTIMIZERS
    ],
)
def test_same_trajectory_as_torch(model, opt):
    # Few units: with 896 a ReLU input that rounds to the other side of 0 comes up in every run (docs/performance.md).
    options = {"hidden": [32, 16]} if model == "opnn" else {}
    trained = run_both(model, opt, OPTIMIZERS[opt], **options)
    seen = trained.embedding.seen
    alive = (trained.embedding.weight.detach() != 0).any(1) & seen
    assert alive.sum() > FEATURES // 20
    assert (seen & ~alive).any() == opt.startswith("group")


@pytest.mark.parametrize("threads", [1, 2])
def test_weights_of_rows_scale_their_losses(threads):
    """In blocks too, where a thread's share is larger than one."""
    run_both("dcn", "group_adam", OPTIMIZERS["group_adam"], weighted=True, threads=threads)
    run_both("mlp", "adagrad", OPTIMIZERS["adagrad"], weighted=True, threads=threads, steps=5, size=700)


def test_weights_of_1_change_no_bit():
    models = build("dcn"), build("dcn")
    steps = [native(model) for model in models]
    for batch in batches(20):
        found = steps[0].train(batch), steps[1].train(replace(batch, weight=torch.ones(len(batch))))
        assert torch.equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]
    assert difference(*models) == 0


def test_weights_of_another_length_are_refused():
    step, (batch,) = native(build("dcn")), batches(1)
    with pytest.raises(CtrError, match=r"a batch of 33 rows with weights \(2,\); expected \[33\]"):
        step.train(replace(batch, weight=torch.ones(2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lr", "lambda21", "options"),
    [("dcn", 1e-3, 0.1, {}), ("mlp", 1e-4, 0.1, {}), ("opnn", 1e-4, 0.3, {"hidden": [32, 16]})],
)
def test_within_1e6_of_torch_over_100_steps(name, lr, lambda21, options):
    """Adam's own eps, the paper's learning rates and batch size. What can go beyond is a ReLU whose input rounds to the
    other side of 0 (docs/performance.md): with one seed in about six, other ones on other machines."""
    distances = []
    for seed in range(5):
        ours, theirs = build(name, **options), build(name, **options)
        optimizer = dict(lr=lr, lambda21=lambda21)
        step, twin = native(ours, "group_adam", optimizer), TorchTwin(theirs, "group_adam", optimizer)
        for number, batch in enumerate(batches(100, rows=512, seed=seed)):
            batch.dense.sigmoid_()
            torch.manual_seed(number)
            step.train(batch)
            torch.manual_seed(number)
            twin.train(batch)
        alive = (ours.embedding.weight.detach() != 0).any(1)
        assert 0 < alive.sum() < FEATURES - 10
        distances.append(difference(ours, theirs))
        if distances[-1] < 1e-5:
            compare(ours, theirs)
    assert sorted(distances)[len(distances) // 2] < 1e-6, distances


@pytest.mark.parametrize("norm", ["s", "s_tilde", "s_tilde_eq10"])
@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_norms_and_thresholds(norm, threshold):
    run_both("mlp", "group_adam", dict(lr=1e-3, lambda21=0.05, norm=norm, threshold=threshold, eps_hat=True))


@pytest.mark.parametrize("dim", [1, 3, 4, 10, 16, 17, 32])
def test_sizes(dim):
    for model, dense in (("mlp", 0), ("dcn", 3), ("opnn", dim % 2)):
        run_both(model, "group_adam", OPTIMIZERS["group_adam"], dim=dim, dense=dense, steps=5)


@pytest.mark.parametrize("options", [{"kernel": "sum"}, {"kernel": "mat"}, {"dropout": 0.0}, {"hidden": [70, 33]}])
def test_opnn_options(options):
    run_both("opnn", "adam", OPTIMIZERS["adam"], steps=20, **options)


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_cross_layers(layers):
    run_both("dcn", "adam", OPTIMIZERS["adam"], steps=20, cross_layers=layers, hidden=[20, 7])


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads(threads):
    run_both("dcn", "group_adam", OPTIMIZERS["group_adam"], steps=20, threads=threads)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_share_that_is_cut_into_blocks(name, threads):
    """1,111 rows and at last 556: blocks of 128 and what is left of them, and a batch that is cut after one that is."""
    options = {"hidden": [32, 16]} if name == "opnn" else {}
    run_both(name, "group_adam", OPTIMIZERS["group_adam"], steps=12, size=1111, threads=threads, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("opnn", {"kernel": "sum", "hidden": [32, 16], "weighted": True}),
        ("opnn", {"hidden": [32, 16], "weighted": True, "dim": 10}),
        ("opnn", {"hidden": [32, 16], "dropout": 0.0}),
        ("dcn", {"cross_layers": 6, "weighted": True, "dim": 17, "threads": 1}),
        ("dcn", {"threads": 3}),
    ],
)
def test_every_layer_adds_up_its_blocks(name, options):
    run_both(name, "group_adagrad", OPTIMIZERS["group_adagrad"], steps=5, size=700, **options)


@pytest.mark.parametrize("name", MODELS)
def test_threads_without_rows_after_some_with_blocks(name):
    model, twin = build(name), build(name)
    step, other = native(model, threads=5), TorchTwin(twin, "group_adam", OPTIMIZERS["group_adam"])
    made = [*batches(1, 1111), *batches(1, 2)]
    compared = zip(outcomes(step, made), outcomes(other, made), strict=True)
    assert all(abs(ours[1] - theirs[1]) < 1e-4 for ours, theirs in compared)
    compare(model, twin)


def test_a_batch_of_too_many_numbers_is_refused(monkeypatch):
    monkeypatch.setattr(forward, "MAX_NUMBERS", 64 * FIELDS * 8 - 1)
    with pytest.raises(CtrError, match=f"a batch of 64 rows of {FIELDS} fields with 8 numbers each"):
        native(build("mlp")).train(batches(2)[0])


def test_bit_identical_from_run_to_run():
    results = []
    for _ in range(3):
        torch.manual_seed(0)
        model = build("opnn")
        step = native(model)
        losses = [step.train(batch)[1] for batch in [*batches(30), *batches(2, 1111)]]
        results.append((losses, {k: v.clone() for k, v in model.state_dict().items()}))
    for losses, state in results[1:]:
        assert losses == results[0][0]
        assert all(torch.equal(state[key], results[0][1][key]) for key in state)


@pytest.mark.parametrize("opt", ["group_adam", "group_adagrad"])
def test_state_round_trip_to_the_last_bit(opt):
    data = batches(40)
    torch.manual_seed(3)
    whole = build("opnn")
    step = native(whole, opt)
    for batch in data[:20]:
        step.train(batch)
    saved = copy.deepcopy({"model": whole.state_dict(), "step": step.state_dict(), "rng": torch.get_rng_state()})
    for batch in data[20:]:
        step.train(batch)

    resumed = build("opnn", seed=9)
    again = native(resumed, opt)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["step"])
    torch.set_rng_state(saved["rng"])
    for batch in data[20:]:
        again.train(batch)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    ours, theirs = step.state_dict(), again.state_dict()
    assert_same(ours, theirs)


def assert_same(ours, theirs):
    """Two states of a step, to the last bit."""
    for part in ("row_optimizer", "net_optimizer"):
        assert ours[part]["param_groups"] == theirs[part]["param_groups"]
        assert ours[part]["state"].keys() == theirs[part]["state"].keys()
        for mine, other in zip(ours[part]["state"].values(), theirs[part]["state"].values(), strict=True):
            assert mine.keys() == other.keys()
            assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(other[key])) for key in mine)


@pytest.mark.parametrize("bad", [-1, FEATURES, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [(0, 0), (63, FIELDS - 1)])
def test_an_id_out_of_range_is_refused_before_any_write(bad, place):
    model = build("dcn")
    step = native(model)
    first, second, third = batches(3)
    step.train(first)
    before = copy.deepcopy((model.state_dict(), *(part["state"] for part in step.state_dict().values())))
    second.ids[place] = bad
    with pytest.raises(CtrError, match=f"id {bad} of field {place[1]}"):
        step.train(second)
    with pytest.raises(CtrError, match=f"id {bad} of field {place[1]}"):
        step.predict(second)
    after = (model.state_dict(), *(part["state"] for part in step.state_dict().values()))
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    step.train(third)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_updates_nothing(name, bad):
    """Also where a ReLU comes between, which must not swallow it."""
    model = build(name)
    step = native(model)
    first, second = batches(2)
    step.train(first)
    before = copy.deepcopy(model.state_dict())
    assert second.dense is not None
    second.dense[0, 0] = float(bad)
    _, loss = step.train(second)
    assert loss != loss or loss == float("inf")
    assert not step.predict(second)[0].isfinite()
    assert step.steps == 1
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unseen", ["zero", "init"])
def test_predicts_as_torch(name, unseen):
    model = build(name)
    model.embedding.unseen = unseen
    step = native(model)
    data = batches(10)
    for batch in data[:2]:
        step.train(batch)
    assert not model.embedding.seen[data[9].ids.long()].all()
    logits = step.predict(data[9])
    model.eval()
    torch.testing.assert_close(logits, model(data[9].ids, data[9].dense).detach(), rtol=1e-5, atol=1e-5)


def test_the_final_threshold_is_applied_as_in_torch():
    for opt in ("group_adam", "group_adagrad"):
        ours, theirs = build("mlp"), build("mlp")
        options = OPTIMIZERS[opt]
        step, twin = native(ours, opt), TorchTwin(theirs, opt, options)
        for batch in batches(30):
            step.train(batch)
            twin.train(batch)
        for optimizer in (step.row_optimizer, twin.rows):
            optimizer.param_groups[0]["lambda21"] = 0.06
        assert step.apply_threshold_() == twin.rows.apply_threshold_() > 0
        compare(ours, theirs)


def test_schedules_of_lambda_and_learning_rate_act():
    ours, theirs = build("mlp"), build("mlp")
    options = OPTIMIZERS["group_adam"]
    step, twin = native(ours, options=options), TorchTwin(theirs, "group_adam", options)
    ramps = [LambdaSchedule(optimizer, 60) for optimizer in (step.row_optimizer, twin.rows)]
    for number, batch in enumerate(batches(60)):
        for optimizer in (step.row_optimizer, twin.rows):
            optimizer.param_groups[0]["lr"] = 3e-4 * 0.97**number
        step.train(batch)
        twin.train(batch)
        for ramp in ramps:
            ramp.step()
    compare(ours, theirs)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_the_table_takes_the_memory_of_the_weight_piece_by_piece():
    """At the peak there is one piece of the weight beside the table, not all of it."""
    rows, dim = 10 << 20, 8
    model = MLP(rows, FIELDS, 0, embedding=FeatureEmbedding(rows, dim), hidden=[4])
    weight = rows * dim * 4
    expected = model.embedding.weight.detach()[:: rows // 100].clone()
    reset_peak()
    before = peak()
    step = native(model, "group_adam", OPTIMIZERS["group_adam"])
    assert peak() - before < 3.8 * weight  # 32 floats a row less the 8 of the weight: 3; 4 with both whole
    assert torch.equal(model.embedding.weight.detach()[:: rows // 100], expected)
    assert step.steps == 0


@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.parametrize("first", ["native", "torch"])
def test_either_step_goes_on_where_the_other_one_was(opt, first):
    """As if torch had made all the steps, under a learning rate that falls."""
    old, resumed, theirs = build("dcn"), build("dcn", seed=9), build("dcn")
    eager, compiled = (resumed, old) if first == "native" else (old, resumed)
    steps = [native(compiled, opt), TorchStep(eager, *make_optimizers(eager, opt, OPTIMIZERS[opt]))]
    before, after = steps if first == "native" else steps[::-1]
    twin, step = TorchTwin(theirs, opt, OPTIMIZERS[opt]), before
    for number, batch in enumerate(batches(60)):
        if number == 30:
            resumed.load_state_dict(old.state_dict())
            after.load_state_dict(before.state_dict())
            assert_same(after.state_dict(), before.state_dict())
            for name, expected in twin.rows.state[theirs.embedding.weight].items():
                got = after.row_optimizer.state[resumed.embedding.weight][name]
                assert torch.allclose(torch.as_tensor(got), torch.as_tensor(expected), rtol=1e-4, atol=1e-6)
            step = after
        for optimizer in (step.row_optimizer, twin.rows):
            optimizer.param_groups[0]["lr"] = OPTIMIZERS[opt]["lr"] * (1 - number / 100)
        step.train(batch)
        twin.train(batch)
    compare(resumed, theirs)
    assert torch.equal(touched_rows(after.row_optimizer, resumed.embedding.weight), resumed.embedding.seen)
    assert not torch.equal(old.embedding.weight, resumed.embedding.weight)  # its memory is its own


@pytest.mark.parametrize("first", ["native", "torch"])
def test_a_state_from_before_the_first_step(first):
    """Loaded by a step that has trained: it starts from the beginning."""
    options = OPTIMIZERS["group_adam"]
    fresh, resumed = build("mlp"), build("mlp", seed=4)

    def torch_step(model):
        return TorchStep(model, *make_optimizers(model, "group_adam", options))

    makers = (native, torch_step) if first == "native" else (torch_step, native)
    before, after = makers[0](fresh), makers[1](resumed)
    for batch in batches(3, seed=5):
        after.train(batch)
    resumed.load_state_dict(fresh.state_dict())
    after.load_state_dict(before.state_dict())
    twin = TorchTwin(build("mlp"), "group_adam", options)
    for batch in batches(5):
        after.train(batch)
        twin.train(batch)
    compare(resumed, twin.model)


@pytest.mark.parametrize("opt", ["adam", "adagrad", "group_adam"])
@pytest.mark.parametrize(
    "rates",
    [[1e-3, 1e-12, 1e-3], [1e-2, 1e-11] * 4 + [1e-2], [1e-39, 1e-3, 1e-39, 1e-2], [1e-2, 1e-300, 1e-2]],
    ids=str,
)
def test_any_sequence_of_learning_rates(opt, rates):
    """Weights are those of torch, whose step is tested against torch's own optimizers (tests/optim/test_rates.py)."""
    options = {**OPTIMIZERS[opt], "lambda21": 1e-4} if opt.startswith("group") else OPTIMIZERS[opt]
    models = [build("mlp") for _ in range(3)]
    for model in models:
        for layer in list(model.deep)[::2]:
            nn.init.constant_(layer.bias, 5.0)  # no input of a ReLU is near 0, where rounding would decide
    ours, theirs, exact = models
    step, twin, double = (
        native(ours, opt, options),
        TorchTwin(theirs, opt, options),
        TorchTwin(exact.double(), opt, options),
    )
    for number, batch in enumerate(batches(3 * len(rates), rows=128)):
        for optimizers in ((step.row_optimizer, step.net_optimizer), (twin.rows, twin.net), (double.rows, double.net)):
            for optimizer, lr in zip(optimizers, (rates[number // 3], 0.0), strict=True):
                optimizer.param_groups[0]["lr"] = lr
        step.train(batch)
        twin.train(batch)
        double.train(as_double(batch))
    rows = [model.embedding.weight.detach().double() for model in models]
    drift, allowed = (float((each - rows[2]).square().mean().sqrt()) for each in rows[:2])
    assert drift < 2 * allowed + 1e-9
    assert rows[0].abs().max() > 0.05  # init_scale is 0.1: nothing was destroyed
    compare(ours, theirs, exact)
