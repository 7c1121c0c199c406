"""Where the print cannot be followed to the letter: what it says, run beside what is right (docs/optimizers.md)."""

import math

import numpy as np
import torch

from ctr.optim import GroupAdagrad, GroupAdam, GroupAMSGrad


def algorithm_2_as_printed(x: np.ndarray, grads: np.ndarray, lr: float, eps: float) -> np.ndarray:
    """Lambdas 0; eps / sqrt(1 - beta2^t) in the division of line 14, but in Q (line 9) only at t = 1."""
    b1, b2 = 0.9, 0.999
    x, z, m, v, root_before = x.copy(), 0.0, 0.0, 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        root, eps_t = np.sqrt(v / (1 - b2**t)), eps / math.sqrt(1 - b2**t)
        Q = root - root_before + (eps_t if t == 1 else 0.0)
        z = z + m / (1 - b1**t) - Q / lr * x
        x = -z / ((root + eps_t) / lr)
        root_before = root
    return x


SIZES = {1e-14: (31.0, 31.7), 1e-8: (5.0, 31.0), 1.0: (0.99, 1.01)}  # of gradients; least and largest ratio


def test_the_printed_eps_inflates_weights_with_tiny_gradients() -> None:
    """50 weights of each size of gradients, in one table: without lambdas each goes its own way."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(5000, 50))
    grads = np.concatenate([size * signs for size in SIZES], axis=1)
    start = np.full(grads.shape[1], 3.0)
    printed = algorithm_2_as_printed(start, grads, 1e-4, 1e-8)
    tables = []
    for cls in (GroupAdam, torch.optim.Adam):
        p = torch.nn.Parameter(torch.from_numpy(start.copy()))
        opt = cls([p], lr=1e-4, eps=1e-8)
        for g in grads:
            p.grad = torch.from_numpy(g)
            opt.step()
        tables.append(p.detach().numpy())
    parts = (np.split(table, len(SIZES)) for table in (printed, *tables))
    for (size, (low, high)), of_print, ours, theirs in zip(SIZES.items(), *parts, strict=True):
        ratio = float(np.median(of_print / theirs))
        error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        print(f"|g| = {size:g}: as printed the weights are {ratio:.2f} times Adam's; GroupAdam is off by {error:.1e}")
        assert low < ratio < high
        assert error < 1e-13


def test_the_printed_maximum_of_amsgrad_is_another_rule() -> None:
    """Table 1 has V_t = max(V_{t-1}, b2 V_{t-1} + (1 - b2) g^2): its V climbs towards the largest square."""
    rng = np.random.default_rng(1)
    grads = rng.standard_t(3, size=(3000, 50))  # heavy tails, as click data has
    b1, b2, lr, eps = 0.9, 0.999, 1e-3, 1e-8
    x, m, V = np.ones(50), np.zeros(50), np.zeros(50)
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        V = np.maximum(V, b2 * V + (1 - b2) * g * g)
        x = x - lr * (m / (1 - b1**t)) / (np.sqrt(V / (1 - b2**t)) + eps)
    tables, states = [], []
    for make in (lambda p: GroupAMSGrad([p], lr=lr), lambda p: torch.optim.Adam([p], lr=lr, amsgrad=True)):
        p = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
        opt = make(p)
        for g in grads:
            p.grad = torch.from_numpy(g)
            opt.step()
        tables.append(p.detach().numpy())
        states.append(opt.state[p])
    error = float(np.abs(tables[0] - tables[1]).max())
    step = float(np.median(np.sqrt(states[1]["max_exp_avg_sq"].numpy() / V)))
    off = float(np.abs(x - tables[1]).max())
    print(f"printed V: its last step is {step:.2f} times torch's, weights off by {off:.3f}; ours by {error:.1e}")
    assert error < 1e-13
    assert step < 0.8
    assert off > 0.01


def test_the_printed_eps_of_adagrad_is_another_rule() -> None:
    """Algorithm 3 puts eps under the root, once: that is an accumulator that starts at eps."""
    grads = np.random.default_rng(2).normal(size=(200, 20)) * 1e-6
    tables = {}
    for name, make in {
        "ours": lambda p: GroupAdagrad([p], lr=0.1, eps=1e-10),
        "torch": lambda p: torch.optim.Adagrad([p], lr=0.1, eps=1e-10),
        "printed": lambda p: GroupAdagrad([p], lr=0.1, eps=0.0, initial_accumulator_value=1e-10),
    }.items():
        p = torch.nn.Parameter(torch.ones(20, dtype=torch.float64))
        opt = make(p)
        for g in grads:
            p.grad = torch.from_numpy(g)
            opt.step()
        tables[name] = p.detach()
    V, x, z, root_before = 1e-10, np.ones(20), 0.0, 0.0
    for g in grads:
        V = V + g * g
        z, root_before = z + g - (np.sqrt(V) - root_before) / 0.1 * x, np.sqrt(V)
        x = -z / (np.sqrt(V) / 0.1)
    np.testing.assert_allclose(tables["printed"].numpy(), x, rtol=1e-13)
    assert (tables["ours"] - tables["torch"]).abs().max() < 1e-14
    off = float((tables["printed"] - tables["torch"]).abs().max())
    print(f"eps under the root: off by {off:.3f}")
    assert off > 0.01
