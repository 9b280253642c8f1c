"""Which session is to be ended so that those behind it can go on. Pure; the policy is the operator's, `off` unless they say more."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from daybook.monitor.domain.alerts import Action, Episode
from daybook.monitor.domain.looks import Chain

Cancelling = Literal["off", "cancel", "terminate"]
Step = Literal["cancel", "terminate"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """`cancel`: a running statement is cancelled when it has held others up for so long; `terminate`: besides, the session is ended later."""

    cancelling: Cancelling
    cancel_after_ms: int
    terminate_after_ms: int


def step(chain: Chain, done: Action, policy: Policy) -> Step | None:
    """What is to be done to the chain's root now, given what was done already.

    A session that is idle inside its transaction has no statement to cancel: only its end helps. One that refused is left alone.
    """
    if policy.cancelling == "off" or not chain.root.is_client or done in ("terminated", "failed"):
        return None
    if policy.cancelling == "terminate" and chain.blocking_ms >= policy.terminate_after_ms:
        return "terminate"
    if chain.root.state == "active" and not done and chain.blocking_ms >= policy.cancel_after_ms:
        return "cancel"
    return None


def root_of(episode: Episode, chains: Sequence[Chain]) -> Chain | None:
    """The chain that the episode is about, if it is there now."""
    if episode.kind != "blocked_chain" or episode.missed:
        return None
    return next((chain for chain in chains if chain.root.name == episode.subject), None)
