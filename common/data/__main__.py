"""`python -m common.data list ...`: the verbs on data, which are those of `mri-contrast`."""

from ..__main__ import main

if __name__ == "__main__":
    main()
