"""Edits on the sprites world against their ground truth: what tuning gives, and which options to choose.

Every variant tunes the shipped model on the same held-out clips, one word of the caption is changed, and the edit is
compared with the rendered one. Prints a markdown table and writes the pictures it is about.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from tqdm import tqdm
from trifold.video import TextToImage, TuneAVideo, VideoTuning
from trifold.video.compare import save_contact_sheet
from trifold.video.sprites.classifier import AttributeClassifier
from trifold.video.sprites.edits import edit_trials, run_trials
from trifold.video.sprites.words import caption

# name: (tuning steps, inflation options, tuning options, edit options)
VARIANTS: dict[str, tuple[int, dict, dict, dict]] = {
    "untuned": (0, {}, {}, {}),
    "tuned (default)": (100, {}, {}, {}),
    "group norm over the clip": (100, {"group_norm": "clip"}, {}, {}),
    "published checkpointing": (100, {}, {"selection": "published_checkpointing"}, {}),
    "temporal attention only": (100, {}, {"selection": "temporal"}, {}),
    "from noise": (100, {}, {}, {"start": "noise"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sprites")
    parser.add_argument("--classifier", default="sprites")
    parser.add_argument("--num-clips", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--tuning-steps", type=int, help="in place of every variant's own")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/bench-video-edits"))
    args = parser.parse_args()
    base, classifier = TextToImage.load(args.model), AttributeClassifier.from_pretrained(args.classifier).eval()
    trials = edit_trials(args.num_clips)
    print(f"{args.num_clips} held-out clips, {args.steps} steps, guidance {args.guidance_scale:g}\n")
    rows = []
    for name in args.variants:
        tuning_steps, inflation, tuning, editing = VARIANTS[name]
        if args.tuning_steps and tuning_steps:
            tuning_steps = args.tuning_steps
        folder = args.output_dir / name.replace(" ", "-")
        config = VideoTuning(
            max_train_steps=max(tuning_steps, 1),
            # No step at all cannot be asked for: one of size 0 is the same.
            learning_rate=args.learning_rate if tuning_steps else 0.0,
            gradient_checkpointing=False,
            report_to="none",
            checkpointing_steps=None,
            resume_from_checkpoint="latest",
            **tuning,
        )
        start = time.perf_counter()
        pipe = TuneAVideo.from_text_to_image(base, **inflation)
        scores, clips = run_trials(
            pipe,
            classifier,
            trials,
            config,
            folder=folder,
            progress=lambda items, name=name: tqdm(items, desc=name),
            steps=args.steps,
            guidance_scale=args.guidance_scale,
            **editing,
        )
        seconds = (time.perf_counter() - start) / len(trials)
        rows.append((name, *dataclasses.astuple(scores), seconds))
        pairs = [clip for source, edited in clips for clip in (source.clip, edited)]
        labels = [text for trial in trials for text in (caption(trial.source), caption(trial.wanted))]
        save_contact_sheet(folder / "sheet.png", pairs, labels)
    print("| variant | changed | kept | PSNR to truth | PSNR outside | motion error | still | seconds per clip |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, changed, kept, truth, outside, motion, still, seconds in rows:
        print(
            f"| {name} | {changed:.2f} | {kept:.2f} | {truth:.1f} | {outside:.1f} | {motion:.2f} | {still:.2f} "
            f"| {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
