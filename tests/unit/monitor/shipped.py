"""The settings of a monitor as shipped: what is wrong must be seen with these, not with those a test would like."""

from typing import Final

from daybook.monitor.settings import MonitorSettings
from shared_kernel.settings import Secret

SHIPPED: Final = MonitorSettings(
    postgres_url=Secret("postgresql://"), jwt_issuer="i", jwt_audience="a", jwt_keys_file="keys"
)
