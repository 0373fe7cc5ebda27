"""Text-to-video editing: Tune-A-Video (Wu et al., ICCV 2023) on the shared core."""
