"""The sprites world: its words, its pictures, and the ground truth that comes with them."""

import dataclasses

import numpy as np
import pytest
from trifold.video.errors import VideoError
from trifold.video.sprites.pictures import HELD_OUT_START, SpritePictures, as_signal, labels_of
from trifold.video.sprites.render import PAINT, sprite_clip, sprite_path
from trifold.video.sprites.shapes import OUTLINES, polygon
from trifold.video.sprites.tokenizer import MAX_TOKENS, build_tokenizer, grammar_words, learnt_merges
from trifold.video.sprites.words import VALUES, VISIBLE, Scene, attributes_of, caption, sample_scene

FULL = Scene("orange", "striped", "star", "large", "up", "night", "neon", seed=3)


class TestWords:
    def test_full_caption(self) -> None:
        assert caption(FULL) == "a large orange striped star moving up under a night sky, neon style"
        assert caption(Scene("orange", shape="robot")) == "an orange robot in a plain room"

    def test_captions_are_read_back(self) -> None:
        for i in range(300):
            scene = sample_scene(i, held_out=None)
            said = attributes_of(caption(scene))
            said.setdefault("motion", "still")
            assert said == {name: getattr(scene, name) for name in VALUES}

    def test_varied_captions_say_nothing_wrong(self) -> None:
        left_open = 0
        for i in range(200):
            scene = sample_scene(i)
            said = attributes_of(caption(scene, np.random.default_rng(i)))
            assert all(getattr(scene, name) == value for name, value in said.items())
            left_open += "background" not in said
        assert 5 < left_open < 50

    def test_wrong_words_are_named(self) -> None:
        with pytest.raises(VideoError, match=r"shape: expected one of circle.*found 'dog'"):
            Scene(shape="dog")

    def test_held_out_combinations_are_apart(self) -> None:
        kept = {(s.colour, s.shape, s.background) for s in map(sample_scene, range(3000))}
        out = {(s.colour, s.shape, s.background) for s in (sample_scene(i, held_out=True) for i in range(300))}
        assert not kept & out
        everything = len(VALUES["colour"]) * len(VALUES["shape"]) * len(VALUES["background"])
        assert len(out) == pytest.approx(everything / 16, rel=0.35)
        assert len(kept) > 0.9 * (everything - len(out))

    def test_scenes_are_uniform(self) -> None:
        scenes = [sample_scene(i, held_out=None) for i in range(2000)]
        for name, values in VALUES.items():
            counts = [sum(getattr(s, name) == value for s in scenes) for value in values]
            assert min(counts) > 0.7 * 2000 / len(values)


class TestShapes:
    def test_polygon_distance_by_hand(self) -> None:
        square = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
        x, y = np.float32([0, 2, 2, 0.5]), np.float32([0, 0, 2, 0])
        np.testing.assert_allclose(polygon(x, y, square), [-1, 1, 2**0.5, -0.5], atol=1e-6)

    @pytest.mark.parametrize("shape", OUTLINES)
    def test_shapes_fill_their_square_and_stay_in_it(self, shape: str) -> None:
        side = np.linspace(-1.3, 1.3, 131, dtype=np.float32)
        x, y = np.meshgrid(side, side)
        inside = OUTLINES[shape](x, y) < 0
        assert 0.89 < max(np.abs(x[inside]).max(), np.abs(y[inside]).max()) <= 1.01 or shape == "square"
        assert 0.2 < inside.mean() * 2.6**2 / 4 < 0.85


