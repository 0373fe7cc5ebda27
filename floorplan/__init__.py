"""Vector floorplans: HouseDiffusion on the shared core."""
