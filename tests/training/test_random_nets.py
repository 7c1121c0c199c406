"""Every path of the training step gives what eager torch gives, on nets drawn by their seed."""

import pytest

from tests.native.built import needs_kernels
from tests.scripts import script

pytestmark = needs_kernels
nets = script("random_nets")


@pytest.mark.parametrize("seed", range(3))
def test_every_path_is_that_of_eager_torch(seed: int) -> None:
    nets.check(seed, (1, 4))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_every_path_on_any_number_of_threads(seed: int) -> None:
    nets.check(seed)


def test_the_nets_have_all_kinds_of_layers() -> None:
    drawn = [nets.RandomNet(seed) for seed in range(50)]
    kinds = {type(module).__name__ for net in drawn for module in net.modules()}
    assert {"Linear", "LayerNorm", "BatchNorm1d", "MultiheadAttention", "Gate"} <= kinds
    assert 5 < sum(net.together for net in drawn) < 45
    assert {net.opt for net in drawn} == set(nets.OPTS)
