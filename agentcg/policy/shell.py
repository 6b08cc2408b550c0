# SPDX-License-Identifier: Apache-2.0
"""A shell line read as the programs it names, without ever running or expanding any of it.

This is a reader for classification, not a shell: what is inside double quotes, here-documents and arithmetic is text,
a quote that is never closed runs to the end, and no input makes it fail. A line can hide what it runs; that costs it
nothing but the right class, because limits hold whatever runs.
"""

import re

__all__ = ["SHELLS", "program_name", "shell_text", "simple_commands"]

# Possessive quantifiers throughout: no input makes the reader go back, so it is linear in the length of the line.
_PIECE = re.compile(
    r"""
      (?P<skip>[ \t\r]++|\\\n|\#[^\n]*+)
    | (?P<here>[0-9]*+<<(?!<)-?)
    | (?P<redirect>[0-9]*+(?:<<<|&>>?|>>|>[&|]?|<[&>]?))
    | (?P<end>[\n;&|()`])
    | (?P<word>(?:[^ \t\r\n;&|()`<>'"\\]++|'[^']*+'?|"(?:[^"\\]++|\\.?)*+"?|\\.?)++)
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""'([^']*+)'?|"((?:[^"\\]++|\\.?)*+)"?|\\(.?)""", re.DOTALL)
_ESCAPED = re.compile(r'\\([$`"\\\n])')
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_VERSIONED = re.compile(r"(python|pip)[0-9][0-9.]*")

_DEPTH = 2  # How many shells inside a shell are looked into.


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KEYWORDS = _words("if then elif else fi while until do done esac { } ! ]]")
_HEADERS = _words("for select case function")  # What follows on their line is not a command.
SHELLS = _words("sh bash dash zsh ksh ash")


# Programs that run another: the options with a value of their own, and how many words stand before the command.
_WRAPPERS: dict[str, tuple[frozenset[str], int]] = {
    "sudo": (_words("-u -g -p -C -D -h -r -t -T -U --user --group"), 0),
    "env": (_words("-u -C --unset --chdir"), 0),
    "timeout": (_words("-k -s --kill-after --signal"), 1),
    "nice": (_words("-n --adjustment"), 0),
    "ionice": (_words("-c -n --class --classdata"), 0),
    "time": (_words("-f -o --format --output"), 0),
    "exec": (_words("-a"), 0),
    "command": (_words(""), 0),
    "builtin": (_words(""), 0),
    "nohup": (_words(""), 0),
    "setsid": (_words(""), 0),
    "stdbuf": (_words("-i -o -e --input --output --error"), 0),
    "xvfb-run": (_words("-n -s -e -f -p -w --server-num --server-args --error-file"), 0),
    "xargs": (_words("-n -P -I -L -s -d -a -E --max-args --max-procs --delimiter"), 0),
    "npx": (_words("-p --package"), 0),
}
_RUNNERS: dict[tuple[str, str], frozenset[str]] = {
    ("uv", "run"): _words("--with --python -p --extra --group --project --directory"),
    ("poetry", "run"): _words("-C --directory"),
    ("pipenv", "run"): _words(""),
    ("pdm", "run"): _words("-p --project"),
    ("hatch", "run"): _words(""),
    ("conda", "run"): _words("-n -p --name --prefix --cwd"),
    ("mamba", "run"): _words("-n -p --name --prefix --cwd"),
    ("bundle", "exec"): _words(""),
    ("pnpm", "exec"): _words(""),
}
# Programs whose own options stand before the word that says what they do.
_GLOBAL_OPTIONS = {
    "git": _words("-C -c --git-dir --work-tree --namespace"),
    "python": _words("-W -X"),
    "pip": _words("--python --cache-dir --log --proxy"),
    "npm": _words("--prefix -C"),
    "make": _words("-C -f --directory --file"),
    "cargo": _words("--config -C"),
    "docker": _words("--context -H --host --config"),
}


def program_name(word: str) -> str:
    """Return what a command's first word names: no folders, and ``python`` and ``pip`` without their version."""
    name = word.rstrip("/").rsplit("/", 1)[-1] or word
    versioned = _VERSIONED.fullmatch(name)
    return versioned[1] if versioned else name


def simple_commands(text: str) -> list[list[str]]:
    """Return the words of every simple command in a shell line, in order.

    Assignments, redirections, keywords and wrappers such as ``sudo`` or ``timeout 60`` are left out, ``sh -c TEXT``
    is looked into, and the first word is a :func:`program_name`. Never raises, whatever the text is.
    """
    return _commands(text, _DEPTH)


