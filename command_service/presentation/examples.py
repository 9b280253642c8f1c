"""An example of each request and its answer, for the OpenAPI document. A test reads every request as the routes do."""

from typing import Any, NamedTuple

import msgspec

from command_service.domain import commands as kinds
from command_service.presentation.batches import Batch, BatchAcross
from command_service.presentation.requests import BODIES

LEDGERS = "/v1/ledgers"
BOOKS = "/v1/ledgers/{ledger}"
ACCOUNT = BOOKS + "/accounts/{address}"
TRANSACTION = BOOKS + "/transactions/{transaction}"

Json = dict[str, Any]
AT = "2026-11-24T09:30:00.000000Z"
STANDS: Json = {"position": 17, "recorded_at": AT}
KEY = "pay-7"
ID = "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10"


class Operation(NamedTuple):
    """One route: what its body is read into, an example of it, the status of what is done, and the answer to the example."""

    method: str
    path: str
    body: type[msgspec.Struct]
    asked: Json
    status: int
    answered: Json


def _entries(debit: str, credit: str, amount: int, asset: str) -> list[Json]:
    return [
        {"account": debit, "direction": "debit", "amount": amount, "asset": asset},
        {"account": credit, "direction": "credit", "amount": amount, "asset": asset},
    ]


CASH_IN = _entries("bank:cash", "bank:clients:2378", 70_000, "CZK/2")
CASH_OUT = _entries("bank:clients:2378", "bank:cash", 70_000, "CZK/2")
PART = _entries("bank:cash", "bank:clients:2378", 50_000, "CZK/2")
REST = _entries("bank:cash", "bank:clients:2378", 20_000, "CZK/2")
SMALL = _entries("bank:cash", "users:42:wallet", 100, "EUR/2")
LIMITS: Json = {"EUR/2": {"minimum": 0, "maximum": 500_000}}


def _transaction(entries: list[Json], **more: Any) -> Json:
    made = {
        "id": ID,
        "status": "posted",
        "entries": entries,
        "reference": None,
        "effective_at": AT,
        "description": None,
        "metadata": {},
        **STANDS,
    } | more
    return {"transaction": made, "position": 17}


POSTED = _transaction(
    CASH_IN, reference="berka-695247", effective_at="1993-01-01T12:00:00.000000Z", description="cash in"
)
OPENED: Json = {
    "account": {
        "address": "users:42:wallet",
        "normal_balance": "credit",
        "status": "open",
        "limits": LIMITS,
        "metadata": {},
        "on_first_use": False,
        "opened_at": AT,
        "position": 17,
    },
    **STANDS,
}
DEFAULTS: list[Json] = [{"pattern": "users:*:wallet", "normal_balance": "credit", "limits": {"EUR/2": {"minimum": 0}}}]
SMALL_POSTED = _transaction(SMALL)


def _account(**change: Any) -> Json:
    return {"account": {"address": "users:42:wallet", **change}, **STANDS}


def _ledger(**change: Any) -> Json:
    return {"ledger": {"ledger": "bank", **change}, **STANDS}


def _changed(**change: Any) -> Json:
    return {"transaction": {"id": ID, **change}, **STANDS}


SETTLED = _changed(status="posted", posted=PART, released=REST)
FOUND: dict[str, Json] = {"200": SETTLED, "201": POSTED}  # by status: what became of a command
PATCH: Json = {"metadata": {"till": "7", "old": None}}

