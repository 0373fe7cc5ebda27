"""Vector floorplans: HouseDiffusion on the shared core.

from trifold.floorplan import BubbleDiagram, HouseDiffusion
"""

from .checking import best_of
from .diagram import BubbleDiagram, RoomSpec
from .errors import FloorplanError
from .finished import FinishedPlan
from .finishing import FinishSettings, finish
from .model import HouseDiffusion, HouseDiffusionConfig
from .plan import Node, Plan
from .procedural import ProceduralConfig, ProceduralPlans, generate_plan
from .rooms import RoomType
from .rplan import plan_to_rplan, read_rplan

__all__ = [
    "BubbleDiagram",
    "FinishSettings",
    "FinishedPlan",
    "FloorplanError",
    "HouseDiffusion",
    "HouseDiffusionConfig",
    "Node",
    "Plan",
    "ProceduralConfig",
    "ProceduralPlans",
    "RoomSpec",
    "RoomType",
    "best_of",
    "finish",
    "generate_plan",
    "plan_to_rplan",
    "read_rplan",
]
