"""Explains a locale that a model's text operators need and this machine does not have.

ONNX Runtime's StringNormalizer asks the C library for the locale that the graph names, by default en_US.UTF-8. scikit-learn's
TfidfVectorizer and CountVectorizer are exported with this operator. Slim images have the locale C.UTF-8 only.
"""

import re

_MISSING = re.compile(r"Failed to construct locale with name:\s*(\S*?):")
_NAME = re.compile(r"(?P<territory>[a-z]{2,3}_[A-Z]{2})\.(?:UTF-8|utf8)")


def missing_locale(error: str) -> str | None:
    """One sentence about the locale whose absence an error of ONNX Runtime reports; None if the error has another cause."""
    found = _MISSING.search(error)
    if found is None:
        return None
    name = found[1]
    # The name is the model file's, so only one of the usual form goes into a command to copy.
    known = _NAME.fullmatch(name)
    if known is None:
        return (
            f"its text operators need the locale {name!r}, which this machine does not have: install it, or export the model "
            "with the locale en_US.UTF-8"
        )
    return (
        f"its text operators need the locale {name}, which this machine does not have: on Debian and Ubuntu run "
        f"`apt-get install locales && localedef -i {known['territory']} -f UTF-8 {name}` "
        "as root, or set LOCPATH to a folder that has it"
    )
