"""CRL: MRI contrasts made from acquisition parameters (Xiong et al., MICCAI 2024)."""
