"""A complete Stable Diffusion folder of a few thousand random weights, written by diffusers and transformers."""

import json
from fractions import Fraction
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from trifold.video.clip import Clip
from trifold.video.tuning import VideoTuning

TEXT_WIDTH = 16
FACTOR = 2  # pixels per latent
MAX_TOKENS = 12
WORDS = ("a", "red", "blue", "square", "circle", "moves", "left", "right", "on", "the", "sand")
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


def tiny_unet(**changes):
    """The SD layout (attention in all down blocks but the last) with two levels."""
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**config, **changes})


def tiny_vae(**changes):
    """Two levels: a latent is 2 x 2 pixels."""
    config = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 16,
        "scaling_factor": 3.0,  # makes latents of random weights about unit variance
    }
    return AutoencoderKL(**{**config, **changes})


def tiny_tokenizer(folder):
    """A CLIP tokenizer whose vocabulary is single letters and `WORDS`."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens, merges = [*letters, *(f"{c}</w>" for c in letters)], []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:  # left to right, each merge making the next piece
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces = ["".join(pair), *pieces[2:]]
            if pieces[0] not in tokens:
                tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)


def tiny_text_encoder(vocab_size):
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    return CLIPTextModel(config)


def write_tiny(folder, *, seed=0, schedule=None, unet=None, vae=None, **saving):
    """Write the folder and return it. `schedule` changes the scheduler's config, `unet` and `vae` theirs; the rest
    (`safe_serialization`, `variant`, `max_shard_size`) goes to diffusers."""
    folder = Path(folder)
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder.with_name(folder.name + "-tokenizer"))
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(**(vae or {})),
        text_encoder=tiny_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        unet=tiny_unet(**(unet or {})),
        scheduler=DDIMScheduler(**{**SD_SCHEDULE, **(schedule or {})}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, **saving)
    return folder


def tiny_frames(num_frames=3, size=16, seed=0):
    """Frames [F, 3, H, W] in [-1, 1]: a smooth pattern that moves."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(3, 1, 1, generator=generator) * 6
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    return torch.stack([torch.sin(6 * (x + 0.1 * i) + 4 * y + phase) for i in range(num_frames)])


def tiny_clip(num_frames=3, size=16, seed=0, **facts):
    """The same as a Clip at 24000/1001 frames per second."""
    return Clip.from_tensor(tiny_frames(num_frames, size, seed), fps=Fraction(24000, 1001), **facts)


def tiny_tuning(folder, **changes):
    """A run of a few steps that writes into `folder`."""
    settings = {"output_dir": Path(folder), "max_train_steps": 3, "learning_rate": 1e-2, "report_to": "none"}
    return VideoTuning(**{**settings, **changes})


def same_tensors(one, two):
    """Whether two modules hold the same tensors, bit for bit."""
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
