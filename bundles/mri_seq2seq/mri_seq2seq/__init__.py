"""Seq2Seq: any MRI sequence to any other by one HyperConv generator (Han et al., MedIA 2024)."""
