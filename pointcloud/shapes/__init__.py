"""Procedural shapes: endless airplanes, cars, chairs, lamps, mugs and tables, each one closed surface."""

from .dataset import ProceduralClouds
from .generate import CATEGORIES, Shape, make_shape

__all__ = ["CATEGORIES", "ProceduralClouds", "Shape", "make_shape"]
