"""The release after this one. Python imports this before anything else where its folder is on PYTHONPATH.

It writes posted transactions as version 2, which this release has never heard of, and reads both. The data is the same: what matters
here is that who is older can know neither that nor anything else about it.
"""

from shared_kernel import events

V1, V2 = "TransactionPosted.v1", "TransactionPosted.v2"

if V1 in events.TYPES:
    struct = events.TYPES.pop(V1)
    events.TYPES[V2] = struct
    events.TYPE_NAMES[struct] = V2
    events.UPCASTERS[V1] = events._DECODERS[V1]
    events._DECODERS[V2] = events._DECODERS[V1]
