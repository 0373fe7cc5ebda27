"""Edits with a known fault, and the scores that must show it."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from trifold.video.clip import Clip
from trifold.video.errors import VideoError
from trifold.video.evaluation import COLUMNS, ClipScorer, Report, evaluate_edit, evaluate_edits

from .test_flow import shifted_clip
from .tiny import MAX_TOKENS, tiny_tokenizer

FRAMES, SIDE, SHIFT = 5, 48, 3


def clip(frames: np.ndarray, name: str = "") -> Clip:
    return Clip(frames, Fraction(8), name=name)


@pytest.fixture(scope="module")
def scene():
    """A textured square that moves right over a still background: (clip, mask, exact flow)."""
    back = shifted_clip(0, 0, 1, SIDE, SIDE)[0]
    front = 255 - np.ascontiguousarray(np.roll(back, 13, 1).transpose(1, 0, 2))
    frames = np.stack([back] * FRAMES)
    mask = np.zeros((FRAMES, SIDE, SIDE), bool)
    for i in range(FRAMES):
        left = 6 + SHIFT * i
        frames[i, 14:34, left : left + 20] = front[14:34, 10:30]
        mask[i, 14:34, left : left + 20] = True
    flow = np.zeros((FRAMES - 1, SIDE, SIDE, 2), np.float32)
    flow[..., 0] = SHIFT * mask[:-1]
    return clip(frames, "scene"), mask, flow


def test_what_ground_truth_scores(scene):
    source, mask, flow = scene
    scores = evaluate_edit(source, source, mask=mask, flow=flow)
    assert set(scores) <= set(COLUMNS)
    assert (scores["psnr"], scores["background_psnr"], scores["difference_ratio"]) == (math.inf, math.inf, 1)
    assert scores["ssim"] == pytest.approx(1)
    assert scores["warp_error"] < 1e-6  # exact flow explains the source
    assert scores["flow_error"] < 0.2
    assert scores["subject_flow_error"] < 0.5
    assert min(scores["flow_correlation"], scores["subject_flow_correlation"]) > 0.95
    estimated = evaluate_edit(source, source)
    assert estimated["flow_error"] == 0
    assert estimated["flow_correlation"] == pytest.approx(1)
    assert estimated["warp_error"] < 1e-3


def test_another_colour_keeps_the_motion(scene):
    source, mask, flow = scene
    frames = source.frames.copy()
    frames[mask] = frames[mask][:, [2, 0, 1]] // 2 + np.array([120, 20, 0], np.uint8)
    scores = evaluate_edit(source, clip(frames), mask=mask, flow=flow)
    assert scores["flow_correlation"] > 0.9
    assert scores["subject_flow_error"] < 0.5
    assert scores["background_psnr"] == math.inf
    assert scores["psnr"] < 30
    assert scores["warp_error"] < 1e-6


def test_a_still_video_is_consistent_and_wrong(scene):
    source, mask, flow = scene
    still = clip(np.repeat(source.frames[:1], FRAMES, axis=0))
    scores = evaluate_edit(source, still, mask=mask, flow=flow)
    assert (scores["consecutive_psnr"], scores["flicker_share"]) == (math.inf, 0)
    assert scores["difference_ratio"] == 0
    assert scores["flow_correlation"] == scores["subject_flow_correlation"] == 0
    assert scores["subject_flow_error"] == pytest.approx(SHIFT, abs=0.1)
    assert scores["warp_error"] > 1e-3


def test_flicker_is_seen(scene):
    source, mask, flow = scene
    frames = np.clip(source.frames.astype(int) + np.array([0, 20, 0, 20, 0])[:, None, None, None], 0, 255)
    flickering = evaluate_edit(source, clip(frames.astype(np.uint8)), mask=mask, flow=flow)
    calm = evaluate_edit(source, source, mask=mask, flow=flow)
    for name in ("flicker_share", "brightness_flicker", "warp_error", "difference_ratio"):
        assert flickering[name] > 1.5 * calm[name] + 1e-5, name
    assert flickering["background_psnr"] < 40


def test_a_mask_that_covers_no_moving_pixel_leaves_its_column_out(scene):
    source, mask, flow = scene
    scores = evaluate_edit(source, source, mask=np.zeros_like(mask), flow=flow)
    assert "subject_flow_error" not in scores
    assert scores["background_ssim"] == pytest.approx(1)


def test_clips_of_another_size_are_told(scene):
    source = scene[0]
    shorter = clip(source.frames[:-1], "a panda")
    with pytest.raises(VideoError, match="a panda: 4 frames of 48x48, but the source has 5 frames of 48x48"):
        evaluate_edit(source, shorter)
    with pytest.raises(VideoError, match="at least 2 frames, found 1"):
        evaluate_edit(clip(source.frames[:1]), clip(source.frames[:1]))


# ------------------------------------------------------------------------------------------------------- reports


def test_report_of_several_edits(scene, tmp_path):
    source, mask, flow = scene
    edits = {"noisy | one": clip(source.frames // 2), "same": source}
    report = evaluate_edits(source, edits, mask=mask, flow=flow)
    assert list(report.rows) == ["source", "noisy | one", "same"]
    assert report.rows["same"] == report.rows["source"] == evaluate_edit(source, source, mask=mask, flow=flow)
    assert report.about == {"frames": FRAMES, "height": SIDE, "width": SIDE, "flow": "exact"}
    table = report.table().splitlines()
    assert len({len(line) for line in table if line.startswith("|")}) == 1
    assert [cell.strip() for cell in table[0].split(" | ")] == ["|", "source", "noisy \\| one", "same |"]
    assert [cell.strip() for cell in table[2].split(" | ")][::3] == ["| PSNR", "∞ |"]
    assert sum(line.startswith("- ") for line in table) == len(report.rows["source"])
    report.save(tmp_path / "new" / "scores.json")
    saved = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert saved["scores"]["source"]["psnr"] == "inf"
    assert saved["scores"]["noisy | one"]["psnr"] == pytest.approx(report.rows["noisy | one"]["psnr"])


def test_numbers_that_json_lacks():
    rows = {"source": {"psnr": math.inf, "background_ssim": math.nan, "ssim": 1.0}}
    report = Report(rows, {"frames": 3})
    plain = {"psnr": "inf", "background_ssim": None, "ssim": 1.0}
    assert report.to_dict() == {"frames": 3, "scores": {"source": plain}}
    assert list(report.titled()["source"]) == ["PSNR", "SSIM", "background SSIM"]


# -------------------------------------------------------------------------------------------- a CLIP model's view


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP model of a few thousand random weights, as transformers saves it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_tokenizer(folder / "made")
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **common,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": len(tokenizer) - 2,
            "eos_token_id": len(tokenizer) - 1,
        },
        vision_config={**common, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_clip_scores(clip_folder, scene):
    source = scene[0]
    scorer = ClipScorer(clip_folder)
    frames, text = scorer.embed_frames(source, batch=2), scorer.embed_text("a red square")
    assert (frames.shape, text.shape) == ((FRAMES, 12), (12,))
    assert torch.allclose(frames, scorer.embed_frames(source), atol=1e-5)
    model, pixels = scorer.model, scorer.images(images=list(source.frames), return_tensors="pt").pixel_values
    with torch.no_grad():
        found = model(
            input_ids=scorer.tokenizer(["a red square"], return_tensors="pt").input_ids,
            pixel_values=pixels,
        )
    cosines = found.logits_per_image[:, 0] / model.logit_scale.exp()
    scores = scorer.scores(source, "a red square", "a blue circle on the sand")
    assert scores["clip_text"] == pytest.approx(100 * cosines.mean().item(), abs=1e-3)
    still = clip(np.repeat(source.frames[:1], 3, axis=0))
    assert scorer.scores(still) == {
        "clip_consistency_all": pytest.approx(1),
        "clip_consistency_next": pytest.approx(1),
    }
    assert 0 <= scores["clip_accuracy"] <= 1
    report = evaluate_edits(source, {"edit": source}, prompts={"edit": "a red square"}, scorer=scorer)
    assert "clip_text" in report.rows["edit"]
    assert "clip_text" not in report.rows["source"]


def test_a_folder_that_is_no_clip_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the folder of a CLIP model"):
        ClipScorer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(VideoError, match="not a complete CLIP folder"):
        ClipScorer(tmp_path)
