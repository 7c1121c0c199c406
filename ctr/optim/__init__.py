"""Optimizers with sparse group lasso: drop-in ``torch.optim.Optimizer`` classes that zero whole rows.

Six classes on one core (:mod:`ctr.optim.core`), a schedule for their lambdas, and what one asks after training.
``OPTIMIZERS`` lists the classes by their names on the command line.
"""

from ctr.optim.core import GroupOptimizer
from ctr.optim.group_adagrad import GroupAdagrad
from ctr.optim.group_adahessian import GroupAdaHessian, hutchinson_diagonal
from ctr.optim.group_adam import GroupAdam
from ctr.optim.group_amsgrad import GroupAMSGrad
from ctr.optim.group_momentum import GroupMomentum
from ctr.optim.group_sgd import GroupSGD
from ctr.optim.inspect import feature_rate, prox_path, touched_rows, warm_start_from_adam, zero_rows
from ctr.optim.schedule import BudgetSchedule, LambdaSchedule
from ctr.optim.shrinkage import shrink

_CLASSES = (GroupSGD, GroupMomentum, GroupAdagrad, GroupAdam, GroupAMSGrad, GroupAdaHessian)
OPTIMIZERS: dict[str, type[GroupOptimizer]] = {cls.__module__.rpartition(".")[2]: cls for cls in _CLASSES}

__all__ = [
    "OPTIMIZERS",
    "BudgetSchedule",
    "GroupAMSGrad",
    "GroupAdaHessian",
    "GroupAdagrad",
    "GroupAdam",
    "GroupMomentum",
    "GroupOptimizer",
    "GroupSGD",
    "LambdaSchedule",
    "feature_rate",
    "hutchinson_diagonal",
    "prox_path",
    "shrink",
    "touched_rows",
    "warm_start_from_adam",
    "zero_rows",
]
