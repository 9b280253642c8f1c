"""The filter language of lists: `status = pending and (metadata.shop = "7" or not amount >= 100)`. Text in, a tree out. Pure.

Each list says which fields it knows (`Fields`). A condition is true or false, never unknown: what a row does not have
equals nothing, so `not reference = x` and `reference != x` both take rows without a reference.

    filter    = all { "or" all }
    all       = one { "and" one }
    one       = "not" one | "(" filter ")" | condition
    condition = field operator value | field "in" "(" value { "," value } ")"
    operator  = "=" | "!=" | "<" | "<=" | ">" | ">="
    field     = word | "metadata." word | "metadata." text | "amount." word
    value     = word | text            text = a JSON string; word = letters, digits and _ . : / * + - @
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from shared_kernel.errors import Rejection
from shared_kernel.words import Pattern, parse_time

LENGTH_MAX = 2_000  # chosen: a filter is written by hand or by a form
CONDITIONS_MAX = 20  # chosen: bounds the statement that is made of it
DEPTH_MAX = 10  # chosen: brackets and nots in each other
AMOUNT_DIGITS_MAX = 60  # chosen: 500 entries of the largest amount together have 42
TEXT_LENGTH_MAX = 512  # the longest that is stored is a description

Kind = Literal["text", "choice", "pattern", "amount", "time", "flag", "metadata"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
Literals = str | int | bool | datetime

_OPERATORS: Mapping[Kind, tuple[Operator, ...]] = {
    "text": ("=", "!=", "in"),
    "choice": ("=", "!=", "in"),
    "pattern": ("=", "!=", "in"),
    "amount": ("=", "!=", "<", "<=", ">", ">="),
    "time": ("<", "<=", ">", ">="),
    "flag": ("=", "!="),
    "metadata": ("=", "!=", "in"),
}
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\\x00-\x1f]|\\.)*")|(?P<sign>!=|<=|>=|[=<>(),])|(?P<word>[\w.:/*+@-]+))', re.ASCII
)
_KEYED: frozenset[Kind] = frozenset(("metadata", "amount"))
_KEYWORDS = frozenset(("and", "or", "not", "in"))
_read_text = msgspec.json.Decoder(str).decode


class Field(NamedTuple):
    """A field that conditions may name. `choices`: the only values of a choice."""

    kind: Kind
    choices: tuple[str, ...] = ()


Fields = Mapping[str, Field]


class Condition(NamedTuple):
    """One field compared. `key`: of metadata; of an amount its asset. `values`: several for `in`, else one."""

    field: str
    kind: Kind
    operator: Operator
    values: tuple[Literals, ...]
    key: str | None = None


class All(NamedTuple):
    """Every part holds; without parts it always does."""

    parts: tuple["Tree", ...]


class Either(NamedTuple):
    """At least one part holds."""

    parts: tuple["Tree", ...]


class Not(NamedTuple):
    """The part does not hold."""

    part: "Tree"


Tree = Condition | All | Either | Not
EVERYTHING = All(())


class _Token(NamedTuple):
    kind: Literal["text", "sign", "word", "end"]
    text: str
    at: int


def parse(text: str | None, fields: Fields) -> Tree:
    """The tree of a filter; of none, one that everything fits. Rejection `invalid_request` on `filter`, with where and why."""
    if text is None:
        return EVERYTHING
    if len(text) > LENGTH_MAX:
        raise _wrong(f"longer than {LENGTH_MAX} characters", LENGTH_MAX)
    return _Parser(text, fields).whole()


def conjuncts(tree: Tree) -> Iterator[Condition]:
    """The conditions that every fitting row fulfils: what an index may be chosen by."""
    if isinstance(tree, Condition):
        yield tree
    elif isinstance(tree, All):
        for part in tree.parts:
            yield from conjuncts(part)


def alternatives(tree: Tree) -> Iterator[tuple[Tree, ...]]:
    """Parts of which every fitting row fulfils at least one, each time: what several looks at an index may be chosen by."""
    if isinstance(tree, Either):
        yield tree.parts
    elif isinstance(tree, Condition) and len(tree.values) > 1:
        yield tuple(tree._replace(values=(value,)) for value in tree.values)
    elif isinstance(tree, All):
        for part in tree.parts:
            yield from alternatives(part)


def both(one: Tree, other: Tree) -> Tree:
    """What fits both."""
    if other == EVERYTHING:
        return one
    return other if one == EVERYTHING else All((one, other))


class _Parser:
    """Recursive descent over the tokens; one look-ahead."""

    def __init__(self, text: str, fields: Fields) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._fields = fields
        self._conditions = 0

    def whole(self) -> Tree:
        tree = self._either(0)
        if self._peek().kind != "end":
            raise _wrong("expected `and`, `or` or the end", self._peek().at)
        return tree

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> bool:
        token = self._peek()
        if token.kind in ("sign", "word") and token.text in texts:
            self._next += 1
            return True
        return False

    def _either(self, depth: int) -> Tree:
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _all(self, depth: int) -> Tree:
        parts = [self._one(depth)]
        while self._take("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int) -> Tree:
        if depth > DEPTH_MAX:
            raise _wrong(f"nested deeper than {DEPTH_MAX} levels", self._peek().at)
        if self._take("not"):
            return Not(self._one(depth + 1))
        if self._take("("):
            tree = self._either(depth + 1)
            self._expect(")")
            return tree
        return self._condition()

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise _wrong(f"expected `{sign}`", self._peek().at)

    def _condition(self) -> Condition:
        at = self._peek().at
        name, field, key = self._field()
        operator = self._operator(name, field.kind)
        if operator == "in":
            self._expect("(")
            values = [self._value(field, operator)]
            while self._take(","):
                values.append(self._value(field, operator))
            self._expect(")")
        else:
            values = [self._value(field, operator)]
        self._conditions += len(values)
        if self._conditions > CONDITIONS_MAX:
            raise _wrong(f"more than {CONDITIONS_MAX} values", at)
        return Condition(name, field.kind, operator, tuple(values), key)

    def _field(self) -> tuple[str, Field, str | None]:
        token = self._peek()
        if token.kind != "word" or token.text in _KEYWORDS:
            raise _wrong("expected a field", token.at)
        self._next += 1
        name, dot, key = token.text.partition(".")
        field = self._fields.get(name)
        if field is None or (dot and field.kind not in _KEYED) or (not dot and field.kind == "metadata"):
            known = ", ".join(name if of.kind != "metadata" else "metadata.<key>" for name, of in self._fields.items())
            raise _wrong(f"no such field; there are {known}", token.at)
        if dot and not key:
            after = self._peek()
            if after.kind != "text":
                raise _wrong("expected what comes after the dot", after.at)
            self._next += 1
            key = _bounded(_read_text(after.text), after.at)
        return name, field, key if dot else None

    def _operator(self, name: str, kind: Kind) -> Operator:
        token = self._peek()
        for operator in _OPERATORS[kind]:
            if self._take(operator):
                return operator
        raise _wrong(f"expected one of {' '.join(_OPERATORS[kind])} after {name}", token.at)

    def _value(self, field: Field, operator: Operator) -> Literals:
        token = self._peek()
        if token.kind not in ("text", "word") or (token.kind == "word" and token.text in _KEYWORDS):
            raise _wrong("expected a value", token.at)
        self._next += 1
        text = _bounded(_read_text(token.text), token.at) if token.kind == "text" else token.text
        try:
            return _literal(field, text)
        except ValueError as error:
            raise _wrong(str(error), token.at) from None


def _literal(field: Field, text: str) -> Literals:
    """The value of a field's kind. ValueError says what it should have been."""
    match field.kind:
        case "choice":
            if text not in field.choices:
                raise ValueError(f"expected one of {', '.join(field.choices)}")
        case "pattern":
            Pattern.parse(text)
        case "amount":
            if not (text.isascii() and text.isdigit() and len(text) <= AMOUNT_DIGITS_MAX):
                raise ValueError(f"expected an amount: at most {AMOUNT_DIGITS_MAX} digits")
            return int(text)
        case "time":
            return parse_time(text)
        case "flag":
            if text not in ("true", "false"):
                raise ValueError("expected true or false")
            return text == "true"
    return text


def _tokens(text: str) -> Iterator[_Token]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise _wrong("neither a word, a sign nor a text in double quotes", start)
        kind = found.lastgroup
        assert kind is not None  # noqa: S101 - one of the three alternatives matched
        start = found.start(kind)
        if kind == "text":
            try:
                _read_text(found[kind])
            except msgspec.DecodeError:
                raise _wrong("not a JSON string", start) from None
        yield _Token(kind, found[kind], start)  # type: ignore[arg-type] # the names of the groups are the kinds
        at = found.end()
    yield _Token("end", "", end)


def _bounded(text: str, at: int) -> str:
    if len(text) > TEXT_LENGTH_MAX or "\0" in text:
        raise _wrong(f"a text longer than {TEXT_LENGTH_MAX} characters, or with the character NUL", at)
    return text


def _wrong(why: str, at: int) -> Rejection:
    return Rejection("invalid_request", detail=f"At character {at + 1}: {why}", path="filter")
