"""Options as the command line delivers them."""

from __future__ import annotations


def switch(value: bool | str, name: str) -> bool:
    """A yes or no: `--name false` reaches a bundle as the string "false", which Python takes for true.

    Raises:
        ValueError: the value is neither, in whatever case.
    """
    word = str(value).lower()
    if word not in ("true", "false"):
        raise ValueError(f"{name} is {value!r}; it must be true or false.")
    return word == "true"
