"""Random design decisions that remember what they decided."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Parameter = float | int | str | bool


class Draw:
    """One stream of named random choices; `parameters` holds every one of them in the order of drawing.

    Only `random()` of the PCG64 generator is used, whose stream numpy keeps the same over versions and platforms.
    """

    def __init__(self, seed: list[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self.parameters: dict[str, Parameter] = {}

    def _record(self, name: str, value: Parameter) -> None:
        if name in self.parameters:
            raise KeyError(f"the parameter {name!r} is drawn twice")
        self.parameters[name] = value

    def between(self, name: str, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        value = low + (high - low) * self._rng.random()
        self._record(name, value)
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        value = low + int((high - low + 1) * self._rng.random())
        self._record(name, value)
        return value

    def chance(self, name: str, probability: float) -> bool:
        """True with the given probability."""
        value = bool(self._rng.random() < probability)
        self._record(name, value)
        return value

    def choice(self, name: str, weights: Mapping[str, float]) -> str:
        """One of the keys, with probability proportional to its weight."""
        target = self._rng.random() * sum(weights.values())
        chosen = list(weights)[-1]
        for key, weight in weights.items():
            if target < weight:
                chosen = key
                break
            target -= weight
        self._record(name, chosen)
        return chosen
