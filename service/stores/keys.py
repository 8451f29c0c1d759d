"""Where a Redis store keeps what: the names of its keys and streams, for those who read them too.

    <layout>:<kind>:<token>   list    an entity's log, under the key that its entries are appended with
    {<log>}:audit             list    what bases of an audited log stand for: a seed, then chunks
    decision:{p}:<id>         string  a decision record, with the id of its entry in the stream as a suffix
    decisions:{p}             stream  t: transaction id, d: decision record, s: snapshot
    outcome:{p}:<id>          string  the document about a transaction's outcomes
    outcomes:{p}              stream  o: what became of a document
    archive:{p}               stream  k: log, g: generation, r: rev of the first entry, e: entries;
                                      or, where a log was made to begin with a base, k, g, r: the base's rev, b: base
    born:{tag}                string  effective time of the first entry a server accepted, one per server

What is not an entity's log is spread over partitions p; what must change together has the same braces, which is what a
cluster hashes; a log's own key has none, and is hashed as a whole.
"""

import binascii
import zlib

ONE_SERVER_PARTITIONS = 1
CLUSTER_PARTITIONS = 32  # enough to spread over a dozen nodes, few enough to read one by one
SLOTS = 16_384  # of a cluster


def partition_of(name: bytes, partitions: int) -> int:
    """Where what belongs to a transaction id or a log is kept."""
    return zlib.crc32(name) % partitions


def audit_key(log: bytes) -> bytes:
    """What is kept beside an audited log."""
    return b"{%b}:audit" % log


def record_key(partition: int, transaction_id: bytes) -> bytes:
    """A transaction's decision record."""
    return b"decision:{%d}:%b" % (partition, transaction_id)


def decisions_stream(partition: int) -> bytes:
    """Decisions with their snapshots, in the order they were made."""
    return b"decisions:{%d}" % partition


def outcome_key(partition: int, transaction_id: bytes) -> bytes:
    """The document about a transaction's outcomes."""
    return b"outcome:{%d}:%b" % (partition, transaction_id)


def outcomes_stream(partition: int) -> bytes:
    """What became of transactions, in the order we were told."""
    return b"outcomes:{%d}" % partition


def archive_stream(partition: int) -> bytes:
    """Entries that bases stand for by now."""
    return b"archive:{%d}" % partition


def born_key(tag: bytes) -> bytes:
    """When the server that has the tag's slot began to keep histories."""
    return b"born:{%b}" % tag


def slot_of(key: bytes) -> int:
    """The slot of a key in a cluster (CRC16/XMODEM of what stands in its first braces, or of all of it).

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
    """
    start = key.find(b"{") + 1
    end = key.find(b"}", start)
    hashed = key[start:end] if start > 0 and end > start else key
    return binascii.crc_hqx(hashed, 0) % SLOTS
