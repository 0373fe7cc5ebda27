"""Train the point cloud head: `accelerate launch scripts/train_pointcloud.py procedural-small --output-dir runs/x`."""

import sys

from trifold.pointcloud.commands import train

if __name__ == "__main__":
    train(sys.argv[1:])