OPERATIONS = (
    Operation(
        "post",
        LEDGERS,
        kinds.OpenLedger,
        {"ledger": "bank", "accounts": "on-first-use", "defaults": DEFAULTS, "metadata": {}},
        201,
        {
            "ledger": {
                "ledger": "bank",
                "status": "open",
                "accounts": "on-first-use",
                "defaults": DEFAULTS,
                "records_refusals": True,
                "time_zone": "UTC",
                "metadata": {},
                "opened_at": AT,
            },
            "position": 1,
            "recorded_at": AT,
        },
    ),
    Operation("post", f"{BOOKS}/archive", BODIES[kinds.ArchiveLedger], {}, 200, _ledger(status="archived")),
    Operation("post", f"{BOOKS}/reopen", BODIES[kinds.ReopenLedger], {}, 200, _ledger(status="open")),
    Operation(
        "patch",
        f"{BOOKS}/metadata",
        BODIES[kinds.PatchLedgerMetadata],
        PATCH,
        200,
        _ledger(metadata_changes=PATCH["metadata"]),
    ),
    Operation(
        "post",
        f"{BOOKS}/accounts",
        kinds.OpenAccount,
        {"address": "users:42:wallet", "normal_balance": "credit", "limits": LIMITS, "metadata": {}},
        201,
        OPENED,
    ),
    Operation(
        "put",
        f"{ACCOUNT}/limits",
        BODIES[kinds.SetLimits],
        {"limits": LIMITS},
        200,
        _account(limits=LIMITS, breached=[]),
    ),
    Operation(
        "post",
        f"{ACCOUNT}/freeze",
        BODIES[kinds.FreezeAccount],
        {"scope": "debits"},
        200,
        _account(status="frozen", frozen="debits"),
    ),
    Operation(
        "post", f"{ACCOUNT}/unfreeze", BODIES[kinds.UnfreezeAccount], {}, 200, _account(status="open", frozen=None)
    ),
    Operation("post", f"{ACCOUNT}/close", BODIES[kinds.CloseAccount], {}, 200, _account(status="closed")),
    Operation("post", f"{ACCOUNT}/reopen", BODIES[kinds.ReopenAccount], {}, 200, _account(status="open", frozen=None)),
    Operation(
        "patch",
        f"{ACCOUNT}/metadata",
        BODIES[kinds.PatchAccountMetadata],
        PATCH,
        200,
        _account(metadata_changes=PATCH["metadata"]),
    ),
    Operation(
        "post",
        f"{BOOKS}/transactions",
        kinds.PostTransaction,
        {
            "entries": CASH_IN,
            "reference": "berka-695247",
            "effective_at": "1993-01-01T12:00:00Z",
            "description": "cash in",
            "metadata": {},
        },
        201,
        POSTED,
    ),
    Operation(
        "post",
        f"{TRANSACTION}/post",
        BODIES[kinds.PostHold],
        {"entries": PART, "keep_remainder": False},
        200,
        SETTLED,
    ),
    Operation(
        "post", f"{TRANSACTION}/void", BODIES[kinds.VoidHold], {}, 200, _changed(status="voided", released=CASH_IN)
    ),
    Operation("post", f"{TRANSACTION}/cancel", BODIES[kinds.CancelScheduled], {}, 200, _changed(status="cancelled")),
    Operation(
        "post",
        f"{TRANSACTION}/reverse",
        BODIES[kinds.ReverseTransaction],
        {"reference": "undo-695247", "effective_at": "original"},
        201,
        _transaction(CASH_OUT, id="0199d5a2-7a01-7d52-9c3e-51c2b4a6d7e8", reference="undo-695247", reverses=ID),
    ),
    Operation(
        "patch",
        f"{TRANSACTION}/metadata",
        BODIES[kinds.PatchTransactionMetadata],
        PATCH,
        200,
        _changed(metadata_changes=PATCH["metadata"]),
    ),
    Operation(
        "post",
        f"{BOOKS}/batches",
        Batch,
        {
            "atomic": False,
            "commands": [
                {"type": "open_account", "key": "open-42", "data": {"address": "users:42:wallet", "limits": LIMITS}},
                {"type": "post_transaction", "key": "pay-1", "data": {"entries": SMALL}},
            ],
        },
        200,
        {"results": [{"status": 201, "body": OPENED}, {"status": 201, "body": SMALL_POSTED}], "position": 17},
    ),
    Operation(
        "post",
        "/v1/batches",
        BatchAcross,
        {
            "commands": [
                {"ledger": "bank", "type": "post_transaction", "key": "out-1", "data": {"entries": SMALL}},
                {"ledger": "acme:main", "type": "post_transaction", "key": "in-1", "data": {"entries": SMALL}},
            ]
        },
        200,
        {
            "results": [{"status": 201, "body": SMALL_POSTED}, {"status": 201, "body": SMALL_POSTED}],
            "positions": {"bank": 17, "acme:main": 17},
        },
    ),
)
