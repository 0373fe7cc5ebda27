"""What finishing may do, in metres for its users and in plan units for its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .metrics import REACH_METRES
from .plan import Plan

# Finished corners lie on a lattice of this many steps per frame (0.27 mm of RPLAN's 18 m), so that they are exact.
LATTICE_STEPS = 2**16
# Lengths up to so many lattice steps (1.1 mm) are rounding.
STILL_STEPS = 4.0
# Metres. An exact cover whose walls would move less, without a corner coming or going, stays as it is: demands that
# pull a wall two ways come to rest at last, but slowly.
CREEP_METRES = 0.01


@dataclass(frozen=True)
class FinishSettings:
    """What finishing may do; lengths in metres.

    Raises ValueError for a length that is negative or not finite, walls or doors without width, a least door wider
    than a door, or an angle outside [0, 20].
    """

    inner_wall: float = 0.12
    """Thickness of walls between rooms (m)."""
    outer_wall: float = 0.28
    """Thickness of walls towards the outside (m)."""
    snap: float = 0.2
    """Walls and corners this close (m) to being in line are put in line; slanted walls that rise less are
    straightened."""
    gap: float = 0.75
    """Facing walls of two rooms up to this far apart (m), or this deep in each other, become one wall."""
    reach: float = 2.0
    """A room grows by up to this (m) to meet the room that a door joins it with."""
    angle: float = 5.0
    """Degrees; walls this close to the plan's main directions are put on them."""
    interior_door: float = 0.85
    """Clear width (m) of doors between rooms where their wall has the length for it."""
    front_door: float = 1.0
    """Clear width (m) of front doors where their wall has the length for it."""
    least_door: float = 0.6
    """Narrowest door (m). A wall piece too short for it holds no door."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{field.name}: expected a finite number, 0 or more, found {value}")
        for name in ("inner_wall", "outer_wall", "least_door"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name}: expected more than 0 m")
        if self.least_door > min(self.interior_door, self.front_door):
            found = f"{self.least_door} m against {self.interior_door} m and {self.front_door} m"
            raise ValueError(f"least_door: expected at most the width of other doors, found {found}")
        if self.angle > 20:
            raise ValueError(f"angle: expected at most 20 degrees, found {self.angle}")


@dataclass(frozen=True)
class Limits:
    """`FinishSettings` in the units of one plan.

    `slope`: the tangent of `angle`. `least_area`: a room with less floor is none. `step`: of the lattice of corners.
    `floor`: depth of floor that a door needs before it. `still`: lengths up to here are rounding. `creep`: see
    `CREEP_METRES`.
    """

    inner_wall: float
    outer_wall: float
    snap: float
    gap: float
    reach: float
    slope: float
    interior_door: float
    front_door: float
    least_door: float
    least_area: float
    step: float
    floor: float
    still: float
    creep: float

    @classmethod
    def of(cls, plan: Plan, settings: FinishSettings) -> Limits:
        """For plans of this scale and frame."""
        unit, step = plan.metres_per_unit, plan.frame / LATTICE_STEPS
        return cls(
            inner_wall=settings.inner_wall / unit,
            outer_wall=settings.outer_wall / unit,
            snap=settings.snap / unit,
            gap=settings.gap / unit,
            reach=settings.reach / unit,
            slope=math.tan(math.radians(settings.angle)),
            interior_door=settings.interior_door / unit,
            front_door=settings.front_door / unit,
            least_door=settings.least_door / unit,
            # Less floor than a person stands on is no room.
            least_area=0.25 / unit**2,
            step=step,
            floor=REACH_METRES / unit,
            still=STILL_STEPS * step,
            creep=max(CREEP_METRES / unit, STILL_STEPS * step),
        )

    @property
    def door_wall(self) -> float:
        """Length of wall between two rooms that holds the narrowest door beside the thickest walls at its ends."""
        return self.least_door + self.outer_wall + self.still
