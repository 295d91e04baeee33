"""Data whose diffusion model is known in closed form."""