def _commands(text: str, depth: int) -> list[list[str]]:
    return [command for words in _split(text) for command in _resolve(words, depth)]


def _split(text: str) -> list[list[str]]:
    """The words of every simple command, as written but for quotes, redirections and comments."""
    commands: list[list[str]] = [[]]
    bodies: list[tuple[str, bool]] = []  # Here-documents that begin after this line: delimiter, tabs are dropped.
    awaited, tabs = "", False  # The next word belongs to a redirection: "redirect" or "here".
    position = 0
    while match := _PIECE.match(text, position):
        position, kind, piece = match.end(), match.lastgroup or "", match[0]
        if kind == "word":
            if awaited == "here":
                bodies.append((_unquote(piece), tabs))
            elif not awaited:
                commands[-1].append(_unquote(piece))
            awaited = ""
        elif kind == "end":
            awaited = ""
            if commands[-1]:
                commands.append([])
            if piece == "\n":
                position, bodies = _skip_bodies(text, position, bodies), []
        elif kind in ("here", "redirect"):
            awaited, tabs = kind, piece.endswith("-")
    return [words for words in commands if words]


def _skip_bodies(text: str, position: int, bodies: list[tuple[str, bool]]) -> int:
    for delimiter, tabs in bodies:
        line = None
        while position < len(text) and line != delimiter:
            end = text.find("\n", position)
            end = len(text) if end < 0 else end
            line = text[position:end].lstrip("\t") if tabs else text[position:end]
            position = end + 1
    return min(position, len(text))


def _unquote(word: str) -> str:
    def plain(match: re.Match[str]) -> str:
        single, double, escaped = match.groups()
        if single is not None:
            return str(single)
        if double is not None:
            return _ESCAPED.sub(lambda inner: "" if inner[1] == "\n" else inner[1], double)
        return "" if escaped == "\n" else str(escaped)

    return _QUOTED.sub(plain, word) if "'" in word or '"' in word or "\\" in word else word


def _resolve(words: list[str], depth: int) -> list[list[str]]:
    """The commands that one simple command comes down to: none, itself without its wrappers, or those inside it."""
    index, wrapper = 0, ""
    while index < len(words):
        word = words[index]
        name = program_name(word)
        following = words[index + 1] if index + 1 < len(words) else ""
        if _ASSIGNMENT.match(word) or word in _KEYWORDS:
            index += 1
        elif word in _HEADERS:
            return []
        elif name == "command" and following in ("-v", "-V"):
            break  # It only looks the program up.
        elif name in _WRAPPERS:
            wrapper = name
            options, operands = _WRAPPERS[name]
            index = _after_options(words, index + 1, options) + operands
        elif (name, following) in _RUNNERS:
            wrapper = name
            index = _after_options(words, index + 2, _RUNNERS[name, following])
        else:
            break
    if index >= len(words):
        return [[wrapper]] if wrapper else []
    inner = shell_text(words, index) if depth > 0 else None
    if inner is not None:
        return _commands(inner, depth - 1)
    name = program_name(words[index])
    rest = index + 1
    if name in _GLOBAL_OPTIONS:
        rest = _after_options(words, rest, _GLOBAL_OPTIONS[name], stop=("-m", "-c") if name == "python" else ())
    return [[name, *words[rest:]]]


def _after_options(words: list[str], index: int, with_value: frozenset[str], stop: tuple[str, ...] = ()) -> int:
    while index < len(words) and words[index].startswith("-") and words[index] != "-" and words[index] not in stop:
        option = words[index]
        index += 1
        if option == "--":
            break
        if option in with_value:
            index += 1
    return index


def shell_text(words: list[str], index: int = 0) -> str | None:
    """Return the shell text that ``sh -c TEXT`` or ``eval TEXT`` at ``index`` would run; None if it is neither."""
    name = program_name(words[index])
    if name == "eval":
        return " ".join(words[index + 1 :])
    if name not in SHELLS:
        return None
    for place in range(index + 1, len(words)):
        option = words[place]
        if not option.startswith("-"):
            if words[place - 1].endswith("o"):  # The name behind "-o" or "-euo".
                continue
            return None
        if "c" in option and not option.startswith("--"):
            return words[place + 1] if place + 1 < len(words) else None
    return None
