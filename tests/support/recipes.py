"""Commands for model-based tests: Hypothesis draws a recipe, the oracle's books at that moment make a command of it.

A recipe is small numbers and words only, so that shrinking stays simple; which transaction "the second pending one" is, and
what half of its amount is, follows from the books.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import strategies as st

from shared_kernel.words import AMOUNT_MAX, format_time
from tests.support.oracle_books import Books, Json, Transaction, entries_of
from tests.support.oracle_http import Command

ACCOUNTS = ("a", "b", "users:1:wallet", "users:2:wallet", "pool:1", "pool:2")
ASSETS = ("X", "X", "X", "X", "X", "Y/2")
DEFAULTS: list[Json] = [
    {"pattern": "users:*:wallet", "limits": {"X": {"minimum": 0}}},
    {"pattern": "pool:**", "normal_balance": "debit", "limits": {"X": {"minimum": -10, "maximum": "60"}}},
]
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MOMENTS = {"past": -400 * DAY, "an hour": HOUR, "tomorrow": DAY, "too late": 400 * DAY}
OPEN_STATES = {
    "post_hold": "pending",
    "void_hold": "pending",
    "expire_hold": "pending",
    "cancel_scheduled": "scheduled",
}
OPEN_STATES |= {"post_scheduled": "scheduled", "reverse_transaction": "posted", "patch_transaction_metadata": "posted"}


class Recipe(NamedTuple):
    """`body`: what goes out as it is. `pick`: which transaction; `part`: how much of it; `moment`: a time by its name."""

    kind: str
    body: Json
    pick: int = 0
    part: str | None = None
    moment: str | None = None
    expires: str | None = None


def _recipe(kind: str, body: Json, pick: int = 0, **more: str | None) -> Recipe:
    """For strategies: Hypothesis would make up what a NamedTuple is not given."""
    return Recipe(kind, body, pick, **more)  # type: ignore[arg-type]


def command(recipe: Recipe, books: Books, now: datetime) -> Command:
    """The command that the recipe stands for, on these books."""
    body = dict(recipe.body)
    if recipe.moment is not None:
        body["effective_at"] = "original" if recipe.moment == "original" else at(now, recipe.moment)
    if recipe.expires:
        body["expires_at"] = at(now, recipe.expires)
    if recipe.kind in OPEN_STATES:
        transaction = _picked(recipe, books)
        body["transaction"] = transaction.id if transaction else "nowhere"
        if recipe.part is not None and transaction is not None:
            body["entries"] = _entries(recipe, transaction)
    if "conditions" in body:
        body["conditions"] = [_condition(condition, books) for condition in body["conditions"]]
    return Command(books.name, recipe.kind, body)


def at(now: datetime, name: str) -> str:
    """A moment by its name, as a client writes it."""
    return format_time(now + MOMENTS[name])


def _picked(recipe: Recipe, books: Books) -> Transaction | None:
    """Mostly one in the state that the command is about, sometimes any, sometimes none."""
    fitting = [each for each in books.transactions.values() if each.status == OPEN_STATES[recipe.kind]]
    if recipe.pick == 9:
        return None
    if recipe.pick >= 7 or not fitting:
        fitting = list(books.transactions.values())
    return fitting[-1 - recipe.pick % len(fitting)] if fitting else None


def _entries(recipe: Recipe, transaction: Transaction) -> list[Json]:
    """Entries on what the transaction holds or posted: balanced in every asset, as all amounts change alike."""
    amounts = transaction.held if recipe.kind == "post_hold" else transaction.posted
    left = {place: amount - transaction.reversed.get(place, 0) for place, amount in amounts.items()}
    amounts = amounts if recipe.kind == "post_hold" else left
    entries = entries_of(amounts) or transaction.entries
    if recipe.part == "other":
        return [_entry("a", direction, 1, entries[0]["asset"]) for direction in ("debit", "credit")]
    pairs = len(entries) == 2 and entries[0]["amount"] == entries[1]["amount"]
    of = {"all": 0, "half": -(entries[0]["amount"] // 2), "more": 1}[str(recipe.part)] if pairs else 0
    return [entry | {"amount": min(max(entry["amount"] + of, 1), AMOUNT_MAX)} for entry in entries]


def _condition(condition: Json, books: Books) -> Json:
    """`off` beside a position is how far it lies from the true one."""
    condition = dict(condition)
    off = condition.pop("off", 0)
    if "head" in condition:
        condition["head"] = max(books.head + off, 1)
    elif "last_position" in condition:
        condition["last_position"] = max(books.touched.get(condition["account"], 0) + off, 0)
    return condition


# Strategies -------------------------------------------------------------------------------------------------

accounts = st.sampled_from(ACCOUNTS)
assets = st.sampled_from(ASSETS)
small = st.integers(1, 12)
amounts = st.integers(0, 29).flatmap(
    lambda one: small.map(str) if one < 9 else st.just(AMOUNT_MAX) if one == 29 else small
)
"""Small, so that limits are met often; what is beyond all limits buries them, and is rare."""
metadata = st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["v", "ü"]), min_size=1)
picks = st.integers(0, 9)
bounds = st.one_of(st.none(), st.integers(-12, 25), st.integers(-12, 25).map(str))


@st.composite
def some(draw: st.DrawFn, **fields: tuple[int, st.SearchStrategy[Any]]) -> Json:
    """Each of the fields in so many of twelve cases."""
    return {name: draw(value) for name, (often, value) in fields.items() if draw(st.integers(0, 11)) >= 12 - often}


@st.composite
def _limits(draw: st.DrawFn) -> Json:
    found = {}
    for asset in draw(st.sets(st.sampled_from(["X", "Y/2"]))):
        low, high = draw(bounds), draw(bounds)
        if low is not None and high is not None and int(low) > int(high):
            low, high = high, low
        found[asset] = {"minimum": low, "maximum": high}
    return found


@st.composite
def _conditions(draw: st.DrawFn) -> list[Json]:
    balance = st.fixed_dictionaries(
        {"account": accounts, "asset": assets, "balance": st.sampled_from(["posted", "pending", "available"])},
        optional={"gte": st.integers(-10, 10), "lte": st.integers(0, 100), "eq": st.integers(0, 5).map(str)},
    ).filter(lambda condition: condition.keys() & {"gte", "lte", "eq"})
    off = st.sampled_from([0, 0, 0, -1, 1])
    last = st.fixed_dictionaries({"account": accounts, "last_position": st.just(0), "off": off})
    head = st.fixed_dictionaries({"head": st.just(1), "off": off})
    return draw(st.lists(st.one_of(balance, last, head), min_size=1, max_size=2))


def _entry(account: str, direction: str, amount: Any, asset: str) -> Json:
    return {"account": account, "direction": direction, "amount": amount, "asset": asset}


_drawn = [
    ("users:1:wallet", "b"),
    ("users:1:wallet", "users:2:wallet"),
    ("users:2:wallet", "a"),
    ("a", "pool:1"),
    ("pool:1", "b"),
]
_ways = st.one_of(st.sampled_from(_drawn), st.sampled_from(_drawn), st.tuples(accounts, accounts))
"""From where to where: mostly so that a limit of the first terms matters."""


@st.composite
def _transfers(draw: st.DrawFn) -> list[Json]:
    """Two to six entries: as many transfers one after the other."""
    entries = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        (source, target), amount, asset = draw(_ways), draw(amounts), draw(assets)
        entries += [
            _entry(source, "debit", amount, asset),
            _entry(target, "credit", int(amount) if draw(st.booleans()) else amount, asset),
        ]
    return entries


def _with(fixed: st.SearchStrategy[Json], more: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.builds(lambda one, other: one | other, fixed, more)


def posting() -> st.SearchStrategy[Recipe]:
    """Transactions that are posted, held or scheduled."""
    names = {
        "id": (3, st.sampled_from(["t1", "t2", "t3"])),
        "reference": (1, st.sampled_from(["r1", "r2", "r3"])),
        "description": (1, st.just("text")),
        "metadata": (1, metadata),
    }

    def made(fixed: Json, fields: Any, **moments: Any) -> st.SearchStrategy[Recipe]:
        body = st.fixed_dictionaries({"entries": _transfers()}).map(lambda given: given | fixed)
        return st.builds(_recipe, st.just("post_transaction"), _with(body, some(**fields)), **moments)

    later = st.sampled_from([None] * 10 + ["past", "too late"])
    expires = st.sampled_from([None] * 5 + ["an hour"] * 5 + ["past"])
    due = st.sampled_from(["tomorrow"] * 6 + ["past", "too late"])
    posted = made({}, names | _ASKED, moment=later)
    held = made({"status": "pending"}, names | _ASKED, moment=later, expires=expires)
    return st.one_of(posted, posted, held, held, made({"status": "scheduled"}, names, moment=due))


def of_transactions() -> st.SearchStrategy[Recipe]:
    """What becomes of transactions."""
    parts = st.sampled_from([None, "all", "half", "half", "half", "more", "other"])
    keep = {"keep_remainder": (5, st.booleans())}
    new = {
        "id": (2, st.sampled_from(["t4", "t5"])),
        "reference": (1, st.sampled_from(["r1", "r3"])),
        "metadata": (1, metadata),
        "force": (3, st.booleans()),
    }
    patch = st.fixed_dictionaries({"metadata": _patches()})

    def made(kind: str, fields: Any, **others: Any) -> st.SearchStrategy[Recipe]:
        return st.builds(_recipe, st.just(kind), some(**fields), picks, **others)

    hold = made("post_hold", _ASKED | keep, part=parts, moment=st.sampled_from([None] * 8 + ["past", "too late"]))
    reversal = made(
        "reverse_transaction", _ASKED | new, part=parts, moment=st.sampled_from([None, None, "original", "past"])
    )
    return st.one_of(
        hold,
        hold,
        made("void_hold", {}),
        reversal,
        reversal,
        made("cancel_scheduled", {}),
        st.builds(_recipe, st.just("patch_transaction_metadata"), patch, picks),
    )


def of_terms() -> st.SearchStrategy[Recipe]:
    """What becomes of accounts and of notes on the ledger."""
    condition = {"conditions": (2, _conditions())}
    terms = {
        "normal_balance": (6, st.sampled_from(["debit", "credit"])),
        "limits": (6, _limits()),
        "metadata": (2, metadata),
    }

    def made(kind: str, more: Any, **fixed: Any) -> st.SearchStrategy[Recipe]:
        return st.builds(
            _recipe, st.just(kind), _with(st.fixed_dictionaries({"address": accounts} | fixed), some(**more))
        )

    limits = made("set_limits", condition, limits=_limits())
    freeze = made("freeze_account", {"scope": (9, st.sampled_from(["all", "debits", "credits"]))})
    unfreeze, reopen = made("unfreeze_account", {}), made("reopen_account", {})
    return st.one_of(
        made("open_account", terms),
        limits,
        freeze,
        unfreeze,
        unfreeze,
        made("close_account", condition),
        reopen,
        reopen,
        made("patch_account_metadata", {}, metadata=_patches()),
        st.builds(_recipe, st.just("patch_ledger_metadata"), st.fixed_dictionaries({"metadata": _patches()})),
        st.builds(_recipe, st.just("reopen_ledger"), st.just({})),
    )


def _patches() -> st.SearchStrategy[Json]:
    few = st.dictionaries(st.sampled_from(["k", "l", "m"]), st.sampled_from(["v", None]), min_size=1)
    return st.integers(0, 7).flatmap(lambda one: st.just({f"many{n}": "v" for n in range(50)}) if one == 7 else few)


_ASKED = {"balances": (3, st.just("known")), "conditions": (1, _conditions())}


def beginning(ledger: str) -> list[Command]:
    """A posting that gives the limited accounts something to lose, and a hold on some of it."""
    moves = [("a", "users:1:wallet", 20), ("a", "users:2:wallet", 15), ("pool:1", "b", 12)]
    entries = [
        _entry(account, direction, amount, "X")
        for source, target, amount in moves
        for account, direction in ((source, "debit"), (target, "credit"))
    ]
    held = [_entry("users:1:wallet", "debit", 8, "X"), _entry("b", "credit", 8, "X")]
    return [
        Command(ledger, "post_transaction", {"id": "t-given", "entries": entries}),
        Command(ledger, "post_transaction", {"id": "t-held", "status": "pending", "entries": held}),
    ]


def recipes() -> st.SearchStrategy[Recipe]:
    """Any command that a client may send to an open ledger, but for archiving it: hardly anything goes after that."""
    return st.one_of(posting(), posting(), posting(), of_transactions(), of_transactions(), of_terms())
