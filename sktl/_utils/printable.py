"""Text from elsewhere (names, paths, messages of others) as what can be printed."""


def printable(text, keep=""):
    r"""Write as escapes what no terminal, file or font takes.

    Line ends are among it, and the surrogates (such as `"\udcff"`) by which Python
    passes on bytes of a file name that are not UTF-8.

    Parameters
    ----------
    text : object
        What `str` is taken of.
    keep : str
        Characters to be left as they are.

    Returns
    -------
    text : str
        The same where all of it can be printed.
    """
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def shown(value):
    """What a message shows of a value that a user passed: its repr, shortened.

    `reprlib.repr` is for what may hold many others: it does not ask all of them.
    """
    return shorten(repr(value))


def shorten(text):
    """Leave out what is in the middle of a text that is too long for a message."""
    return text if len(text) <= 500 else f"{text[:200]}...{text[-200:]}"


def describe(error):
    """An exception in words, with its notes."""
    lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    return printable("\n".join(lines), keep="\n")
