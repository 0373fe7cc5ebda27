"""Train the floorplan head: `accelerate launch scripts/train_floorplan.py procedural-small --output-dir runs/plans`."""

import sys

from trifold.floorplan.commands import train

if __name__ == "__main__":
    train(sys.argv[1:])
