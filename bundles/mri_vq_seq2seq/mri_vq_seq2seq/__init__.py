"""VQ-Seq2Seq: Seq2Seq around a vector-quantised common latent space of all sequences (Han et al., MICCAI 2024)."""
