"""Scoring edits of the sprites world: the rendered edit is perfect, a still one does not move."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from trifold.video.pipeline import TuneAVideo
from trifold.video.sprites.classifier import AttributeClassifier, ClassifierConfig
from trifold.video.sprites.edits import CHANGED, edit_trials, run_trials, score_edit
from trifold.video.sprites.render import sprite_clip
from trifold.video.sprites.words import VALUES

from .tiny import tiny_tuning, write_tiny


@pytest.fixture(scope="module")
def classifier() -> AttributeClassifier:
    torch.manual_seed(0)
    return AttributeClassifier(ClassifierConfig()).eval()


def test_trials_change_one_word_each_in_turn() -> None:
    trials = edit_trials(8)
    assert [trial.attribute for trial in trials] == [*CHANGED, *CHANGED]
    for trial in trials:
        differing = [name for name in VALUES if getattr(trial.source, name) != getattr(trial.wanted, name)]
        assert differing == [trial.attribute]
        assert trial.source.seed == trial.wanted.seed


def test_the_rendered_edit_is_perfect_and_moves(classifier: AttributeClassifier) -> None:
    trial = next(trial for trial in edit_trials(4) if trial.attribute == "colour")
    truth = sprite_clip(trial.wanted, 8).clip
    scores = score_edit(trial, truth, classifier)
    assert scores.truth_psnr == math.inf
    assert scores.outside_psnr > 60
    assert scores.motion_error < 0.5 * scores.still_error
    frozen = dataclasses.replace(truth, frames=np.repeat(truth.frames[:1], 8, axis=0))
    assert score_edit(trial, frozen, classifier).motion_error == pytest.approx(scores.still_error, abs=0.05)


def test_what_the_classifier_reads_is_counted(classifier: AttributeClassifier) -> None:
    trial = next(trial for trial in edit_trials(4) if trial.attribute == "background")
    truth = sprite_clip(trial.wanted, 4).clip
    read = classifier.read(truth.frames)
    scores = score_edit(trial, truth, classifier)
    assert scores.changed == np.mean([r["background"] == trial.wanted.background for r in read])
    assert math.isnan(scores.outside_psnr)  # the ground was to change


def test_trials_run_on_any_pipeline(tmp_path: Path, classifier: AttributeClassifier) -> None:
    pipe = TuneAVideo.from_text_to_image(write_tiny(tmp_path / "base"))
    before = {name: p.clone() for name, p in pipe.unet.named_parameters()}
    scores, clips = run_trials(
        pipe,
        classifier,
        edit_trials(1),
        tiny_tuning(tmp_path, max_train_steps=1),
        folder=tmp_path / "trials",
        num_frames=3,
        steps=2,
        guidance_scale=2.0,
    )
    assert 0 <= scores.changed <= 1
    assert scores.truth_psnr > 0
    ((source, edited),) = clips
    assert edited.frames.shape == source.clip.frames.shape
    assert (tmp_path / "trials" / "trial-0" / "delta.safetensors").is_file()
    pipe.reset()
    assert all(torch.equal(p, before[name]) for name, p in pipe.unet.named_parameters())
