"""Tune on a clip: `accelerate launch scripts/train_video.py skiing.mp4 --prompt "a man is skiing"`."""

import sys

from trifold.video.commands import run

if __name__ == "__main__":
    run(["tune", *sys.argv[1:]])
