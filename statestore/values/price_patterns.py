"""Which names a price is for: clauses of `genai-prices`, matched in a time that grows only with the name.

Patterns in them are regular expressions without the features that make those slow. They do not use Python's `re`,
which tries one path after another, and for a pattern such as `(a+)+$` more paths than it can finish: here all paths
are followed at once. Otherwise anyone who may write a price could stop everybody's appends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Matcher: TypeAlias = Callable[[str], bool]

MAX_PATTERN: Final = 512
"""The longest pattern, and the longest text to compare with, in characters."""
MAX_STEPS: Final = 500
"""The most steps of a compiled pattern; repetitions count as often as they repeat."""
MAX_CLAUSES: Final = 500
MAX_DEPTH: Final = 8


class PatternError(ValueError):
    """A clause or a pattern that cannot be used; the text says why."""


def never(name: str) -> bool:
    """The matcher of a missing clause."""
    return False


def compile_clause(clause: Any) -> Matcher:
    """A matcher for a clause, which takes a name in lower case.

    Raises:
        PatternError: It is not a clause, or is too large.
    """
    return _clause(clause, MAX_DEPTH, [MAX_CLAUSES])


def _clause(clause: Any, depth: int, left: list[int]) -> Matcher:
    if clause is None or clause == {}:
        return never
    left[0] -= 1
    if not depth or not left[0]:
        raise PatternError(f"has more than {MAX_CLAUSES} clauses, or clauses nested more than {MAX_DEPTH} deep")
    if not isinstance(clause, Mapping) or len(clause) != 1:
        raise PatternError("a clause must be a mapping with one key")
    [(kind, value)] = clause.items()
    if kind in ("or", "and"):
        if not isinstance(value, list | tuple):
            raise PatternError(f"{kind!r} takes a list of clauses")
        parts = [_clause(part, depth - 1, left) for part in value]
        if kind == "or":
            return lambda name: any(part(name) for part in parts)
        return lambda name: all(part(name) for part in parts)
    if kind not in ("equals", "starts_with", "ends_with", "contains", "regex"):
        raise PatternError(f"{kind!r} is not a kind of clause")
    if not isinstance(value, str) or len(value) > MAX_PATTERN:
        raise PatternError(f"{kind!r} takes a string of at most {MAX_PATTERN} characters")
    if kind == "regex":
        return compile_pattern(value)
    text = value.lower()
    if kind == "equals":
        return lambda name: name == text
    if kind == "starts_with":
        return lambda name: name.startswith(text)
    return (lambda name: name.endswith(text)) if kind == "ends_with" else (lambda name: text in name)


def compile_pattern(pattern: str) -> Matcher:
    r"""A matcher that tells whether a pattern is found in a text.

    A pattern may have: characters, `.`, classes such as `[a-z]`, `\d`, `\w`, `\s` and their opposites, `^`, `$`,
    groups, `|`, `?`, `*`, `+`, `{2}`, `{2,3}`; and, right after a `^` at its very beginning, `(?!…)` and `(?=…)`.

    Raises:
        PatternError: The pattern has something else, or is too large.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"the pattern has more than {MAX_PATTERN} characters")
    parser = _Parser(pattern)
    conditions = parser.conditions()
    program = parser.program()

    def found(text: str) -> bool:
        return all(_search(ahead, text, here=True) is wanted for wanted, ahead in conditions) and _search(program, text)

    return found


# A step is a test of a character, which leads to the next step if it passes; or one of these, which take no character.


@dataclass(frozen=True, slots=True)
class _Fork:
    """Continue at all of these steps, given as distances from here."""

    steps: tuple[int, ...]


_START, _END, _DONE = object(), object(), object()
_Program: TypeAlias = list[Any]


def _search(program: _Program, text: str, *, here: bool = False) -> bool:
    """Whether *program* is found in *text*; with *here*, at its beginning."""
    states = _reached(program, {0}, at_start=True, at_end=not text)
    for index, character in enumerate(text, 1):
        if None in states:
            return True
        onward = {state + 1 for state in states if state is not None and program[state](character)}
        if not here:
            onward.add(0)
        elif not onward:
            return False
        states = _reached(program, onward, at_start=False, at_end=index == len(text))
    return None in states


def _reached(program: _Program, states: set[int], *, at_start: bool, at_end: bool) -> set[int | None]:
    """The tests of a character that come next; None for a path that has matched completely."""
    tests: set[int | None] = set()
    waiting, seen = list(states), set(states)
    while waiting:
        state = waiting.pop()
        step = program[state]
        onward: list[int] = []
        if step is _DONE:
            tests.add(None)
        elif isinstance(step, _Fork):
            onward = [state + away for away in step.steps]
        elif step is _START or step is _END:
            onward = [state + 1] * (at_start if step is _START else at_end)
        else:
            tests.add(state)
        waiting += [state for state in onward if state not in seen]
        seen.update(onward)
    return tests


_CLASSES: dict[str, Matcher] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}


def _opposite(test: Matcher) -> Matcher:
    return lambda character: not test(character)


def _one(wanted: str) -> Matcher:
    return lambda character: character == wanted


