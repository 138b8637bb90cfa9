# In the repository this package is the top-level common/; a packaged bundle holds a copy of it here.
from pathlib import Path

__path__ = [str(Path(__file__).parents[4] / "common")]
if not Path(__path__[0]).is_dir():
    raise ImportError(f"No {__path__[0]}: this bundle was copied out of its repository. Run ./ci/package NAME there.")
