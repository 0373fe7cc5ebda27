"""The shared denoiser core: attention, transformer, diffusion process, samplers, training loop."""
