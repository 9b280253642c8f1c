"""Made-up commands of every kind over a few accounts and transactions, small amounts, so that rules are met often."""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.recipes import some

Json = dict[str, Any]
ACCOUNTS = ("free", "cash", "floor:a", "floor:b", "roof:a", "both:a", "high:a")
ASSETS = ("X", "Y/2")


class Told(NamedTuple):
    """A command: its wire name, its body (path parameters included), the minutes that pass before it, and which clerk is told."""

    kind: str
    body: Json
    minutes: int
    clerk: int


LEDGER: Json = {
    "ledger": "bank",
    "defaults": [
        {"pattern": "floor:*", "limits": {"X": {"minimum": 0}}},
        {"pattern": "roof:*", "normal_balance": "debit", "limits": {"X": {"maximum": 20}}},
        {"pattern": "high:*", "limits": {"X": {"minimum": 10}}},  # begins in breach
        {"pattern": "both:*", "limits": {"X": {"minimum": -5, "maximum": 15}, "Y/2": {"minimum": 0}}},
    ],
}
TIMES = ("2026-11-24T09:40:00Z", "2026-11-24T10:30:00Z", "2026-11-24T09:00:00Z", "2031-01-01T00:00:00Z")
addresses = st.sampled_from(ACCOUNTS)
transactions = st.sampled_from(("t0", "t1", "t2", "t3", "t4", "t5"))
references = st.sampled_from(("r1", "r2", "r3"))
times = st.sampled_from(TIMES)
patches = st.dictionaries(st.sampled_from(("a", "b", "c")), st.one_of(st.none(), st.just("v")), min_size=1)
limits = st.dictionaries(
    st.sampled_from(ASSETS),
    st.fixed_dictionaries({}, optional={"minimum": st.integers(-10, 5), "maximum": st.integers(6, 20)}),
    max_size=2,
)


@st.composite
def entries(draw: st.DrawFn) -> list[Json]:
    """Balanced entries."""
    found: list[Json] = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        asset, amount = draw(st.sampled_from(("X", "X", "Y/2"))), draw(st.integers(1, 12))
        found += moves(draw(addresses), draw(addresses), amount, asset)
    return draw(st.permutations(found)) if len(found) > 2 else found


@st.composite
def conditions(draw: st.DrawFn) -> list[Json]:
    """One or two of any form."""
    found: list[Json] = []
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from(("balance", "balance", "position", "head"))):
            case "balance":
                name, value = draw(st.sampled_from((("gte", -8), ("gte", 0), ("lte", 8), ("lte", 20), ("eq", 0))))
                balance = draw(st.sampled_from(("posted", "pending", "available")))
                account, asset = draw(addresses), draw(st.sampled_from(ASSETS))
                found.append({"account": account, "asset": asset, "balance": balance, name: value})
            case "position":
                found.append({"account": draw(addresses), "last_position": draw(st.sampled_from((0, 2, 3, 4)))})
            case "head":
                found.append({"head": draw(st.integers(1, 6))})
    return found


def moves(debit: str, credit: str, amount: int, asset: str = "X") -> list[Json]:
    """One amount from here to there."""
    return [
        {"account": account, "direction": direction, "amount": amount, "asset": asset}
        for account, direction in ((debit, "debit"), (credit, "credit"))
    ]


parts = st.builds(
    lambda way, amount: moves(*way, amount),
    st.sampled_from((("cash", "floor:a"), ("floor:a", "free"), ("floor:b", "roof:a"))),
    st.integers(1, 10),
)
"""Parts of what the prelude posts and holds."""
_postings = some(
    id=(10, transactions),
    status=(6, st.sampled_from(("pending", "pending", "scheduled"))),
    reference=(1, references),
    effective_at=(1, times),
    expires_at=(3, times),
    conditions=(1, conditions()),
    balances=(3, st.just("known")),
    metadata=(1, st.just({"a": "v"})),
)
_ends = some(
    entries=(4, st.one_of(entries(), parts)),
    keep_remainder=(5, st.booleans()),
    effective_at=(1, times),
    conditions=(1, conditions()),
    balances=(3, st.just("known")),
)
_reversals = some(
    entries=(5, st.one_of(entries(), parts)),
    id=(4, transactions),
    effective_at=(4, st.sampled_from((TIMES[0], "original", "original"))),
    reference=(1, references),
    force=(3, st.booleans()),
    conditions=(1, conditions()),
    balances=(3, st.just("known")),
)


@st.composite
def postings(draw: st.DrawFn) -> tuple[str, Json]:
    """Posted, held or scheduled, and nothing in it that the edge would turn away."""
    body = {"entries": draw(entries()), **draw(_postings)}
    if body.get("status") != "pending":
        body.pop("expires_at", None)
    if body.get("status") == "scheduled":
        body.pop("conditions", None)
        body.pop("balances", None)
        body.setdefault("effective_at", TIMES[0])
    return "post_transaction", body


