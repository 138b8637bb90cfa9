"""MM-GAN: the missing MRI sequences from any that are there, in one pass (Sharma & Hamarneh, TMI 2020)."""
