"""All experiments, in the order of their numbers."""

from collections.abc import Mapping

from tests.chaos.harms import disks, events, mixed, network, postgres, processes, rebuilds
from tests.chaos.running import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    "X1": Experiment(
        postgres.slow_commit,
        "appends held before COMMIT on one ledger, while 32 clients and batches write to others",
        is_short=True,
        ledgers=5,
        writers=40,
    ),
    "X2": Experiment(
        postgres.rolled_back,
        "every fifth append rolled back by the server; then sessions ended at random",
    ),
    "X3": Experiment(
        postgres.idle_elsewhere,
        "a transaction left idle in another database of the same Postgres",
    ),
    "X4": Experiment(
        postgres.restored,
        "a dump restored into a fresh database, `daybook restored`, everything started again",
    ),
    "X5": Experiment(
        processes.command_killed,
        "kill -9 of a command process: at random moments, and at each named step of the write path",
        is_short=True,
    ),
    "X6": Experiment(
        postgres.reply_lost,
        "the reply to COMMIT is lost: the proxy cuts the wire when it comes",
        is_short=True,
    ),
    "X7": Experiment(
        processes.relay_killed,
        "the relay killed, at any moment and at each named step; two relays; the active one frozen for twice its lease, then going on",
        is_short=True,
    ),
    "X8": Experiment(
        processes.projector_killed,
        "the projector killed: at a random moment, inside its transaction, right after its commit, and when partitions are given to it",
    ),
    "X9": Experiment(
        events.kafka_down,
        "Kafka down, then back, then restarted in order",
        is_short=True,
    ),
    "X9b": Experiment(
        events.brokers_restarted,
        "the brokers of a Kafka of three restarted one after another, in order; then one killed",
        brokers=3,
    ),
    "X10": Experiment(
        events.topic_deleted,
        "the topic given more partitions, then deleted",
        keeps_topic=False,
    ),
    "X11": Experiment(
        network.redis_gone,
        "Redis killed, flushed, frozen, silent behind the proxy",
        is_short=True,
        may_conflict=True,
    ),
    "X12": Experiment(
        postgres.postgres_restarted,
        "Postgres stopped at once (SIGQUIT), killed, and started again",
        is_short=True,
    ),
    "X12b": Experiment(
        postgres.promoted,
        "the primary killed and its synchronous standby promoted, and back",
    ),
    "X13": Experiment(
        events.repeated_messages,
        "messages duplicated, reordered, before and behind their time, and all of its ledgers once more from zero",
        keeps_topic=False,
    ),
    "X14": Experiment(
        events.poisoned,
        "an event that the projector cannot apply, in one of many ledgers; mended, retried, repaired",
    ),
    "X15": Experiment(
        events.poisoned_everywhere,
        "an event that the projector cannot apply, in more ledgers than may be parked; all mended, all retried",
    ),
    "X16": Experiment(
        rebuilds.killed,
        "a rebuild killed at ten random points, while its projection is read",
    ),
    "X17": Experiment(
        rebuilds.under_load,
        "a rebuild beside commands and queries, and a second one asked for meanwhile",
    ),
    "X18": Experiment(
        disks.full,
        "no space left on the disk of a log, of Kafka, of Postgres; then space again",
    ),
    "X19": Experiment(
        network.network_slow,
        "the network before Postgres slow (200 ± 100 ms), lossy, and then half-open",
        is_short=True,
    ),
    "X20": Experiment(
        processes.clocks_skewed,
        "clocks an hour ahead, an hour behind, and set back by an hour: further command processes, relays and projectors under libfaketime",
    ),
    "X22": Experiment(
        processes.deployed,
        "a release with a new version of an event beside the old one, and then alone",
    ),
    "X23": Experiment(
        network.overload,
        "three times as many commands as it can do; then two thousand connections that say nothing",
        is_direct=True,
    ),
    "X24": Experiment(
        mixed.mixed,
        "a mixture of faults, one after another, chosen at random; beside them, all the while, mild ones: a process frozen for a moment, Redis flushed, a session of Postgres ended, a wire slow",
        may_conflict=True,
    ),
    "X25": Experiment(
        postgres.restored_to_points,
        "a base backup and archived WAL, restored to random points",
    ),
}