class _Parser:
    """Turns the text of a pattern into steps."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def conditions(self) -> list[tuple[bool, _Program]]:
        """The contents of `(?!…)` and `(?=…)` at the very beginning, and whether each must be found there."""
        found: list[tuple[bool, _Program]] = []
        if not self._takes("^"):
            return found
        while self._pattern.startswith(("(?!", "(?="), self._at):
            self._at += 3
            wanted = self._pattern[self._at - 1] == "="
            ahead = self._alternatives()
            self._expect(")")
            found.append((wanted, [*ahead, _DONE]))
        self._at = 0 if not found else self._at
        return found

    def program(self) -> _Program:
        # What follows a condition is anchored at the beginning, too; a branch after a | would not be.
        steps = [_START, *self._sequence()] if self._at else self._alternatives()
        if self._at < len(self._pattern):
            raise self._error("unexpected character")
        return self._sized([*steps, _DONE])

    def _alternatives(self) -> _Program:
        self._depth += 1
        if self._depth > MAX_DEPTH * 4:
            raise self._error("groups are nested too deeply")
        steps = self._sequence()
        while self._takes("|"):
            other = self._sequence()
            steps = self._sized([_Fork((1, len(steps) + 2)), *steps, _Fork((len(other) + 1,)), *other])
        self._depth -= 1
        return steps

    def _sequence(self) -> _Program:
        steps: _Program = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            steps = self._sized([*steps, *self._repeated(self._atom())])
        return steps

    def _repeated(self, atom: _Program) -> _Program:
        bounds = self._bounds()
        if bounds is None:
            return atom
        least, most = bounds
        self._takes("?")  # Lazy or greedy makes no difference here.
        if self._peek() in ("?", "*", "+"):
            raise self._error("this repeats a repetition")
        size = len(atom)
        if most is None:
            steps = atom * least + [_Fork((1, size + 2)), *atom, _Fork((-size - 1,))]
        else:
            if (size + 1) * most > MAX_STEPS:
                raise self._error(f"the pattern has more than {MAX_STEPS} steps")
            optional = most - least
            steps = list(atom * least)
            for number in range(optional):
                steps += [_Fork((1, (optional - number) * (size + 1))), *atom]
        return self._sized(steps)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("?", (0, 1)), ("*", (0, None)), ("+", (1, None))):
            if self._takes(sign):
                return bounds
        if not self._takes("{"):
            return None
        end = self._pattern.find("}", self._at)
        least, comma, most = self._pattern[self._at : max(end, 0)].partition(",")
        if not (least.isascii() and least.isdecimal() and len(least) < 4) or (
            most and not (most.isascii() and most.isdecimal() and len(most) < 4)
        ):
            raise self._error("a repetition looks like {2}, {2,} or {2,3}")
        self._at = end + 1
        highest = int(least) if not comma else int(most) if most else None
        if highest is not None and highest < int(least):
            raise self._error("a repetition has a maximum below its minimum")
        if int(least) > MAX_STEPS:
            raise self._error(f"the pattern has more than {MAX_STEPS} steps")
        return int(least), highest

    def _atom(self) -> _Program:
        character = self._next()
        if character == "(":
            if self._peek() == "?" and not self._takes("?:"):
                raise self._error("(?: is the only group with (? that is supported")
            steps = self._alternatives()
            self._expect(")")
            return steps
        if character == "[":
            return [self._class()]
        if character == "\\":
            return [self._escaped()]
        if character in "*+?{":
            raise self._error("there is nothing to repeat")
        if character == "^":
            return [_START]
        if character == "$":
            return [_END]
        return [_opposite(_one("\n")) if character == "." else _one(character)]

    def _escaped(self) -> Matcher:
        character = self._next()
        if character.lower() in _CLASSES:
            test = _CLASSES[character.lower()]
            return _opposite(test) if character.isupper() else test
        if character in _CONTROLS:
            return _one(_CONTROLS[character])
        if character.isalnum():
            raise self._error(f"\\{character} is not supported")
        return _one(character)

    def _class(self) -> Matcher:
        negated = self._takes("^")
        tests: list[Matcher] = []
        first = True
        while first or self._peek() != "]":
            first = False
            character = self._next()
            if character == "\\" and self._peek().lower() in _CLASSES:
                tests.append(self._escaped())
                continue
            low = self._plain(character)
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._plain(self._next())
                if high < low:
                    raise self._error("a range is in reverse order")
                tests.append(lambda character, low=low, high=high: low <= character <= high)  # type: ignore[misc]
            else:
                tests.append(_one(low))
        self._at += 1

        def test(character: str) -> bool:
            return any(test(character) for test in tests)

        return _opposite(test) if negated else test

    def _plain(self, character: str) -> str:
        """A character inside a class, which may be escaped."""
        if character != "\\":
            return character
        character = self._next()
        if character.isalnum() and character not in _CONTROLS:
            raise self._error(f"\\{character} is not supported")
        return _CONTROLS.get(character, character)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise self._error("it ends too early")
        self._at += 1
        return character

    def _takes(self, text: str) -> bool:
        taken = self._pattern.startswith(text, self._at)
        self._at += len(text) * taken
        return taken

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            raise self._error(f"{text!r} is missing")

    def _sized(self, steps: _Program) -> _Program:
        if len(steps) > MAX_STEPS:
            raise self._error(f"the pattern has more than {MAX_STEPS} steps")
        return steps

    def _error(self, problem: str) -> PatternError:
        return PatternError(f"the pattern cannot be used: {problem} (at character {self._at})")
