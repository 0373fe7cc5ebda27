"""Clips beside each other: every pixel of a clip is where the layout says, and labels stay in their strips."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from trifold.video.clip import Clip
from trifold.video.compare import contact_sheet, save_contact_sheet, side_by_side, spread, wrapped
from trifold.video.errors import VideoError
from trifold.video.read import read_clip

from .clips import clip_of, moving, numbered, sine


def test_side_by_side_places_clips_exactly():
    left, right = moving(5, 64, 96), numbered(5, 64, 48)
    both = side_by_side([clip_of(left), clip_of(right)])
    assert both.frames.shape == (5, 64, 96 + 8 + 48, 3)
    assert np.array_equal(both.frames[:, :, :96], left)
    assert np.array_equal(both.frames[:, :, 104:], right)
    assert (both.frames[:, :, 96:104] == 255).all()
    assert both.fps == 10


def test_labels_stand_over_their_clips():
    clips = [clip_of(numbered(3, 64, 96)), clip_of(numbered(3, 64, 96))]
    plain, labelled = side_by_side(clips), side_by_side(clips, ["source", "a very long label that takes several lines"])
    strip = labelled.height - plain.height
    assert 20 < strip < 70
    assert np.array_equal(labelled.frames[:, strip : strip + 64], plain.frames)
    assert (labelled.frames[0, :strip, :96] < 128).any()
    assert (labelled.frames[0, :strip, 104:] < 128).any()
    assert (labelled.frames[:, :strip] == labelled.frames[:1, :strip]).all()
    assert labelled.name == "source | a very long label that takes several lines"


def test_heights_are_matched_and_sides_even():
    small, tall = clip_of(numbered(4, 20, 30)), clip_of(numbered(4, 45, 33))
    both = side_by_side([small, tall], ["a", "b"], gap=3)
    assert both.width % 2 == both.height % 2 == 0
    strip = both.height - 45
    # 30 x 20 as tall as 45 rows is 68 wide (67.5).
    assert np.array_equal(both.frames[:, strip : strip + 45, 68 + 3 : 68 + 3 + 33], tall.frames)
    assert (both.frames[3, strip : strip + 45, :68] == 28).all()


def test_sound_is_the_first_ones_and_ends_with_the_shortest():
    clips = [clip_of(numbered(10), audio=sine(440, 1)), clip_of(numbered(4))]
    both = side_by_side(clips)
    assert both.num_frames == 4
    assert both.audio is not None
    assert both.audio.duration == pytest.approx(0.4)
    assert side_by_side(clips[::-1]).audio is None
    with pytest.raises(VideoError, match="expected clips of one length, found 10, 4 frames"):
        side_by_side(clips, same_length=True)


def test_what_cannot_stand_beside_each_other():
    clip = clip_of(numbered(3))
    with pytest.raises(VideoError, match=r"one frame rate, found 10, 29\.97 fps"):
        side_by_side([clip, clip_of(numbered(3), Fraction(30000, 1001))])
    for function in (side_by_side, contact_sheet):
        with pytest.raises(VideoError, match="expected at least one, found none"):
            function([])
        with pytest.raises(VideoError, match="one for each of the 2 clips, found 1"):
            function([clip, clip], ["only one"])
        with pytest.raises(VideoError, match="found a text"):
            function([clip, clip], "ab")


def test_it_can_be_written(tmp_path):
    pytest.importorskip("av")
    both = side_by_side([clip_of(moving(6, 65, 97)), clip_of(moving(6, 65, 97))], ["source", "edit"])
    both.save(tmp_path / "both.mp4")
    assert read_clip(tmp_path / "both.mp4").frames.shape == both.frames.shape


@given(count=st.integers(1, 300), columns=st.integers(1, 12))
def test_columns_are_spread_evenly(count, columns):
    columns = min(columns, count)
    indices = spread(count, columns)
    assert len(set(indices)) == columns
    assert indices == sorted(indices)
    if columns > 1:
        assert (indices[0], indices[-1]) == (0, count - 1)
        steps = np.diff(indices)
        assert steps.max() - steps.min() <= 1
    else:
        assert indices == [(count - 1) // 2]


def test_sheet_shows_the_frames_it_says():
    clip = clip_of(numbered(16, 40, 60))
    sheet = np.asarray(contact_sheet([clip], max_columns=4))
    assert sheet.shape == (40, 4 * 60 + 3 * 4, 3)
    for column, index in enumerate([0, 5, 10, 15]):
        assert (sheet[:, column * 64 : column * 64 + 60] == clip.frames[index, 0, 0, 0]).all()
    assert (sheet[:, 60:64] == 255).all()


def test_rows_of_different_clips(tmp_path):
    clips = [clip_of(numbered(3, 40, 60)), clip_of(moving(9, 20, 30)), clip_of(numbered(1, 40, 200))]
    sheet = contact_sheet(clips, ["three frames", "", "one wide frame"])
    pixels = np.asarray(sheet)
    assert sheet.width == 8 * 60 + 7 * 4
    strips = sheet.height - 3 * 40 - 2 * 4
    assert 2 * 15 < strips < 2 * 40
    strip = strips // 2
    assert (pixels[:strip, :180] < 128).any()
    assert np.array_equal(pixels[strip : strip + 40, :60], clips[0].frames[0])
    # The second row has no label and is scaled to the height of the others.
    assert pixels[strip + 44 + 20, 5].max() < 255
    assert np.array_equal(pixels[-40:, :200], clips[2].frames[0])
    save_contact_sheet(tmp_path / "sheet.png", clips, ["three frames", "", "one wide frame"])
    with Image.open(tmp_path / "sheet.png") as saved:
        assert np.array_equal(np.asarray(saved), pixels)
    with pytest.raises(VideoError, match="max_columns: expected at least 1"):
        contact_sheet(clips, max_columns=0)


def test_lines_are_broken_between_words():
    def short(line: str) -> bool:
        return len(line) <= 10

    assert wrapped("a panda is skiing", short) == ["a panda is", "skiing"]
    assert wrapped("", short) == []
    assert wrapped("unpronounceable", short) == ["unpronounc", "eable"]
    assert wrapped("one two three four five six seven eight", short) == ["one two", "three four", "five six…"]
    assert wrapped("x" * 50, short) == ["x" * 10, "x" * 10, "x" * 9 + "…"]


@given(text=st.text(max_size=80), width=st.integers(1, 30))
def test_no_line_is_too_long(text, width):
    lines = wrapped(text, lambda line: len(line) <= width)
    assert len(lines) <= 3
    assert all(len(line) <= width for line in lines)
    if lines and not lines[-1].endswith("…"):
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_names_become_the_label_of_a_saved_clip(tmp_path):
    named, plain = clip_of(numbered(3), name="name"), clip_of(numbered(3))
    named.save(tmp_path / "named.png")
    plain.save(tmp_path / "plain.png")
    with Image.open(tmp_path / "named.png") as one, Image.open(tmp_path / "plain.png") as other:
        assert one.height > other.height == 64
    assert isinstance(named, Clip)
