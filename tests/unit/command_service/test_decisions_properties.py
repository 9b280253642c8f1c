"""Properties of the decisions over made-up histories: what must hold whatever is asked, in whatever order."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from command_service.domain.asking import Context, canonical, fingerprint
from command_service.domain.books import Books
from command_service.domain.commands import EntrySpec, PostTransaction
from command_service.domain.state import Account, Terms, evolve_accounts
from command_service.domain.transactions import post_transaction
from shared_kernel import events, tags
from shared_kernel.errors import Refusal
from shared_kernel.events import AccountDefaults, Entry, Event, LedgerOpened, Limit, Metadata, TransactionPosted

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ADDRESSES = ("free", "floor:a", "floor:b", "roof:a", "both:a", "high:a")
LEDGER = LedgerOpened(
    ledger="bank",
    accounts="on-first-use",
    defaults=[
        AccountDefaults(pattern="floor:*", limits={"X": Limit(minimum=0)}),
        AccountDefaults(pattern="roof:*", normal_balance="debit", limits={"X": Limit(maximum=20)}),
        AccountDefaults(pattern="high:*", limits={"X": Limit(minimum=10)}),  # begins in breach
        AccountDefaults(pattern="both:*", limits={"X": Limit(minimum=-5, maximum=15), "Y/2": Limit(minimum=0)}),
    ],
)
METADATA = Metadata(actor="teller", correlation_id="c")


@st.composite
def transactions(draw: st.DrawFn) -> PostTransaction:
    """Balanced entries over few accounts, small amounts, so that limits are met often."""
    entries: list[EntrySpec] = []
    for _ in range(draw(st.integers(1, 3))):
        asset, amount = draw(st.sampled_from(("X", "Y/2"))), draw(st.integers(1, 12))
        debit, credit = draw(st.sampled_from(ADDRESSES)), draw(st.sampled_from(ADDRESSES))
        entries.append(EntrySpec(account=debit, direction="debit", amount=amount, asset=asset))
        entries.append(EntrySpec(account=credit, direction="credit", amount=amount, asset=asset))
    return PostTransaction(entries=draw(st.permutations(entries)))


HISTORIES = st.lists(transactions(), max_size=25)


@given(HISTORIES)
def test_every_accepted_command_was_allowed_and_every_refused_one_was_not(asked: list[PostTransaction]) -> None:
    balances: dict[tuple[str, str], int] = defaultdict(int)
    accounts: dict[str, Account] = {}
    for number, command in enumerate(asked):
        change = net(command, accounts)
        broken = [place for place, by in change.items() if by and worsens(accounts, place, balances[place], by)]
        decided = outcome(lambda command=command, number=number: decide(accounts, command, number))
        if isinstance(decided, tuple):
            fields = dict(decided[1])
            assert (fields["account"], fields["asset"]) in broken
            continue
        assert not broken
        fold(accounts, decided)
        for place, by in change.items():
            balances[place] += by
    for account in accounts.values():
        for asset in account.limits:
            assert account.posted(asset) == balances[account.address, asset]


@given(HISTORIES)
def test_debits_equal_credits_for_every_prefix(asked: list[PostTransaction]) -> None:
    accounts: dict[str, Account] = {}
    sums: dict[str, int] = defaultdict(int)
    for number, command in enumerate(asked):
        try:
            decided = decide(accounts, command, number)
        except Refusal:
            continue
        fold(accounts, decided)
        for event in decided:
            if isinstance(event, TransactionPosted):
                for entry in event.entries:
                    sums[entry.asset] += entry.amount if entry.direction == "debit" else -entry.amount
        assert not any(sums.values())


@given(HISTORIES)
def test_a_batch_decides_as_the_same_commands_one_by_one(asked: list[PostTransaction]) -> None:
    accounts: dict[str, Account] = {}
    books = Books(terms=Terms(opened=LEDGER), accounts={name: Account(address=name) for name in ADDRESSES})
    for number, command in enumerate(asked):
        books.begin()
        in_batch = outcome(lambda command=command, number=number: post_transaction(books, command, context(number)))
        alone = outcome(lambda command=command, number=number: decide(accounts, command, number))
        assert in_batch == alone
        if isinstance(alone, list):
            books.apply(alone)
            fold(accounts, alone)


@given(HISTORIES)
def test_a_decision_that_says_yes_stays_right_when_only_credits_come_between(asked: list[PostTransaction]) -> None:
    """The small boundary (ADR 0001): on a state that misses some credits, an accepted draw is accepted on the full one too."""
    behind: dict[str, Account] = {}
    full: dict[str, Account] = {}
    for number, command in enumerate(asked):
        before = outcome(lambda command=command, number=number: decide(behind, command, number))
        if not isinstance(before, list):
            continue
        assert outcome(lambda command=command, number=number: decide(full, command, number)) == before
        fold(full, before)
        draws_or_fills = {entry.account for event in before for entry in marked(event)}
        opened = {event.address for event in before if isinstance(event, events.AccountOpened)}
        for address in draws_or_fills | opened | {a for a in full if not full[a].limits or fills_matter(full[a])}:
            behind[address] = full[address]


@given(HISTORIES)
def test_events_survive_their_bytes_and_bear_the_tags_of_their_fences(asked: list[PostTransaction]) -> None:
    accounts: dict[str, Account] = {}
    for number, command in enumerate(asked):
        known = {name: accounts.get(name, Account(address=name)) for name in ADDRESSES}
        books = Books(terms=Terms(opened=LEDGER), accounts=known)
        decided = outcome(
            lambda command=command, number=number, books=books: post_transaction(books, command, context(number))
        )
        if not isinstance(decided, list):
            continue
        fold(accounts, decided)
        borne: set[str] = set()
        for event in decided:
            again = events.decode(events.TYPE_NAMES[type(event)], events.encode(event))
            assert again == event
            borne.update(tags.of(again, METADATA))
        balance_fences = {tag for tag in books.fresh if tag.startswith(("draws:", "fills:"))}
        assert balance_fences == {tag for tag in borne if tag.startswith(("draws:", "fills:"))}
        assert set(books.unique) <= borne


@given(transactions(), st.integers(0, 3))
def test_spelling_an_amount_as_text_changes_neither_fingerprint_nor_decision(
    command: PostTransaction, which: int
) -> None:
    entries = [
        EntrySpec(
            account=e.account,
            direction=e.direction,
            amount=str(e.amount) if i % 4 == which else e.amount,
            asset=e.asset,
        )
        for i, e in enumerate(command.entries)
    ]
    other = PostTransaction(entries=entries)
    assert fingerprint("bank", "post_transaction", canonical(other)) == fingerprint(
        "bank", "post_transaction", canonical(command)
    )
    assert outcome(lambda: decide({}, other, 1)) == outcome(lambda: decide({}, command, 1))


@given(HISTORIES)
def test_the_same_input_on_the_same_state_gives_the_same_answer(asked: list[PostTransaction]) -> None:
    accounts: dict[str, Account] = {}
    for number, command in enumerate(asked):
        first = outcome(lambda command=command, number=number: decide(accounts, command, number))
        assert outcome(lambda command=command, number=number: decide(accounts, command, number)) == first
        if isinstance(first, list):
            fold(accounts, first)


def decide(accounts: dict[str, Account], command: PostTransaction, number: int) -> list[Event]:
    command.check()
    known = {name: accounts.get(name, Account(address=name)) for name in ADDRESSES}
    return post_transaction(Books(terms=Terms(opened=LEDGER), accounts=known), command, context(number))


def context(number: int) -> Context:
    return Context(
        ledger="bank",
        actor="teller",
        key=f"k{number}",
        correlation_id="c",
        now=NOW,
        effective_at_max=NOW + timedelta(days=366),
        transaction_id=f"t{number}",
        fingerprint="01",
        asked=b"{}",
    )


def outcome(decision: object) -> object:
    """The events, or what the refusal says."""
    try:
        return decision()  # type: ignore[operator]
    except Refusal as refusal:
        return (refusal.code, tuple(refusal.fields.items()))


def fold(accounts: dict[str, Account], decided: list[Event]) -> None:
    for event in decided:
        accounts.update(evolve_accounts(lambda address: accounts.get(address, Account(address=address)), event, 1))


def limits_of(accounts: dict[str, Account], address: str) -> tuple[str, dict[str, Limit]]:
    """Normal balance and limits, of an account that is open or of one that the ledger's defaults would open."""
    if address in accounts:
        return accounts[address].normal_balance, dict(accounts[address].limits)
    kind = address.split(":", maxsplit=1)[0]
    for defaults in LEDGER.defaults:
        if defaults.pattern.split(":")[0] == kind:
            return defaults.normal_balance, dict(defaults.limits)
    return "credit", {}


def net(command: PostTransaction, accounts: dict[str, Account]) -> dict[tuple[str, str], int]:
    """The change of each account and asset, its normal side positive: a second reckoning, unlike the decision's."""
    change: dict[tuple[str, str], int] = defaultdict(int)
    for entry in command.entries:
        normal_balance, _ = limits_of(accounts, entry.account)
        change[entry.account, entry.asset] += int(entry.amount) * (1 if entry.direction == normal_balance else -1)
    return change


def worsens(accounts: dict[str, Account], place: tuple[str, str], balance: int, by: int) -> bool:
    _, limits = limits_of(accounts, place[0])
    limit = limits.get(place[1], Limit())
    after = balance + by
    return (by < 0 and limit.minimum is not None and after < limit.minimum) or (
        by > 0 and limit.maximum is not None and after > limit.maximum
    )


def marked(event: Event) -> list[Entry]:
    return [e for e in event.entries if e.draws or e.fills] if isinstance(event, TransactionPosted) else []


def fills_matter(account: Account) -> bool:
    return any(limit.maximum is not None for limit in account.limits.values())
