"""Every limit of golemp2p, named, with its reason. Sizes end in _BYTES, waits in _S, rates in _PER_S."""

from __future__ import annotations

from typing import Final

MIB: Final = 1024 * 1024

# --- market -----------------------------------------------------------------------------------------------------------
MAX_PROPERTIES: Final = 512  # a real Golem offer has about 40
MAX_PROPERTIES_BYTES: Final = 64 * 1024  # yagna's demand with a manifest is about 10 kB
MAX_CONSTRAINTS_BYTES: Final = 32 * 1024
MAX_CONSTRAINT_DEPTH: Final = 64  # nesting of (&(|(!…)))
MAX_CONSTRAINT_NODES: Final = 2_000
MAX_RECORD_BYTES: Final = 128 * 1024  # signed market record
RECORD_TTL_S: Final = 3_600.0  # Golem's subscription lifetime
RECORD_REPUBLISH_S: Final = 900.0  # four chances before the record expires
MAX_CLOCK_SKEW_S: Final = 120.0  # a record issued further in the future is refused
MAX_RECORDS: Final = 50_000
MAX_RECORDS_PER_ISSUER: Final = 64
MAX_OWN_SUBSCRIPTIONS: Final = 500
MAX_QUEUED_EVENTS: Final = 5_000  # per subscription; the oldest initial proposals go first
PULL_PAGE_RECORDS: Final = 200
MARKET_RPC_TIMEOUT_S: Final = 10.0
MAX_LONG_POLL_S: Final = 300.0
DEFAULT_LONG_POLL_S: Final = 5.0
MAX_POLL_EVENTS: Final = 100
DEFAULT_POLL_EVENTS: Final = 20
AGREEMENT_APPROVE_TIMEOUT_S: Final = 60.0  # requestor cancels what a provider does not answer
SCAN_IDLE_S: Final = 300.0

# --- REST -------------------------------------------------------------------------------------------------------------
MAX_REST_BODY_BYTES: Final = 8 * MIB
MAX_REST_FILE_BYTES: Final = 16 * 1024 * MIB
REST_SHUTDOWN_GRACE_S: Final = 2.0

# --- storage ----------------------------------------------------------------------------------------------------------
DB_BUSY_TIMEOUT_S: Final = 10.0
DB_QUEUE: Final = 1_000
DB_GROUP_COMMIT: Final = 64  # jobs that share one fsync
