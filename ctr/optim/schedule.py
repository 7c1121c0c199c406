"""Schedules for the lambdas, stepped like a learning-rate scheduler: a ramp, and a budget of groups that may live."""

import math
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from ctr.optim.core import GroupOptimizer
from ctr.optim.histogram import StrengthHistogram, bucket_of
from ctr.optim.ranking import keep_strongest_, strengths
from ctr.optim.shrinkage import group_size, seen_shape

_POWERS = {"constant": 0.0, "linear": 1.0, "cubic": 3.0}


class LambdaSchedule:
    """Ramps lambdas from 0 to the values that the param groups were given: ``lambda * min(t / T, 1)^p``.

    A strong lambda21 from the start kills rows before they have gathered any evidence; a ramp lets them train
    first. Call :meth:`step` after every ``optimizer.step()``, as with an LR scheduler. After T steps the lambdas are
    at their full values; :meth:`finish` then tests the rows that were last touched under smaller ones::

        schedule = LambdaSchedule(opt, total_steps=T, shape="cubic")
        for batch in stream:
            ...
            opt.step()
            schedule.step()
        schedule.finish()

    Args:
        optimizer: its groups' present lambdas are the full values.
        total_steps: T, at least 1.
        shape: ``"constant"`` (p = 0), ``"linear"`` (1), ``"cubic"`` (3) or the power p >= 0 itself.
        names: which lambdas to ramp.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        optimizer: GroupOptimizer,
        total_steps: int,
        shape: str | float = "cubic",
        names: tuple[str, ...] = ("lambda21",),
    ) -> None:
        power = _POWERS.get(shape, -1.0) if isinstance(shape, str) else float(shape)
        if not 0 <= power < float("inf"):
            raise ValueError(f"shape must be one of {tuple(_POWERS)} or a power >= 0, got {shape!r}")
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps!r}")
        unknown = set(names) - {"lambda1", "lambda21", "lambda2"}
        if unknown:
            raise ValueError(f"names must be lambda1, lambda21 or lambda2, got {sorted(unknown)}")
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.power = power
        self.full = [{name: group[name] for name in names} for group in optimizer.param_groups]
        self.steps = 0
        self._apply()

    def factor(self) -> float:
        """The present share of the full values, ``min(t / T, 1)^p``."""
        return min(self.steps / self.total_steps, 1.0) ** self.power

    def step(self) -> None:
        """Moves one step on and sets the lambdas of the next optimizer step."""
        self.steps += 1
        self._apply()

    def finish(self) -> None:
        """To be called after the last step: groups that were last touched under smaller lambdas meet the final ones."""
        self.optimizer.apply_threshold_()

    def get_last_lambda(self) -> list[dict[str, float]]:
        """The present values, one dict per param group."""
        return [{name: value * self.factor() for name, value in full.items()} for full in self.full]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer."""
        return {
            "total_steps": self.total_steps,
            "power": self.power,
            "full": [dict(full) for full in self.full],
            "steps": self.steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the schedule and sets the optimizer's lambdas to where it stood."""
        if len(state_dict["full"]) != len(self.optimizer.param_groups):
            raise ValueError(
                f"the schedule was saved for {len(state_dict['full'])} param groups, "
                f"the optimizer has {len(self.optimizer.param_groups)}"
            )
        self.total_steps = state_dict["total_steps"]
        self.power = state_dict["power"]
        self.full = [dict(full) for full in state_dict["full"]]
        self.steps = state_dict["steps"]
        self._apply()

    def _apply(self) -> None:
        for group, values in zip(self.optimizer.param_groups, self.get_last_lambda(), strict=False):
            group.update(values)


class BudgetSchedule:
    """Sets lambda21 so that as many groups live as asked for, instead of a lambda21 that has to be searched.

    Call :meth:`step` after every ``optimizer.step()`` and :meth:`finish` after the last one::

        schedule = BudgetSchedule(opt, 500_000)
        for batch in stream:
            ...
            opt.step()
            schedule.step()
        schedule.finish()  # exactly 500,000 groups are left

    Each step of the optimizer notes the norms of the groups that it touches in a histogram
    (:class:`~ctr.optim.histogram.StrengthHistogram`). Every ``every`` steps it sets lambda21 to the value that only the
    allowed number of touched groups exceeded at their last touch. :meth:`finish` ranks the touched groups by their
    present norms over sqrt(d), equal ones by their place, and keeps exactly the strongest; a group of norm 0 never
    lives.

    Args:
        optimizer: any grouped optimizer, with lambda21 = 0. One that has made steps already is taken up as it is.
        budget: a number of groups, at least 2; or, below 1, a share of those that training touches.
        total_steps: T; not needed for a constant budget.
        shape: how many may live at step t, of n touched so far, with a final number N below n: ``"constant"``: N;
            ``"linear"``: n + (N - n) t/T; ``"geometric"``: n^(1 - t/T) N^(t/T).
        every: steps from one setting of lambda21 to the next.

    Attributes:
        histogram: of the groups' strengths.
        steps: taken so far.

    Raises:
        ValueError: an argument out of range, a lambda21 that is not 0, no tensor with groups, or an optimizer that has
            a budget already.
    """

    SHAPES = ("constant", "linear", "geometric")

    def __init__(
        self,
        optimizer: GroupOptimizer,
        budget: int | float,
        total_steps: int | None = None,
        shape: str = "constant",
        every: int = 10,
    ) -> None:
        is_number = isinstance(budget, Real) and not isinstance(budget, bool)
        if not is_number or not (0 < budget < 1 or (isinstance(budget, Integral) and budget >= 2)):
            raise ValueError(f"budget must be a whole number of at least 2 or a share between 0 and 1, got {budget!r}")
        if shape not in self.SHAPES:
            raise ValueError(f"shape must be one of {self.SHAPES}, got {shape!r}")
        if shape != "constant" and total_steps is None:
            raise ValueError(f"shape {shape!r} needs total_steps")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every!r}")
        self.every = every
        self.optimizer, self.budget, self.total_steps, self.shape = optimizer, budget, total_steps, shape
        self.steps = 0
        groups = self._groups()
        self.params: list[Tensor] = [p for group in groups for p in group["params"]]
        if not self.params:
            raise ValueError("no tensor of the optimizer has groups: group_dim is None everywhere")
        if given := [group["lambda21"] for group in groups if group["lambda21"]]:
            raise ValueError(f"the budget sets lambda21, which must be 0 before, got {given[0]!r}")
        if optimizer.histogram is not None:
            raise ValueError("the optimizer has a budget already")
        sizes = {p: (group["group_dim"], p.shape) for group in groups for p in group["params"]}
        self.histogram = StrengthHistogram(
            {p: (math.prod(seen_shape(p, dim)), group_size(shape, dim)) for p, (dim, shape) in sizes.items()}
        )
        optimizer.histogram = self.histogram
        self.take_up()

    def take_up(self) -> None:
        """Counts the groups as the optimizer's state has them, after that was loaded from elsewhere; sets lambda21."""
        for p in self.params:
            if (present := strengths(self.optimizer, p)) is not None:
                self.histogram.set(p, bucket_of(present))
        self._set(self.histogram.lambda21(self.target()))

    @property
    def lambda21(self) -> float:
        """The present one."""
        return float(self._groups()[0]["lambda21"])

    def target(self) -> float:
        """How many groups may live now."""
        if self.shape == "constant" and self.budget >= 1:
            return self.budget
        touched = len(self.histogram)
        final = self.budget if self.budget >= 1 else self.budget * touched
        if self.total_steps is None or self.shape == "constant" or touched <= final:
            return final
        left = 1 - min(self.steps / self.total_steps, 1.0)
        return final + (touched - final) * left if self.shape == "linear" else final * (touched / final) ** left

    def step(self) -> None:
        """Moves one step on; every ``every`` steps, sets the lambda21 of the next optimizer steps."""
        self.steps += 1
        if self.steps % self.every == 0:
            self._set(self.histogram.lambda21(self.target()))

    def finish(self) -> int:
        """Leaves exactly the strongest groups, as many as the budget; returns how many live.

        They are fewer only where fewer have a norm above 0. A group that lives keeps its weights. lambda21 is then the
        value that the weakest of them just exceeds, 0 where none has to die.
        """
        count = self.budget if self.budget >= 1 else max(round(self.budget * self._touched()), 1)
        living, lambda21 = keep_strongest_(self.optimizer, self.params, int(count))
        self._set(lambda21)
        return living

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer. The tensors share memory with the schedule."""
        return {
            "budget": self.budget,
            "total_steps": self.total_steps,
            "shape": self.shape,
            "every": self.every,
            "steps": self.steps,
            "lambda21": self.lambda21,
            "buckets": [self.histogram.buckets[p] for p in self.params],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the schedule, by copying, and sets the optimizer's lambda21 to what it was.

        Raises:
            ValueError: it was saved for other tensors; nothing has changed.
        """
        mine, saved = [self.histogram.buckets[p] for p in self.params], state_dict["buckets"]
        if [len(each) for each in mine] != [len(each) for each in saved]:
            raise ValueError(
                f"the budget was saved for tensors of {[len(each) for each in saved]} groups, "
                f"the optimizer has {[len(each) for each in mine]}"
            )
        for name in ("budget", "total_steps", "shape", "every", "steps"):
            setattr(self, name, state_dict[name])
        for p, buckets in zip(self.params, saved, strict=True):
            self.histogram.set(p, buckets)
        self._set(state_dict["lambda21"])

    def _touched(self) -> int:
        states = [self.optimizer.state[p] for p in self.params if self.optimizer.state.get(p)]
        return sum(int(state["seen"].sum()) for state in states)

    def _groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer that the budget is for; its load_state_dict makes new ones."""
        return [group for group in self.optimizer.param_groups if group["group_dim"] is not None]

    def _set(self, lambda21: float) -> None:
        for group in self._groups():
            group["lambda21"] = lambda21
