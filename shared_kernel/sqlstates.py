"""What PostgreSQL's error codes say about repeating: the one judgement for all who ask it something. Knows no driver."""

from typing import Final

# Serialization failure, deadlock, lock time-out, cancelled statement, idle too long in a transaction: the server says that
# nothing of it was applied, and the same may be asked again (design §4).
_ROLLED_BACK: Final = frozenset({"40001", "40P01", "55P03", "57014", "25P03"})
_OUT_OF_RESOURCES: Final = "53"


def is_rolled_back(sqlstate: str) -> bool:
    """True if this ERROR, on a connection that lives on, says that nothing was applied and the same may be tried again."""
    return sqlstate in _ROLLED_BACK or sqlstate.startswith(_OUT_OF_RESOURCES)
