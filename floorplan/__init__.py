"""Vector floorplans: HouseDiffusion on the shared core.

from trifold.floorplan import BubbleDiagram, HouseDiffusion
"""

from .diagram import BubbleDiagram, RoomSpec
from .errors import FloorplanError
from .model import HouseDiffusion, HouseDiffusionConfig
from .plan import Node, Plan
from .procedural import ProceduralConfig, ProceduralPlans, generate_plan
from .rooms import RoomType
from .rplan import plan_to_rplan, read_rplan

__all__ = [
    "BubbleDiagram",
    "FloorplanError",
    "HouseDiffusion",
    "HouseDiffusionConfig",
    "Node",
    "Plan",
    "ProceduralConfig",
    "ProceduralPlans",
    "RoomSpec",
    "RoomType",
    "generate_plan",
    "plan_to_rplan",
    "read_rplan",
]
