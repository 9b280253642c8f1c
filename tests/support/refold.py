"""A checker that replays one ledger's log in plain Python and says what must never be there.

Written from design §7 and sharing no code with the domain: it reads the JSON of the events and keeps its own sums.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any


class Refold:
    """Balances, terms and findings after replaying events given as (position, type, data text, metadata text)."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.balances: dict[tuple[str, str], int] = defaultdict(int)  # (account, asset) -> normal side positive
        self.debits_less_credits: dict[str, int] = defaultdict(int)
        self.accounts: dict[str, dict[str, Any]] = {}
        self.keys: dict[tuple[str, str], int] = {}
        self.transactions: dict[str, int] = {}
        self.references: dict[str, int] = {}
        self.refusals: list[dict[str, Any]] = []
        self.head = 0
        self._history: list[dict[tuple[str, str], int]] = []

    def replay(self, events: Iterable[tuple[int, str, str, str]]) -> "Refold":
        """Folds the events in order; what breaks a rule is added to `findings`."""
        for position, type_name, data_text, metadata_text in events:
            if position != self.head + 1:
                self.findings.append(f"position {position} follows {self.head}")
            self.head = position
            data, metadata = json.loads(data_text), json.loads(metadata_text)
            if "key" in metadata:
                self._unique(self.keys, (metadata["actor"], metadata["key"]), position, "key")
            match type_name:
                case "AccountOpened.v1":
                    if data["address"] in self.accounts:
                        self.findings.append(f"{position}: account {data['address']} opened twice")
                    self.accounts[data["address"]] = data
                case "TransactionPosted.v1":
                    self._post(position, data)
                case "CommandRefused.v1":
                    self._refuse(position, data)
            self._history.append(dict(self.balances))
        return self

    def balance_at(self, position: int, account: str, asset: str) -> int:
        """The balance after the event at a position (0: before the first)."""
        return self._history[position - 1].get((account, asset), 0) if position else 0

    def _unique(self, known: dict[Any, int], name: Any, position: int, what: str) -> None:
        if name in known:
            self.findings.append(f"{position}: {what} {name} stands at {known[name]} already")
        known[name] = position

    def _post(self, position: int, data: dict[str, Any]) -> None:
        self._unique(self.transactions, data["transaction"], position, "transaction")
        if "reference" in data:
            self._unique(self.references, data["reference"], position, "reference")
        sums: dict[str, int] = defaultdict(int)
        change: dict[tuple[str, str], int] = defaultdict(int)
        for entry in data["entries"]:
            account = self.accounts.get(entry["account"])
            if account is None:
                self.findings.append(f"{position}: account {entry['account']} is not open")
                continue
            signed = entry["amount"] if entry["direction"] == "debit" else -entry["amount"]
            sums[entry["asset"]] += signed
            adds = entry["direction"] == account["normal_balance"]
            change[entry["account"], entry["asset"]] += entry["amount"] if adds else -entry["amount"]
            limit = account.get("limits", {}).get(entry["asset"], {})
            if entry.get("draws", False) != (not adds and limit.get("minimum") is not None):
                self.findings.append(f"{position}: draws of {entry} is wrong")
            if entry.get("fills", False) != (adds and limit.get("maximum") is not None):
                self.findings.append(f"{position}: fills of {entry} is wrong")
        for asset, difference in sums.items():
            self.debits_less_credits[asset] += difference
            if difference:
                self.findings.append(f"{position}: debits less credits of {asset} are {difference}")
        for (address, asset), net in change.items():
            self.balances[address, asset] += net
            limit = self.accounts[address].get("limits", {}).get(asset, {})
            balance = self.balances[address, asset]
            if net < 0 and limit.get("minimum") is not None and balance < limit["minimum"]:
                self.findings.append(f"{position}: {address} {asset} fell to {balance}, below {limit['minimum']}")
            if net > 0 and limit.get("maximum") is not None and balance > limit["maximum"]:
                self.findings.append(f"{position}: {address} {asset} rose to {balance}, above {limit['maximum']}")

    def _refuse(self, position: int, data: dict[str, Any]) -> None:
        self.refusals.append({"position": position, **data})
        judged_at = data.get("judged_at", position - 1)
        if not 0 <= judged_at < position:
            self.findings.append(f"{position}: refused on a state after itself ({judged_at})")
        if data["code"] == "insufficient_funds" and not data.get("after_commands"):  # else on a state that never was
            fields = data["fields"]
            found = self.balance_at(judged_at, fields["account"], fields["asset"])
            if found != fields["available"]:
                self.findings.append(f"{position}: refused on {fields['available']} but {found} was there")
