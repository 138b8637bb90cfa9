"""pGAN: one MRI sequence from another by a conditional adversarial network (Dar et al., TMI 2019)."""
