"""CycleGAN: two MRI sequences to one another from unpaired scans (Zhu et al., ICCV 2017), also with RegGAN's warp."""