class TestRender:
    def test_same_scene_same_pixels(self) -> None:
        a, b = sprite_clip(FULL, 4), sprite_clip(FULL, 4)
        assert np.array_equal(a.clip.frames, b.clip.frames)
        assert a.clip.frames.shape == (4, 64, 64, 3)
        assert a.clip.frames.dtype == np.uint8

    def test_single_frames_are_those_of_the_clip(self) -> None:
        whole = sprite_clip(FULL, 8).clip.frames
        assert np.array_equal(sprite_clip(FULL, 8, frames=[5]).clip.frames[0], whole[5])

    @pytest.mark.parametrize("size", [16, 64, 100, 256])
    def test_any_size(self, size: int) -> None:
        assert sprite_clip(FULL, 2, size).clip.frames.shape == (2, size, size, 3)

    def test_another_word_with_the_same_seed_is_an_edit(self) -> None:
        source = sprite_clip(dataclasses.replace(FULL, style="flat", texture="plain"), 4)
        edit = sprite_clip(dataclasses.replace(FULL, style="flat", texture="plain", colour="blue", shape="heart"), 4)
        either = source.masks | edit.masks
        grown = np.pad(either, ((0, 0), (2, 2), (2, 2)))  # thin tips are drawn half, and not in the mask
        near = np.logical_or.reduce([grown[:, i : i + 64, j : j + 64] for i in range(5) for j in range(5)])
        assert np.array_equal(source.clip.frames[~near], edit.clip.frames[~near])
        assert not np.array_equal(source.clip.frames, edit.clip.frames)

    @pytest.mark.parametrize("colour", PAINT)
    def test_a_plain_sprite_has_its_colour(self, colour: str) -> None:
        found = sprite_clip(Scene(colour, shape="square", size="large"), 1)
        mean = found.clip.frames[0][found.masks[0]].mean(axis=0)
        assert np.abs(mean - PAINT[colour]).max() < 14

    @pytest.mark.parametrize("motion", ["left", "right", "up", "down", "bouncing", "spinning", "circling"])
    def test_flow_carries_the_sprite_to_the_next_frame(self, motion: str) -> None:
        made = sprite_clip(Scene("blue", shape="star", size="large", motion=motion, seed=5), 6, 128)
        for i in range(5):
            rows, columns = np.nonzero(made.masks[i])
            moved = np.stack([columns, rows], 1) + made.flow[i][rows, columns]
            to = np.rint(moved).astype(int)
            assert made.masks[i + 1][to[:, 1], to[:, 0]].mean() > 0.97
            drawn = np.abs(made.flow[i][~made.masks[i]]).max()
            assert drawn == 0

    def test_motions_go_where_their_words_say(self) -> None:
        ways = {name: sprite_path(Scene(motion=name, seed=2), 5).centres for name in VALUES["motion"]}
        assert (np.diff(ways["right"][:, 0]) > 0).all()
        assert (np.diff(ways["left"][:, 0]) < 0).all()
        assert (np.diff(ways["down"][:, 1]) > 0).all()
        assert (np.diff(ways["up"][:, 1]) < 0).all()
        assert np.ptp(ways["still"], axis=0).max() == 0
        assert np.ptp(ways["spinning"], axis=0).max() == 0
        angles = sprite_path(Scene(motion="spinning", seed=2), 5).angles
        assert np.ptp(angles) == pytest.approx(1.5 * np.pi)

    def test_sprites_stay_in_the_picture(self) -> None:
        for i in range(60):
            path = sprite_path(sample_scene(i, held_out=None), 8)
            assert path.centres.min() - path.radius > -0.02
            assert path.centres.max() + path.radius < 1.02

    def test_bad_sizes_are_told(self) -> None:
        with pytest.raises(VideoError, match="num_frames >= 1 and size >= 16, found 0 and 64"):
            sprite_clip(FULL, 0)


class TestPictures:
    def test_held_out_pictures_are_other_pictures(self) -> None:
        train, held = SpritePictures(4), SpritePictures(4, start=HELD_OUT_START, held_out=True)
        assert train[0]["pixels"].shape == (3, 64, 64)
        assert not np.array_equal(train[0]["pixels"], held[0]["pixels"])
        assert all(held.scene(i).is_held_out for i in range(4))
        assert not any(train.scene(i).is_held_out for i in range(4))

    def test_labels_and_signal(self) -> None:
        assert labels_of(FULL).tolist() == [VALUES[n].index(getattr(FULL, n)) for n in VISIBLE]
        signal = as_signal(SpritePictures(1)[0]["pixels"])
        assert signal.min() >= -1
        assert signal.max() <= 1


class TestTokenizer:
    def test_words_of_the_grammar_are_single_tokens(self) -> None:
        pytest.importorskip("transformers")
        tokenizer = build_tokenizer()
        assert len(tokenizer) < 1000
        for word in grammar_words():
            assert len(tokenizer(word).input_ids) == 3

    def test_merges_are_the_same_every_time(self) -> None:
        assert learnt_merges(["ab", "abc", "cab"]) == [("a", "b</w>"), ("a", "b"), ("ab", "c</w>"), ("c", "ab</w>")]
        words = grammar_words()
        assert learnt_merges(words[::-1]) == learnt_merges(words)

    def test_captions_fit_and_other_words_are_spelt(self) -> None:
        pytest.importorskip("transformers")
        tokenizer = build_tokenizer()
        rng = np.random.default_rng(0)
        longest = max(len(tokenizer(caption(sample_scene(i), rng)).input_ids) for i in range(400))
        assert longest <= MAX_TOKENS - 6
        spelt = tokenizer("zebra").input_ids
        assert len(spelt) > 4
        assert tokenizer.unk_token_id not in spelt[1:-1]