@st.composite
def on_transactions(draw: st.DrawFn) -> tuple[str, Json]:
    """What may become of a transaction."""
    kind = draw(st.sampled_from(_ON_TRANSACTIONS))
    body = {"transaction": draw(transactions)}
    match kind:
        case "post_hold":
            named = draw(_ends)
        case "reverse_transaction":
            named = draw(_reversals)
        case "patch_transaction_metadata":
            named = {"metadata": draw(patches)}
        case _:
            named = {}
    return kind, body | named


@st.composite
def on_accounts(draw: st.DrawFn) -> tuple[str, Json]:
    """What may become of an account."""
    kind = draw(st.sampled_from(_ON_ACCOUNTS))
    body: Json = {"address": draw(addresses)}
    match kind:
        case "open_account":
            body |= draw(some(normal_balance=(6, st.sampled_from(("debit", "credit"))), limits=(6, limits)))
        case "set_limits":
            body |= {"limits": draw(limits)} | draw(some(conditions=(2, conditions())))
        case "close_account":
            body |= draw(some(conditions=(2, conditions())))
        case "freeze_account":
            body |= draw(some(scope=(9, st.sampled_from(("all", "debits", "credits")))))
        case "patch_account_metadata":
            body |= {"metadata": draw(patches)}
    return kind, body


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, Json]:
    """A command: its wire name and its body, path parameters included."""
    number = draw(st.integers(0, 39))
    if number < 18:
        return draw(postings())
    if number < 32:
        return draw(on_transactions())
    if number < 38:
        return draw(on_accounts())
    if number == 38:
        return "patch_ledger_metadata", {"metadata": draw(patches)}
    return draw(st.sampled_from(("archive_ledger", "reopen_ledger", "reopen_ledger"))), {}


_ON_TRANSACTIONS = (
    *("post_hold", "post_hold", "post_hold", "void_hold", "expire_hold", "reverse_transaction", "reverse_transaction"),
    *("post_scheduled", "post_scheduled", "cancel_scheduled", "patch_transaction_metadata"),
)
_ON_ACCOUNTS = (
    *(
        "open_account",
        "set_limits",
        "set_limits",
        "freeze_account",
        "unfreeze_account",
        "close_account",
        "close_account",
    ),
    *("reopen_account", "patch_account_metadata"),
)


PRELUDE: tuple[tuple[str, Json], ...] = (
    ("post_transaction", {"id": "t0", "entries": [*moves("cash", "floor:a", 12), *moves("cash", "floor:b", 9)]}),
    ("post_transaction", {"id": "t1", "status": "pending", "entries": moves("floor:a", "free", 8)}),
    (
        "post_transaction",
        {"id": "t2", "status": "pending", "entries": moves("floor:b", "roof:a", 6), "expires_at": TIMES[0]},
    ),
    (
        "post_transaction",
        {"id": "t3", "status": "scheduled", "entries": moves("floor:a", "floor:b", 3), "effective_at": TIMES[0]},
    ),
)
_ways = st.sampled_from((("floor:a", "cash"), ("floor:a", "roof:a"), ("roof:a", "floor:a"), ("cash", "floor:a")))


@st.composite
def rushed(draw: st.DrawFn) -> tuple[str, Json]:
    """Two limited accounts on which everybody draws, and little besides."""
    number = draw(st.integers(0, 15))
    if number == 0:
        return "set_limits", {"address": "floor:a", "limits": draw(limits)}
    if number < 4:
        return draw(st.sampled_from(("void_hold", "post_hold", "reverse_transaction"))), {
            "transaction": draw(transactions)
        }
    body: Json = {"entries": moves(*draw(_ways), draw(st.integers(3, 12)))}
    body |= draw(
        some(
            id=(4, transactions),
            status=(4, st.just("pending")),
            conditions=(
                1,
                st.integers(5, 12).map(lambda position: [{"account": "floor:a", "last_position": position}]),
            ),
            balances=(2, st.just("known")),
        )
    )
    return "post_transaction", body


def _told(kinds: st.SearchStrategy[tuple[str, Json]]) -> st.SearchStrategy[Told]:
    clerks = st.integers(0, 1)
    return st.builds(lambda one, *rest: Told(*one, *rest), kinds, st.sampled_from((0, 0, 0, 20)), clerks)


_beginnings = st.sampled_from((4, 4, 4, 1)).map(lambda length: [Told(*one, 0, 0) for one in PRELUDE[:length]])
histories = st.one_of(
    st.builds(list.__add__, _beginnings, st.lists(_told(asked()), min_size=6, max_size=30)),
    st.builds(list.__add__, _beginnings, st.lists(_told(rushed()), min_size=6, max_size=20)),
)
"""Most begin with a posting, two holds and one that is scheduled. Half of them are a rush on few accounts."""
