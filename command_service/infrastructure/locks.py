"""Locks as the process was told to use them (`DAYBOOK_LOCKS`): the ledger's lease until others write too, account locks always, or none."""

from collections.abc import Sequence

from command_service.application.batch import Ticket
from command_service.application.locks import Grip, NoGrip, Wanted
from command_service.infrastructure.account_locks import AccountLocks
from command_service.infrastructure.lease import RedisLeases
from command_service.infrastructure.redis_link import RedisLink


class NoLocks:
    """`off`: nobody is asked and nothing is held."""

    def touch(self, ledger: str, ticket: Ticket) -> bool:
        """Nothing to note."""
        return False

    async def take(self, ledger: str, wanted: Sequence[Wanted]) -> Grip:
        """Nothing to take."""
        return NoGrip()

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to give back."""


class RedisLocks:
    """`adaptive`: with `leases`, account locks only where they say that others write too. `always`: without."""

    def __init__(self, link: RedisLink, accounts: AccountLocks, leases: RedisLeases | None) -> None:
        self.link = link
        self.accounts = accounts
        self.leases = leases
        self.take = accounts.take

    def touch(self, ledger: str, ticket: Ticket) -> bool:
        """This worker is writing to the ledger. True where account locks are to be taken."""
        return self.link.lets_wait() if self.leases is None else self.leases.touch(ledger, ticket)

    async def start(self) -> None:
        """Asks and renews in the background from here on."""
        await self.accounts.start()
        if self.leases is not None:
            await self.leases.start()

    async def stop(self) -> None:
        """Whatever is held is given back, if Redis answers."""
        await self.accounts.stop()
        if self.leases is not None:
            await self.leases.stop()
        await self.link.close()
