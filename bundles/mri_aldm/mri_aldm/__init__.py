"""ALDM: whole-volume latent diffusion, steered to a target sequence by MS-SPADE (Kim and Park, WACV 2024)."""
