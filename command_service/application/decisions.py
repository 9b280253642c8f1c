"""Which decision answers which command: for callers that learn the kind of command only at run time (batches, the clock)."""

from collections.abc import Mapping
from typing import Any, cast

from command_service.application.batch import Decide
from command_service.domain import commands
from command_service.domain.accounts import (
    close_account,
    freeze_account,
    open_account,
    patch_account_metadata,
    reopen_account,
    set_limits,
    unfreeze_account,
)
from command_service.domain.holds import expire_hold, post_hold, void_hold
from command_service.domain.ledgers import archive_ledger, open_ledger, patch_ledger_metadata, reopen_ledger
from command_service.domain.reversals import reverse_transaction
from command_service.domain.transactions import (
    cancel_scheduled,
    patch_transaction_metadata,
    post_scheduled,
    post_transaction,
)

DECISIONS: Mapping[type[Any], Decide] = cast(
    # A decision on one kind of command is only ever given that kind: the keys say so.
    "Mapping[type[Any], Decide]",
    {
        commands.OpenLedger: open_ledger,
        commands.ArchiveLedger: archive_ledger,
        commands.ReopenLedger: reopen_ledger,
        commands.PatchLedgerMetadata: patch_ledger_metadata,
        commands.OpenAccount: open_account,
        commands.SetLimits: set_limits,
        commands.FreezeAccount: freeze_account,
        commands.UnfreezeAccount: unfreeze_account,
        commands.CloseAccount: close_account,
        commands.ReopenAccount: reopen_account,
        commands.PatchAccountMetadata: patch_account_metadata,
        commands.PostTransaction: post_transaction,
        commands.PostHold: post_hold,
        commands.VoidHold: void_hold,
        commands.ExpireHold: expire_hold,
        commands.ReverseTransaction: reverse_transaction,
        commands.PostScheduled: post_scheduled,
        commands.CancelScheduled: cancel_scheduled,
        commands.PatchTransactionMetadata: patch_transaction_metadata,
    },
)
