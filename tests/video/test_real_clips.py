"""Real clips through read, invert, reconstruct and write, with the packaged model or, without it, a tiny random one.

Run where `$TRIFOLD_DATA/video` holds clips. A captions.json beside them says at what rate each runs.
"""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from trifold.video.folder import PACKAGED, find_folder
from trifold.video.pipeline import TuneAVideo
from trifold.video.read import read_clip
from trifold.video.run_config import Reading
from trifold.video.run_edits import read_for
from trifold.video.run_folder import RunFolder
from trifold.video.text_to_image import to_uint8

from .clips import psnr
from .tiny import write_tiny

STEPS = 8
FRAMES = 8
# What a trained net predicts changes little from one step to the next; a random one's inversion must be refined.
REFINEMENTS = 4


def real_clips() -> list[Path]:
    folder = os.environ.get("TRIFOLD_DATA")
    return sorted(Path(folder).glob("video/*.mp4")) if folder else []


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> TuneAVideo:
    try:
        source = str(PACKAGED[0]) if (find_folder(PACKAGED[0]) / "model_index.json").is_file() else None
    except FileNotFoundError:
        source = None
    return TuneAVideo.from_text_to_image(source or write_tiny(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture(
    params=real_clips() or [pytest.param(None, marks=pytest.mark.skip("no clips: TRIFOLD_DATA names no folder"))],
    ids=lambda path: path.stem if path else "none",
)
def path(request) -> Path:
    return request.param


@pytest.fixture
def caption(path) -> dict:
    record = path.with_name("captions.json")
    return json.loads(record.read_text()).get(path.stem, {}) if record.is_file() else {}


def test_read_invert_reconstruct_write(pipe, path, caption, tmp_path):
    clip = read_for(pipe, Reading(num_frames=FRAMES), path)
    height, width = (pipe.space.codec.factor * side for side in pipe.space.latent_size(None, pipe.unet.config.unet2d))
    assert clip.frames.shape == (FRAMES, height, width, 3)
    assert clip.frames.std() > 10  # a picture
    assert np.abs(np.diff(clip.frames.astype(float), axis=0)).mean() > 0.3  # that moves
    assert clip.fps == Fraction(caption.get("fps", clip.fps))

    latents = pipe.latents(clip)
    trained = pipe.space.source in PACKAGED
    inversion = pipe.invert(clip, steps=STEPS, refinements=0 if trained else REFINEMENTS)
    assert latents.isfinite().all()
    assert inversion.latents.isfinite().all()
    assert inversion.latents.shape == latents.shape
    made = pipe.reconstruct(clip, steps=STEPS, inversion=inversion)
    assert (made.num_frames, made.fps) == (clip.num_frames, clip.fps)
    # The way back leads nearer to what the VAE makes of the clip than the same way from noise does.
    coded = pipe.space.decode_latents(pipe.space.encode_frames(clip))
    assert coded.isfinite().all()
    best = to_uint8(coded).numpy()
    strange = pipe.generate("", FRAMES, size=(height, width), steps=STEPS, guidance_scale=1.0)
    back, from_noise = psnr(made.frames, best), psnr(strange.frames, best)
    assert back > from_noise + 3
    if trained:  # a tiny random VAE does not even know the clip
        assert psnr(best, clip.frames) > 20

    # As a run keeps it: small pictures enlarged, sound and rate in the file.
    folder = RunFolder(tmp_path)
    folder.set_source(clip, caption.get("caption", path.stem))
    sample = folder.add_sample(made, "", 0, {})
    for stored, wanted in ((folder.source, clip), (sample.video, made)):
        again = folder.read_video(stored)
        assert again.frames.shape == wanted.frames.shape
        assert again.fps == wanted.fps
        kept = psnr(again.frames, wanted.frames)
        assert kept > 30, stored.name
        assert (again.audio is None) == (clip.audio is None)
        if again.audio is not None and clip.audio is not None:
            assert again.audio.rate == clip.audio.rate
            assert abs(again.audio.duration - clip.audio.duration) < 1024 / clip.audio.rate  # a block of AAC
            n = min(again.audio.samples.shape[-1], clip.audio.samples.shape[-1])
            assert np.corrcoef(again.audio.samples[:, :n].ravel(), clip.audio.samples[:, :n].ravel())[0, 1] > 0.9


def test_one_of_them_has_sound():
    clips = real_clips()
    if not clips:
        pytest.skip("no clips: TRIFOLD_DATA names no folder")
    assert len(clips) >= 8
    sounding = [path for path in clips if read_clip(path, num_frames=2, size=16, short="all").audio is not None]
    assert sounding
