"""What the bundles share. Installed, this package is `mri_contrast`, and `complete` is its function for users."""

from .workflows import complete

__all__ = ["complete"]
