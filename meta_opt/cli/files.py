"""Classes in files, ``PATH.py:CLASS``: plugins without packaging.

The parser knows dotted paths only. So each reference is replaced by one, on the command line and in config files.
"""

from __future__ import annotations

import re
from pathlib import Path

from meta_opt import registry
from meta_opt.errors import RegistryError

_REFERENCE = re.compile(r"""[^\s'",:{}\[\]=]+\.py:[A-Za-z_][\w.]*""")
_OPTION = re.compile(r"--(optimizee|optimizer|model\.estimator)([.=]|$)")


def with_dotted_paths(arguments: list[str]) -> list[str]:
    """The arguments after a command with dotted paths for classes in files; their folders join the import path.

    Raises:
        RegistryError: If a file cannot be used, or the class in it is not named.
    """
    replaced, option = [], ""
    for argument in arguments:
        if argument.startswith("-"):
            option, equals, value = argument.partition("=")
            prefix = option + equals
        else:
            prefix, value = "", argument
        if _OPTION.match(option):
            if value.endswith(".py"):
                raise RegistryError(f"say which class of {value} is meant, as {value}:CLASS")
            value = _replaced(value)
        elif option in ("--config", "-c"):
            value = _config(value)
        replaced.append(prefix + value)
    return replaced


def _replaced(text: str) -> str:
    return _REFERENCE.sub(lambda match: registry.path_in_file(match[0]), text)


def _config(path: str) -> str:
    """The config file at ``path``, or its content with dotted paths: text of more than one line."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return path  # the parser says what is wrong with it
    return _replaced(text) + "\n" if _REFERENCE.search(text) else path
