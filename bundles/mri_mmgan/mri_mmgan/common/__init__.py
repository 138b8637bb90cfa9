# In the repository this package is the top-level common/, installed it is mri_contrast; a packaged bundle has a copy.
from pathlib import Path

above = Path(__file__).parents[4]
__path__ = [str(root) for root in (above / "common", above) if (root / "translation.py").is_file()][:1]
if not __path__:
    raise ImportError(f"No {above}/common: this bundle was copied out of its repository. Run ./ci/package NAME there.")
