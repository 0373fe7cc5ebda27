"""A tuned pipeline as a whole folder."""

import pytest
from trifold.video.errors import VideoError
from trifold.video.pipeline import TuneAVideo

from .tiny import same_tensors, tiny_clip, tiny_tuning

CLIP = tiny_clip()
OTHER = "a blue circle moves right"


@pytest.fixture(scope="module")
def pipe(base, tmp_path_factory):
    pipe = TuneAVideo.from_text_to_image(base)
    pipe.tune(CLIP, "a red square moves left", tiny_tuning(tmp_path_factory.mktemp("run")))
    return pipe


def test_the_whole_pipeline_is_saved_and_read(pipe, tmp_path):
    place = pipe.save_pretrained(tmp_path / "tuned")
    read = TuneAVideo.from_pretrained(place, device="cpu")
    assert same_tensors(read.unet, pipe.unet)
    again, before = (p.edit(CLIP, OTHER, steps=2).frames.astype(int) for p in (read, pipe))
    assert abs(again - before).max() <= 1  # equal but for rounding: weights lie elsewhere in memory
    pipe.save_pretrained(place)  # its own folder may be replaced
    with pytest.raises(VideoError, match=r"already inflated.*TuneAVideo\.from_pretrained"):
        TuneAVideo.from_text_to_image(place)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(VideoError, match="holds something else"):
        pipe.save_pretrained(tmp_path / "other")


def test_an_image_folder_is_not_a_tuned_one(folder):
    with pytest.raises(VideoError, match=r"expected an inflated UNet3DConditionModel; .*from_text_to_image"):
        TuneAVideo.from_pretrained(folder)


def test_statistics_per_frame_are_remembered(base, tmp_path):
    pipe = TuneAVideo.from_text_to_image(base, group_norm="clip")
    read = TuneAVideo.from_pretrained(pipe.save_pretrained(tmp_path / "tuned"), device="cpu")
    assert read.unet.config.group_norm == "clip"
