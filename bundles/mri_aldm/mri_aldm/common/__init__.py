# In the repository this package is the top-level common/; a packaged bundle holds a copy of it here.
from pathlib import Path

__path__ = [str(Path(__file__).parents[4] / "common")]
