"""Every limit of golemp2p, named, with its reason. Sizes end in _BYTES, waits in _S, rates in _PER_S."""

from __future__ import annotations

from typing import Final

MIB: Final = 1024 * 1024

# --- market -----------------------------------------------------------------------------------------------------------
MAX_PROPERTIES: Final = 512  # a real Golem offer has about 40
MAX_PROPERTY_NAME_CHARS: Final = 1_024  # nested names repeat their beginning, so flattening could blow terms up
MAX_PROPERTIES_BYTES: Final = 64 * 1024  # yagna's demand with a manifest is about 10 kB
MAX_CONSTRAINTS_BYTES: Final = 32 * 1024
MAX_CONSTRAINT_DEPTH: Final = 64  # nesting of (&(|(!…)))
MAX_CONSTRAINT_NODES: Final = 512  # a real demand has about 15
MAX_LIST_ITEMS: Final = 256  # of one list property: comparing lists costs items times items
MAX_RECORD_BYTES: Final = 128 * 1024  # signed market record
RECORD_TTL_S: Final = 3_600.0  # Golem's subscription lifetime
RECORD_REPUBLISH_S: Final = 900.0  # four chances before the record expires
MAX_CLOCK_SKEW_S: Final = 120.0  # a record issued further in the future is refused
MAX_RECORDS: Final = 50_000
MAX_RECORDS_PER_ISSUER: Final = 256  # live offers and demands
MAX_BOOK_BYTES: Final = 256 * MIB  # of all records
MAX_RECORD_BYTES_PER_ISSUER: Final = MIB  # 4 KiB for each of 256; an offer has about 2
RECORD_OVERHEAD_BYTES: Final = 512  # id, issuer, signature, times
RECORD_MIN_SHARE_BYTES: Final = 4 * 1024  # what even the smallest record counts when the book is full
PUSHED_RECORDS_PER_S: Final = 10.0  # new to us, by one peer past the gossip; 600 in a minute
PUSHED_RECORDS_BURST: Final = 600
MAX_WITHDRAWALS_PER_ISSUER: Final = 512  # remembered; then the one that expires first goes
MAX_OWN_SUBSCRIPTIONS: Final = MAX_RECORDS_PER_ISSUER  # what others would refuse is refused here
MAX_SUBNET_CHARS: Final = 128
MAX_QUEUED_EVENTS: Final = 5_000  # per subscription; the oldest initial proposals go first
PULL_PAGE_RECORDS: Final = 200
MARKET_RPC_TIMEOUT_S: Final = 10.0
MAX_LONG_POLL_S: Final = 300.0
DEFAULT_LONG_POLL_S: Final = 5.0
MAX_POLL_EVENTS: Final = 100
DEFAULT_POLL_EVENTS: Final = 20
AGREEMENT_APPROVE_TIMEOUT_S: Final = 60.0  # requestor cancels what a provider does not answer
APPROVAL_RETRY_S: Final = 2.0  # first; doubles: a provider's signature whose arrival is unknown
APPROVAL_RETRY_MAX_S: Final = 60.0
MAX_AGREEMENT_LIFE_S: Final = 10 * 366 * 24 * 3_600.0  # yapapi's longest timeout; keeps dates printable
MAX_PROPOSALS: Final = 50_000  # of all subscriptions together
MAX_PROPOSALS_PER_PEER: Final = 1_000  # made by countering; the finished go first
PROPOSAL_TTL_S: Final = RECORD_TTL_S  # an unanswered proposal lives as long as its offer could
MAX_AGREEMENT_FILE_BYTES: Final = 4 * MIB  # a saved one; both sides' terms, twice, as indented JSON
MAX_REASON_BYTES: Final = 8 * 1024  # of a rejection, cancellation or termination, as JSON
GOSSIP_RECORDS: Final = 32  # a message with more is refused: checking one record takes 0.2 ms
NEW_RECORDS_PER_S: Final = 200.0  # of new issuers, by gossip: 4 % of a core; what is beyond comes by comparing
KNOWN_RECORDS_PER_S: Final = 2.0  # of one issuer that has records here: an agent makes and withdraws a demand per job
KNOWN_RECORDS_BURST: Final = 600
NEW_RECORDS_BURST: Final = 5_000
COMPARE_ENTRIES: Final = 60_000  # of one answer; 24 bytes each, so 1.4 MB
COMPARE_AGAIN_S: Final = 20.0  # how often one peer's renewals of what we do not have make us compare with it
REFUSED_AGAIN_S: Final = 900.0  # until a record that the book had no room for is fetched again: a renewal comes by then
PULL_TIMEOUT_S: Final = 60.0  # a whole book of 50,000 records takes about 30 s
PULLS_AT_ONCE: Final = 4
PULL_MAX_REFUSED: Final = 20  # wrong records from one neighbour; then we stop listening to it
PUSHES_AT_ONCE: Final = 8

# --- REST -------------------------------------------------------------------------------------------------------------
MAX_REST_BODY_BYTES: Final = 8 * MIB
MAX_REST_FILE_BYTES: Final = 16 * 1024 * MIB
REST_SHUTDOWN_GRACE_S: Final = 2.0
REST_KEEP_ALIVE_S: Final = 75.0  # longer than the clients' pools keep idle connections

# --- storage ----------------------------------------------------------------------------------------------------------
DB_BUSY_TIMEOUT_S: Final = 10.0
DB_QUEUE: Final = 1_000
DB_GROUP_COMMIT: Final = 64  # jobs that share one fsync

# --- network ----------------------------------------------------------------------------------------------------------
DIAL_TIMEOUT_S: Final = 10.0
OPEN_STREAM_TIMEOUT_S: Final = 10.0
HANDSHAKE_TIMEOUT_S: Final = 5.0  # from accept to a multiplexed connection; a real one takes 12 ms
CLOSE_TIMEOUT_S: Final = 3.0  # for a whole node; a stream gets STREAM_CLOSE_TIMEOUT_S
STREAM_CLOSE_TIMEOUT_S: Final = 1.0
FRAME_WRITE_TIMEOUT_S: Final = 15.0  # a peer whose socket takes nothing for so long loses its connection
WRITE_STALL_TIMEOUT_S: Final = 600.0  # a stream whose reader takes nothing for so long is reset
STREAM_WINDOW_BYTES: Final = MIB  # bounds what an unread stream costs the reader
TCP_READ_BUFFER_BYTES: Final = 256 * 1024
MAX_CONNECTIONS: Final = 300
MAX_CONNECTIONS_PER_IP: Final = 64  # several nodes may share an address behind NAT; localnet has all on one
MAX_HANDSHAKES: Final = 128  # unfinished inbound connections; the oldest gives way to the newest
KEEPALIVE_INTERVAL_S: Final = 15.0
KEEPALIVE_TIMEOUT_S: Final = 10.0  # a frozen peer is gone after at most interval + timeout
MIN_PEERS: Final = 4  # below it we dial bootstrap and known peers again
BOOTSTRAP_RETRY_MIN_S: Final = 0.2
BOOTSTRAP_RETRY_MAX_S: Final = 30.0
PEER_BAN_S: Final = 60.0
PEER_FAULTS_TO_BAN: Final = 3
MAX_KNOWN_PEERS: Final = 2_000
MAX_STREAMS_PER_PEER: Final = 200  # inbound, at the same time; Yamux has 256
GOSSIP_MAX_BYTES: Final = 192 * 1024  # one message; a market record is at most 128 KiB
GOSSIP_RPC_MAX_BYTES: Final = 512 * 1024  # one libp2p RPC that may carry several messages
GOSSIP_PER_ORIGIN_PER_S: Final = 50.0
GOSSIP_BURST: Final = 200
GOSSIP_QUEUE: Final = 2_000  # received and validated, waiting for the service's handler
GOSSIP_PEER_QUEUE: Final = 256  # gossip RPCs that wait for one peer; then they are dropped
GOSSIP_PUBLISH_PACE_S: Final = 0.003  # lets the queues to the peers drain
DHT_RECORD_MAX_BYTES: Final = 16 * 1024
DHT_RECORD_TTL_S: Final = 3_600.0
DHT_TIMEOUT_S: Final = 15.0
RPC_MAX_FRAME_BYTES: Final = 2 * MIB
RPC_MAX_CONCURRENT: Final = 128  # requests of one peer that we work on at a time
RPC_QUEUED_BYTES: Final = 8 * MIB  # answers to one peer that wait to be written
RPC_STREAM_CREDIT: Final = 16  # items a server stream may be ahead of its reader; each is at most a frame
RPC_OPEN_TIMEOUT_S: Final = 10.0
DATA_CHUNK_BYTES: Final = 64 * 1024
DATA_STALL_TIMEOUT_S: Final = 60.0  # a transfer without a byte for so long is broken
DATA_MAX_BYTES: Final = 16 * 1024 * MIB
DATA_MAX_TRANSFERS_PER_PEER: Final = 32  # a package takes up to three
CONTENT_QUOTA_BYTES: Final = 64 * 1024 * MIB
CONTENT_KEEP_S: Final = 3600.0  # a published file waits at least that long for who fetches it
CONTENT_STEP_BYTES: Final = 16 * MIB  # room is looked for in such steps while a stream of unknown size comes in
SLOT_KEEP_S: Final = 7 * 24 * 3600.0
MAX_SLOTS: Final = 1_000

# --- runtimes ---------------------------------------------------------------------------------------------------------
DEFAULT_GUEST_MEMORY_BYTES: Final = 1024 * MIB  # linear memory of a wasm guest, when nothing was agreed
WORKER_OVERHEAD_BYTES: Final = 160 * MIB  # writable memory of Python + wasmtime beside the guest's; measured 25 MiB
WORKER_OPEN_FILES: Final = 256
MAX_WORKER_OUTCOME_BYTES: Final = 64 * 1024
COMPILE_WALL_S: Final = 120.0  # Yosys, 65 MiB of wasm, takes 47 s
COMPILE_CPU_S: Final = 180
COMPILE_MEMORY_BYTES: Final = 3_072 * MIB  # CPython, 25 MiB of wasm, takes about 350 MiB
MAX_COMPILED_BYTES: Final = 1024 * MIB
MODULE_CACHE_BYTES: Final = 4_096 * MIB
PROBE_AGAIN_S: Final = 120.0  # after which what did not work is tried again: the engine may have been started since
PROBE_TIMEOUT_S: Final = 60.0  # trying a runtime out; a TCG boot takes 2 s
ENGINE_CALL_TIMEOUT_S: Final = 60.0  # one call of a container engine; starting a container takes 0.3 s
ENGINE_REMOVE_TIMEOUT_S: Final = 20.0  # of a container; who destroys an activity waits 30 s
ENGINE_CALLS_AT_ONCE: Final = 16  # worker threads per engine
ENGINE_STATS_POLL_S: Final = 2.0
ENGINE_SIZE_POLL_S: Final = 3.0  # how often the engine is asked what a container wrote, where we cannot look
IMAGE_LOAD_TIMEOUT_S: Final = 900.0
MOUNT_TIMEOUT_S: Final = 30.0
MIN_VOLUME_BYTES: Final = 8 * MIB  # the least that ext4 is of use with
GUEST_HELLO_TIMEOUT_S: Final = 30.0  # from a started container to its agent's first word
GUEST_USAGE_POLL_S: Final = 0.1  # how often a run's CPU time is compared with its limit
CONTAINER_OPEN_FILES: Final = 65_536  # or what the host permits
GUEST_NPROC: Final = 16_384  # the kernel counts all of that user's on the host; podman itself has 32,768
MAX_GUEST_PROCESSES: Final = 512  # processes and threads of one activity, when nothing was agreed
MAX_TREE_FILES: Final = 100_000  # in one directory transfer

# --- payment ----------------------------------------------------------------------------------------------------------
CHAIN_CALL_TIMEOUT_S: Final = 10.0
CHAIN_LOAD_TIMEOUT_S: Final = 30.0  # importing web3 (1 s, more on a busy machine) and the first answer
CHAIN_CALLS_AT_ONCE: Final = 4  # worker threads per network
FEE_HISTORY_BLOCKS: Final = 5
ANVIL_FETCH_TIMEOUT_S: Final = 120.0  # 19 MB from the package registry
LOCAL_CHAIN_START_S: Final = 20.0  # anvil takes 0.1 s, py-evm 2 s; twenty on a busy machine
LOCAL_CHAIN_STOP_S: Final = 2.0
ALLOCATION_CHECK_TIMEOUT_S: Final = 3.0  # a dead chain must not stop a requestor from making a budget
DEPOSIT_CHECK_TIMEOUT_S: Final = 20.0  # for the chain's word on a deposit: without it nobody's money is used
AUTO_ACCEPT_AFTER_S: Final = 30.0  # agents answer within a second; silence this long means that they are gone
MAX_SLOTS_IN_FLIGHT: Final = 4  # per account; pools of geth's family guarantee room for 16
FEE_RECHECK_S: Final = 60.0  # until fees that were too high for a payout are looked at again
STORAGE_RETRY_S: Final = 5.0  # until a task of payments begins again that the database failed
MAX_SHOWN_PROBLEMS: Final = 3  # of one platform, in its status
ORDER_PATIENCE_S: Final = 600.0  # a call that a contract refuses for so long is given up
MIN_SEARCH_BLOCKS: Final = 1_000  # below the head, for transactions of ours that are not known here
MAX_SEARCH_BLOCKS: Final = 2_000_000  # more is too much to ask of an endpoint: 45 days of Polygon
SETTLEMENT_RETRY_S: Final = 2.0  # first; doubles
SETTLEMENT_RETRY_MAX_S: Final = 60.0
DEBIT_NOTES_PER_S: Final = 1.0  # under one agreement, on average; real providers send one in two minutes
DEBIT_NOTES_BURST: Final = 100  # what an outage holds back comes at once
MAX_DEBIT_NOTES: Final = 50_000  # under one agreement: two months of one in two minutes
MAX_OPEN_NOTICES: Final = 256  # of one peer, not yet borne out by the chain
MAX_REFUSED_NOTICES: Final = 256  # of one peer, ever: each stays in the journal, and an honest one sends none
NOTICES_PER_LOOK: Final = 16  # of one peer, in one look at the chain; then the others have their turn
MAX_BILLED_THREADS: Final = 256  # what an offer says beyond that is not believed when its CPU time is billed
CPU_SLACK_S: Final = 10.0  # CPU time beyond the running time: starting workers, counters read at different moments
MAX_TRANSFER_REVERTS: Final = 3  # mined ones to one payee, each cost a fee; then nothing more is sent to it
REFUSED_TRANSFER_PAUSE_S: Final = 60.0  # until a transfer that a simulated call refused is simulated again
CLAIM_RETRY_S: Final = 0.5  # first look at the chain after a payment notice that is not borne out yet; doubles
CLAIM_RETRY_MAX_S: Final = 60.0
CLAIM_PATIENCE_S: Final = 24 * 3_600.0  # then an unconfirmed payment notice is refused
OUTBOX_RETRY_S: Final = 1.0  # first; doubles
OUTBOX_RETRY_MAX_S: Final = 300.0
OUTBOX_MAX_REFUSALS: Final = 8  # a peer that answers with an error this often is not asked again
OUTBOX_GROUP: Final = 32  # messages to one peer per look at the queue, and acknowledged ones per write
OUTBOX_PEERS_AT_ONCE: Final = 64  # calls under way; one that is not answered takes PAYMENT_RPC_TIMEOUT_S
PAYMENT_RPC_TIMEOUT_S: Final = 10.0
MAX_USAGE_TEXT_BYTES: Final = 4_096
MAX_DOCUMENT_ACTIVITIES: Final = 1_000
MAX_NOTICE_SHARES: Final = 1_000
MAX_ID_CHARS: Final = 128
MAX_REASON_CHARS: Final = 1_000

# --- activity ---------------------------------------------------------------------------------------------------------
MAX_SCRIPT_BYTES: Final = 1 * MIB
MAX_SCRIPT_COMMANDS: Final = 1_000
MAX_VOLUMES: Final = 32
DEFAULT_PROGRESS_S: Final = 5.0
MIN_PROGRESS_S: Final = 0.2
MAX_CAPTURE_BYTES: Final = 8 * MIB  # of one stream of one command, in poll results
ACTIVITY_CREATE_TIMEOUT_S: Final = 5.0  # default of POST /activity
ACTIVITY_DESTROY_TIMEOUT_S: Final = 30.0
ACTIVITY_RPC_TIMEOUT_S: Final = 10.0
MAX_ACTIVITIES_PER_AGREEMENT: Final = 1  # alive at a time: an agreement is one place of the provider's capacity
MAX_BATCHES_PER_ACTIVITY: Final = 1_000  # finished ones are forgotten first
MAX_QUEUED_BATCHES: Final = 32
BATCH_LOG_BYTES: Final = 4 * MIB  # provider: unacknowledged events of a batch; then the payload waits
FOLLOW_LOG_BYTES: Final = 32 * MIB  # requestor: events of a batch kept for replay
EVENT_ACK_BYTES: Final = 1 * MIB  # the requestor acknowledges at least so often, a quarter of the provider's log
EVENT_ACK_S: Final = 2.0
EVENT_CHUNK_BYTES: Final = 64 * 1024  # of output in one event
EVENT_SILENCE_S: Final = 60.0  # an event stream without an event for so long is opened anew
SSE_STALL_S: Final = 60.0  # an event stream's reader that takes nothing for so long is cut
ACTIVITY_HEARTBEAT_S: Final = 5.0  # requestor asks state and usage so often
PROVIDER_GONE_S: Final = 10.0  # a provider silent for so long is Unresponsive; its batches fail
PROVIDER_LOST_S: Final = 120.0  # and then its activities are Terminated
PROVIDER_RETRY_S: Final = 0.5
ACTIVITY_IDLE_S: Final = 600.0  # provider: no command and no sign of the requestor for so long ends the activity
AGREEMENT_GRACE_S: Final = 5.0  # after validTo
TRANSFER_TIMEOUT_S: Final = 3_600.0
HTTP_STALL_S: Final = 60.0  # an http transfer without a byte for so long is broken
HTTP_ATTEMPTS: Final = 3
MAX_TRANSFER_BYTES: Final = 16 * 1024 * MIB
FAREWELL_S: Final = 3.0  # a provider's last word on an activity that it ended itself
USAGE_SAVE_S: Final = 10.0
MAX_PROVIDER_EVENTS: Final = 5_000  # CreateActivity/DestroyActivity kept for the provider agent
DISK_POLL_S: Final = 1.0  # how often an activity's disk space is looked at
DISK_SCANS_AT_ONCE: Final = 2  # worker threads for that, of all activities together
DISK_ENTRY_BYTES: Final = 1_024  # what a file or directory counts for beside its blocks
DEFAULT_ACTIVITY_DISK_BYTES: Final = 16 * 1024 * MIB  # when nothing was agreed
MAX_ACTIVITY_FILES: Final = 200_000  # looking at them takes about half a second
MAX_ACTIVITY_DIR_DEPTH: Final = 128
MAX_ENDED_ACTIVITIES: Final = 50  # kept in memory with their last events; older ones answer from the database

AGENT_RETRY_S: Final = 1.0  # first wait before a provider agent that failed starts again; doubles
AGENT_RETRY_MAX_S: Final = 60.0
AGENT_STEADY_S: Final = 300.0  # after so long without a failure the waits begin anew

# --- sdk --------------------------------------------------------------------------------------------------------------
SDK_POLL_S: Final = 30.0  # long polls of the SDK's background tasks
SDK_RETRY_S: Final = 0.5
SDK_NEGOTIATION_TIMEOUT_S: Final = 30.0  # a provider that takes longer to agree is passed over
SDK_MAX_REFUSALS: Final = 3  # of one provider, in one job
SDK_TOO_DEAR_S: Final = 2.0  # only offers above the budget were seen for so long: cheaper ones will not come
SDK_CREATE_TIMEOUT_S: Final = 15.0
SDK_DESTROY_TIMEOUT_S: Final = 10.0
SDK_DESTROY_LOST_S: Final = 1.0  # at a provider that does not answer; the node goes on asking
SDK_CLOSE_TIMEOUT_S: Final = 5.0  # each clean-up call to our own node
SDK_STREAM_RETRIES: Final = 5  # cuts of an event stream in a row, then the results are polled
SDK_SLOT_TIMEOUT_S: Final = 60.0  # the transfer is over when a slot is read, so it is there
SDK_RESULTS: Final = 1_000  # finished results that wait for the caller
SDK_MAX_LOSSES: Final = 8  # providers that may fall away under one task
SDK_MAX_SETUP_FAILURES: Final = 3  # providers that cannot start a payload before anyone could: the payload is to blame
SDK_INVOICE_TIMEOUT_S: Final = 30.0
SDK_NOTE_WAIT_S: Final = 3.0  # an invoice that came before the debit note that explains it
SDK_BUDGET_CHECK_S: Final = 2.0
SDK_STOP_S: Final = 2.0  # what it takes to stop activities that the budget does not cover any longer
SDK_MAX_RATE_GLM: Final = 1e9  # per unit of usage; all GLM there is
SDK_MAX_THREADS: Final = 1_024  # of one provider, when its CPU usage is judged
SDK_SETTLE_POLL_S: Final = 0.2
SDK_DEMAND_SLACK_S: Final = 300.0  # the demand outlives the job by so much, so that nothing expires under it

# --- images -----------------------------------------------------------------------------------------------------------
MAX_IMAGE_BYTES: Final = 16 * 1024 * MIB  # of an image's file, and of what its layers hold unpacked
MAX_IMAGE_GROWTH: Final = 50  # times its size, when unpacked; real ones grow to 2 to 5 times theirs
IMAGE_FREE_GROWTH_BYTES: Final = 1024 * MIB  # what also a tiny image may become
MAX_IMAGE_FILES: Final = 500_000  # in all layers; a full desktop has about 300,000
MAX_IMAGE_DEPTH: Final = 128  # directories within directories
MAX_IMAGE_LAYERS: Final = 128  # Docker's own limit is 127
MAX_IMAGE_JSON_BYTES: Final = 4 * MIB  # of one manifest or configuration; real ones have about 5 kB
MAX_TAR_HEADER_BYTES: Final = MIB  # of one extended header: long names and attributes
IMAGE_CONVERT_WALL_S: Final = 900.0  # 100 MB to squashfs takes about 5 s
IMAGE_CONVERT_CPU_S: Final = 1_800
IMAGE_CONVERT_MEMORY_BYTES: Final = 3_072 * MIB  # 500,000 files take about 400 MiB; mksquashfs has buffers of its own
IMAGE_CACHE_BYTES: Final = 32 * 1024 * MIB
IMAGE_CACHE_KEEP_S: Final = 600.0  # what was handed out so recently may not be open yet: it is not evicted

# --- wasm and custom runtimes -----------------------------------------------------------------------------------------
IDLE_WORKERS: Final = 2  # per deployed wasm program; each holds about 25 MiB, starting one takes 0.1 s
EPOCH_GRACE_S: Final = 1.0  # for a metered guest to stop by itself when its time is up; then its process is killed
DETERMINISTIC_MEMORY_BYTES: Final = 512 * MIB  # the same at every provider, since a guest can see where it ends
COMPILES_AT_ONCE: Final = 2  # compiling uses all cores by itself
COMPILE_FAILURE_KEEP_S: Final = 600.0  # a module that went beyond the budget is not tried again for so long
MAX_COMPILE_FAILURES: Final = 256  # remembered
MAX_EVIDENCE_FILES: Final = 1_000  # in the volumes of a deterministic run; a receipt names each, before and after
MAX_EVIDENCE_BYTES: Final = 4 * 1024 * MIB  # hashed before and after each deterministic run: 2 s for a GiB
MAX_RECEIPT_BYTES: Final = 512 * 1024  # of its content; a frame of the rpc takes 2 MiB
CUSTOM_DEPLOY_S: Final = 600.0  # a stranger's executable may unpack gigabytes
CUSTOM_START_S: Final = 60.0
CUSTOM_CLEAN_UP_S: Final = 30.0  # for a stranger's code to remove what is its; then the node goes on
CUSTOM_SAMPLE_S: Final = 0.5  # how often the processes of a command are measured; a look takes a few ms
MAX_CUSTOM_ANSWER_BYTES: Final = MIB  # of a command's output that is kept; a real deploy answer has 200 bytes

# --- guest agent (containers and virtual machines) --------------------------------------------------------------------
AGENT_COMPILE_S: Final = 60.0  # takes one
GUEST_WINDOW_BYTES: Final = 1 * MIB  # output of a run on its way to a slow reader; then the program waits
GUEST_FILE_WINDOW_BYTES: Final = 1 * MIB
GUEST_HELLO_S: Final = 20.0  # from the first byte to the agent's answer
GUEST_ANSWER_S: Final = 30.0  # any answer that is not a program's end; the guest may be slow (TCG) or its disk busy
GUEST_STALL_S: Final = 60.0  # a file transfer in which nothing moves for so long has failed
GUEST_KILL_S: Final = 10.0  # until all of a cancelled run is dead; then the whole instance is given up
GUEST_CLOSE_S: Final = 1.0  # for the agent's farewell
GUEST_CHANNELS: Final = 64  # requests and connections under way with one agent, which has 128
GUEST_OUTBOX_FRAMES: Final = 32  # 2 MiB
GUEST_READ_BYTES: Final = 256 * 1024
GUEST_OPEN_FILES: Final = 1024  # of one process, where nothing else was agreed

# --- shared fetching --------------------------------------------------------------------------------------------------
SHARE_MIN_BYTES: Final = 4 * MIB  # smaller files come from their owner in one go, and are not announced
SHARE_CHUNK_BYTES: Final = MIB  # part of the protocol: 16 GiB are 16,384 hashes
SHARE_LISTS: Final = 16  # chunk lists kept; half a MiB each at most
SHARE_PEERS: Final = 8  # beside the owner
SHARE_PEER_ATTEMPTS: Final = 3  # a peer that fails is tried again with the next search; one that lies is not
SHARE_KNOWN_FETCHERS: Final = 64  # of one file, remembered by its owner
SHARE_KNOWN_FILES: Final = 256
SHARE_TOLD_PEERS: Final = 16  # in one answer; a PeerId has 52 bytes
SHARE_FETCHER_S: Final = 60.0  # a fetcher that did not ask for so long is not named any more
SHARE_SEARCH_S: Final = 1.0  # between questions for peers
SHARE_FIND_S: Final = 2.0  # the DHT's time to answer
SHARE_DHT_EVERY_S: Final = 15.0
SHARE_POLL_S: Final = 0.1  # a peer without news is asked again after so long
SHARE_PATIENCE_S: Final = 1.0  # peers that bring nothing for so long are not waited for
SHARE_SLOW_S: Final = 5.0  # what the peers will not have brought within so long may come from the owner
SHARE_REPEAT_S: Final = 5.0  # a chunk that is under way for so long is asked for elsewhere too
SHARE_CHUNK_TIMEOUT_S: Final = 20.0  # 50 kB/s; a slower peer is of no use
SHARE_STALL_S: Final = 30.0  # a peer without anything new for so long is left
SHARE_OWNER_ATTEMPTS: Final = 3
ANNOUNCE_EVERY_S: Final = 1_800.0  # libp2p keeps provider records for a day; ours may meet new neighbours sooner
ANNOUNCE_GAP_S: Final = 0.2  # between two announcements: each is a walk over the DHT
MAX_ANNOUNCED: Final = 256  # files; the oldest are not announced again

# --- virtual machines (qemu) ------------------------------------------------------------------------------------------
KERNEL_FETCH_S: Final = 300.0  # 27 MB from the distribution's mirror
VM_BOOT_S: Final = 25.0  # to the agent's first word; 2 s under TCG on an idle machine
VM_BOOTS: Final = 2  # one that hangs is replaced once
KVM_TRIAL_S: Final = 6.0  # a boot under KVM takes less than one
VM_OVERHEAD_BYTES: Final = 96 * MIB  # memory of the guest's kernel and agent, beside what was agreed
VM_PROCESSES: Final = 512  # in the guest, where nothing else was agreed
TCG_CACHE_BYTES: Final = 64 * MIB  # of translated code; qemu's default is 1 GiB
VM_MIN_DISK_BYTES: Final = 16 * MIB
VM_DISK_SLACK_BYTES: Final = 1 * MIB  # the host file system's own blocks for a file of this size
VM_MAKE_DISK_S: Final = 30.0  # 16 GiB, sparse, take 0.1 s
VM_LAST_WORDS_S: Final = 0.5  # between the end of the agent's stream and that of qemu
CONSOLE_BYTES: Final = 64 * 1024  # of a machine's last words; a panic has 5 kB

# --- archives of strangers --------------------------------------------------------------------------------------------
MAX_ARCHIVE_HEADER_BYTES: Final = 128 * 1024  # one long name or set of attributes; a chain of 300 is in memory at once
MAX_ZIP_DIRECTORY_BYTES: Final = 16 * MIB  # 100,000 files with names of 100 characters; Python makes it 10 times that
MAX_XZ_MEMORY_BYTES: Final = 128 * MIB  # xz -9 makes files that need 65 MiB

# --- private networks -------------------------------------------------------------------------------------------------
VPN_MTU_BYTES: Final = 65_000  # of the guests' devices: every packet passes through Python, so few and large ones
VPN_MIN_MTU_BYTES: Final = 576
VPN_QUEUE_BYTES: Final = 4 * MIB  # towards one device or one peer; then packets are dropped
VPN_OWNER_QUEUE_BYTES: Final = 32 * MIB  # in all queues of one owner's networks: it may invent a thousand members
VPN_OPENS_AT_ONCE: Final = 16  # tunnels of one owner's networks that are being opened
MAX_VPN_RELAYED: Final = 4_096  # peers remembered to be out of reach
VPN_PACKET_COST_BYTES: Final = 512  # what a packet counts at least: small ones are objects, too
VPN_BATCH_BYTES: Final = 256 * 1024  # packets that go to a peer in one write
VPN_READ_BYTES: Final = 256 * 1024
VPN_PACE_PACKETS: Final = 1_000  # of one device or tunnel in VPN_PACE_S; large ones make 600 MB/s of it
VPN_PACE_S: Final = 0.1
VPN_TUNNEL_IDLE_S: Final = 120.0  # a tunnel to a peer without a packet for so long is closed
VPN_STALL_S: Final = 30.0  # a peer that takes nothing for so long loses its tunnel and what waited for it
VPN_OPEN_S: Final = 5.0  # to open a tunnel and have it accepted
VPN_RETRY_S: Final = 0.25  # a peer that could not be reached or refused is not tried for so long
VPN_RELAY_S: Final = 30.0  # so long a peer that we cannot reach is sent to through the network's owner
VPN_MEMBERS_AT_ONCE: Final = 32  # of a list that an owner sends; 5 ms
VPN_MEMBERS_PAUSE_S: Final = 0.01
VPN_RPC_S: Final = 5.0
VPN_PUSH_ATTEMPTS: Final = 5  # to tell a provider who is in a network; it also asks by itself when it joins
VPN_CONNECT_S: Final = 8.0  # a connection to a port of an activity, all in all; clients wait 10 s
VPN_PEER_TUNNELS: Final = 64  # of one peer to us, at the same time
VPN_PEER_CONNECTIONS: Final = 128  # of one peer through us into activities, at the same time; libp2p has 200 streams
MAX_VPN_NETWORKS: Final = 256  # that one node owns
MAX_VPN_NODES: Final = 1_024  # in one network
MAX_VPN_NETWORKS_PER_ACTIVITY: Final = 8
MAX_VPN_HOSTS: Final = 1_024  # names that a deployment puts into /etc/hosts
VPN_LINGER_S: Final = 30.0  # a connection whose one end has said all, and whose other is silent for so long
VPN_GOODBYE_S: Final = 2.0
WS_PING_S: Final = 5.0  # yagna's pace

# --- rest of the REST surface -----------------------------------------------------------------------------------------
MAX_SCANS: Final = 64  # open at a time; each may hold the ids of the whole book
SCAN_IDLE_S: Final = 300.0  # yagna's default: a scan that nobody reads ends
MAX_SCAN_IDLE_S: Final = 3_600.0
DEFAULT_SCAN_EVENTS: Final = 500  # yagna's
MAX_SCAN_EVENTS: Final = 1_000
SSE_KEEPALIVE_S: Final = 15.0  # a comment line on a quiet event stream; proxies cut silent connections after 60 s
MAX_LISTED: Final = 10_000  # agreements and documents in one answer, the newest
MONITOR_LOOK_S: Final = 1.0  # between two looks at the activities for GET /_monitor
REGISTRY_TIMEOUT_S: Final = 60.0  # an image is read once for its hash, and copied: 100 MB take a second
MAX_REGISTRY_HASHES: Final = 1_000  # of image files, remembered
MAX_IMAGE_NAME_CHARS: Final = 256
POLL_LOOK_S: Final = 10.0  # without news the database is asked again so often, in case that news got lost
MAX_POLL_QUESTIONS: Final = 1_000  # remembered to have no answer
MAX_SHOWN_AGREEMENTS: Final = 256  # whose JSON is kept; about 5 kB each

# --- gsb: programs that serve files through this node -----------------------------------------------------------------
GSB_MAX_SERVICES: Final = 10_000  # names bound at a time; a program has one per file that it publishes or waits for
GSB_NAME_CHARS: Final = 256
GSB_MAX_COMPONENTS: Final = 32
GSB_MAX_FRAME_BYTES: Final = 4 * MIB  # golem-js answers a chunk with what it was asked for, once in a while with all
# Whole packets of the network, 512 KiB; with its frame below 1 MiB, where some WebSocket libraries stop by default.
GSB_CHUNK_BYTES: Final = 8 * 65_507
GSB_READ_AHEAD: Final = 4  # chunks of one file that a program is asked for at a time
GSB_QUEUE: Final = 32  # frames that wait to be written to a program
GSB_MAX_WAITING: Final = 1_024  # questions to one program without an answer
GSB_SOCKET_WAIT_S: Final = 10.0  # for a program to connect, or to connect again
GSB_ANSWER_S: Final = 60.0  # for one chunk; a program may be busy, its disk slow
GSB_ORPHAN_S: Final = 120.0  # a service whose program does not connect for so long is forgotten
GSB_ERROR_CHARS: Final = 500
GFTP_BINDS_PER_SESSION: Final = 5_000
DATA_PACKET_BYTES: Final = 65_507  # of a stream's bytes in one Noise packet
REST_WRITE_STALL_S: Final = 60.0  # a client whose socket takes nothing for so long loses its connection
GSB_GOODBYE_S: Final = 2.0  # for a program to close its side of a socket that we closed
DATA_LAST_ANSWER_S: Final = 180.0  # after the last byte of a put: the owner hashes it, or its program writes the rest

# --- connections of payloads to the outside ---------------------------------------------------------------------------
MAX_MANIFEST_CHARS: Final = 48 * 1024  # of a demand's 64 KiB
MAX_OUTBOUND_URLS: Final = 64
MAX_OUTBOUND_PORTS: Final = 16  # different ones; the agent listens on each
OUTBOUND_CONNECTIONS: Final = 32  # of one payload at a time; the agent's channels are for commands, too
OUTBOUND_DIAL_S: Final = 10.0  # each address, and the look-up
OUTBOUND_LOOKUPS: Final = 4  # of one payload at a time
OUTBOUND_LOOKUP_THREADS: Final = 32  # of all; a look-up that was given up holds its thread for up to half a minute
OUTBOUND_REFUSALS_TOLD: Final = 20  # in the log, of one payload
OUTBOUND_PLACES: Final = 4  # addresses of one name that are tried
OUTBOUND_NAMES: Final = 4_096  # that one payload may look up; a whole web page has a hundred
OUTBOUND_IDLE_S: Final = 600.0

# --- agents that went away --------------------------------------------------------------------------------------------
AGENT_SILENCE_S: Final = 240.0  # where no accept timeout was agreed: as long as Golem's providers wait
MIN_AGENT_SILENCE_S: Final = 60.0  # whatever was agreed: programs retry for some seconds when they cannot reach us
MAX_ASKED_ACTIVITIES: Final = 10_000  # ids of activities that were asked for, whether they came to be or not
USUAL_NOTE_INTERVAL_S: Final = 120.0  # between debit notes, where none was agreed
AGENT_CHECK_S: Final = 5.0
DEMAND_SILENCE_S: Final = 900.0  # programs ask for events every few seconds; one that died withdraws nothing
MAX_PRESENCES: Final = 10_000  # keys remembered; a program has about ten for each agreement

# --- what an image has in its volumes ---------------------------------------------------------------------------------
MAX_SEED_FILES: Final = 100_000  # copied into the volumes of one activity; 4,000 take a second
SEED_TIMEOUT_S: Final = 300.0  # reading and copying, of all volumes; 1 GB takes 5 s
SEED_REMEMBERED_BYTES: Final = 64 * 1024  # a tar of what one image has at one path; mostly nothing
SEEDS_REMEMBERED: Final = 256

# --- journal and audit ------------------------------------------------------------------------------------------------
JOURNAL_PAGE: Final = 1_000  # entries read at a time; about 1 MiB
JOURNAL_CHECK_ENTRIES: Final = 1_000  # checked when the node starts; 20 ms. All of them: golemp2p audit verify
MAX_AUDIT_LINE_BYTES: Final = 8 * MIB  # an agreement has at most 0.5 MiB, a notice of 1,000 long ids 2
MAX_AUDIT_ENTRIES: Final = 10_000_000  # in one file; a busy provider writes about 3,000 a day
MAX_AUDIT_FINDINGS: Final = 1_000  # listed; the rest is counted

# --- payment: many messages in one call -------------------------------------------------------------------------------
MAX_BATCH_MESSAGES: Final = 64  # a note takes 0.5 ms, of one commit; all of them far less than PAYMENT_RPC_TIMEOUT_S
OUTBOX_BATCH_BYTES: Final = 512 * 1024  # of messages; a frame of the RPC has 2 MiB. One alone may be larger
MAX_ERROR_CHARS: Final = 2_000  # of a refusal that travels inside an answer

# --- access to chains -------------------------------------------------------------------------------------------------
MAX_CHAIN_ANSWER_BYTES: Final = 32 * MIB  # 1,000 blocks full of one token's transfers have about 10 MB
MAX_CHAIN_LOGS: Final = 100_000  # events in one answer
CHAIN_VERIFY_S: Final = 300.0  # an endpoint's chain id is asked again after so long
CHAIN_FAILOVER_S: Final = 4.0  # an endpoint that is slower is passed over while there are others
CHAIN_BACKOFF_S: Final = 0.5  # first pause of an endpoint that failed; doubles
CHAIN_BACKOFF_MAX_S: Final = 60.0  # also the longest Retry-After that is kept to
CHAIN_PENALTY_HALF_S: Final = 60.0  # a mistake of an endpoint counts half after so long
CHAIN_BROADCAST_GRACE_S: Final = 2.0  # for the other endpoints, once one has taken a transaction
CHAIN_FINALITY_STALL_S: Final = 600.0  # a finalized tag that stands still for so long is not waited for
LOG_SCAN_BLOCKS: Final = 1_000  # in one question; halved when an endpoint refuses
CONTACT_RETRY_S: Final = 60.0  # a network whose token or contracts were not the right ones is looked at again
WALLET_CHAIN_TIMEOUT_S: Final = 20.0  # for a preview that a person waits for
OVERDUE_GRACE_S: Final = 900.0  # after a due date: batching, and Ethereum's 13 minutes to finality
OVERDUE_CHECK_S: Final = 30.0  # between two looks at what is overdue

# --- payment: voucher channels ----------------------------------------------------------------------------------------
CHANNEL_GRACE_S: Final = 24 * 3_600  # of our channels: a provider that is offline for a night loses nothing
CHANNEL_MIN_GRACE_S: Final = 3_600  # of channels that we work for
CHANNEL_OPEN_TIMEOUT_S: Final = 180.0  # funding one, until it is final: two transactions
CHANNEL_IDLE_CLOSE_S: Final = 30 * 24 * 3_600.0  # unused for so long: the rest is fetched back
CHANNEL_CLAIM_THRESHOLD: Final = 10 * 10**18  # smallest units; a claim alone costs 53 k gas
CHANNEL_CLAIM_AFTER_S: Final = 7 * 24 * 3_600.0
CHANNEL_USUAL_EXPOSURE: Final = 10**17  # smallest units, where the offer names none: an hour of four threads
CHANNEL_DEPOSIT_EXPOSURES: Final = 10  # a deposit, when none is set, is so many times the agreed exposure
CHANNEL_USED_PARTS: Final = (4, 5)  # more than so much of the deposit: topped up by the payer, claimed by the payee
CHANNEL_WATCH_S: Final = 30.0  # how often a payee with unclaimed vouchers looks whether the payer closes
CHANNEL_PAYER_WATCH_S: Final = 60.0  # how often a payer looks for claims that nobody has told it of
CHANNEL_LOOK_RETRY_S: Final = 2.0  # first, after a look that failed; doubles
CHANNEL_LOOK_RETRY_MAX_S: Final = 60.0
CHANNEL_ORDER_RETRY_S: Final = 300.0  # after a claim or a close that failed on the chain
CHANNEL_DUST_RECHECK_S: Final = 300.0  # until a claim that was not worth its gas is judged again; well within a grace
CHANNELS_PER_CLAIM: Final = 100  # of the contract
MAX_CHANNELS_PER_PEER: Final = 8  # announced to us and not closed
MAX_CHANNELS_CACHED: Final = 4_096  # configurations that need not be read again for the next voucher
VOUCHERS_PER_S: Final = 20.0  # of one peer: one for each accepted document of all its agreements
VOUCHERS_BURST: Final = 400
VOUCHER_GROUP: Final = 256  # stored in one transaction
CHANNEL_CHECK_TIMEOUT_S: Final = 30.0  # a provider's look at the channel before it approves
EXPOSURE_CHECK_S: Final = 1.0  # how often a provider compares what its work costs with what is vouched for

# --- reaching each other: relays, dial-back, hole punching ------------------------------------------------------------
RELAY_MESSAGE_MAX_BYTES: Final = 4_096  # what libp2p's own relays take
RELAY_MAX_RESERVATIONS: Final = 256  # of a relay; each holds one connection
RELAY_RESERVATION_S: Final = 3_600
RELAY_RENEW_BEFORE_S: Final = 600.0  # two or three chances before it ends
RELAY_MAX_CIRCUITS: Final = 512  # of a relay; each is two streams, whose unread bytes are bounded by their windows
RELAY_MAX_CIRCUITS_PER_PEER: Final = 64  # from it and to it
RELAY_CIRCUIT_BYTES: Final = 4 * 1024 * MIB  # both ways together; then both sides connect again
RELAY_CIRCUIT_S: Final = 6 * 3_600
RELAY_CIRCUIT_IDLE_S: Final = 120.0  # the ends ping each other every KEEPALIVE_INTERVAL_S
RELAY_REQUESTS_PER_S: Final = 2.0  # of one peer
RELAY_REQUESTS_BURST: Final = 40
RELAY_HANDSHAKE_S: Final = 10.0  # any one message of it
RELAYS_WANTED: Final = 2  # one may go away
RELAY_MAX_ADDRESSES: Final = 2  # that we announce of each relay
DIAL_MAX_ADDRESSES: Final = 8  # of one peer; more are no honest node's
PEER_ADDRESSES: Final = 32  # of one peer, remembered, the newest first
DIAL_STAGGER_S: Final = 0.15  # between two addresses of a peer, tried beside each other
DIAL_RELAY_DELAY_S: Final = 0.5  # direct addresses are given so much of a start
DIAL_RELAYS_TRIED: Final = 3  # relays that we know, for a peer without an address that answers
REACH_LOOK_S: Final = 2.0  # how often relays and own addresses are looked at
REACH_LOOK_NEW_S: Final = 0.3  # after a new connection: identify takes so long
REACH_LOOK_MIN_S: Final = 0.05  # between two looks, however many peers come
REACH_ASK_S: Final = 600.0  # how often others are asked to dial us
REACH_ASK_FIRST_S: Final = 15.0  # as long as nobody could say
REACH_ASKED: Final = 3  # peers each time
DIALBACK_TIMEOUT_S: Final = 5.0  # for the TCP connection and its handshake; a NAT just drops it
DIALBACK_MAX_PORTS: Final = 2
DIALBACK_PER_S: Final = 0.1  # of one peer
DIALBACK_BURST: Final = 4
DIALBACK_AT_ONCE: Final = 4  # of all peers
PUNCH_TRIES: Final = 3  # as libp2p's specification has it
PUNCH_DIAL_S: Final = 4.0  # one try; a lost SYN is sent again after 1 s
PUNCH_MAX_ADDRESSES: Final = 4
PUNCH_PER_S: Final = 0.05  # of one peer
PUNCH_BURST: Final = 3
MDNS_QUEUE: Final = 64  # nodes found and not dialled yet, and dialled within MDNS_AGAIN_S; a LAN has fewer
MDNS_AGAIN_S: Final = 60.0
MDNS_RESOLVE_MS: Final = 3_000
UPNP_TIMEOUT_S: Final = 20.0  # to find a router and to ask it
UPNP_DISCOVER_MS: Final = 2_000
UPNP_LEASE_S: Final = 3_600.0  # renewed three times in it; a router forgets us soon after we are gone
RPC_IDLE_S: Final = 120.0  # a stream for calls without one for so long is closed; opening takes one round trip
SELFTEST_PEERS: Final = 2  # asked whether they hold our offers
SELFTEST_TRIED: Final = 6  # until so many of them could say
SELFTEST_TIMEOUT_S: Final = 25.0  # below what the commands wait for an answer of the node
PROBE_CONNECTION_S: Final = 5.0  # an older connection of a peer that made a new one
RELAYED_LINGER_S: Final = 30.0  # a relayed connection beside a direct one, before it is closed

# --- bulk lane: TLS sockets beside libp2p (net/lane*.py) --------------------------------------------------------------
LANE_MIN_BYTES: Final = 4 * MIB  # smaller files are there before a lane is set up
LANE_TICKET_S: Final = 15.0  # from the offer of a lane to its first byte
LANE_MAX_LANES: Final = 64  # at a time, theirs and ours, with those that are offered
LANE_MAX_LANES_PER_PEER: Final = 16  # further transfers take libp2p streams
LANE_THREADS: Final = 4 * LANE_MAX_LANES  # one reads, one writes, two hash
LANE_MAX_PENDING: Final = 64  # connections that have not shown a ticket yet; further ones are closed
LANE_MAX_PENDING_PER_HOST: Final = 16  # several nodes may share an address; localnet has all on one
LANE_HELLO_S: Final = 5.0  # from accept to a ticket; 20 bytes that are sent at once
LANE_HANDSHAKE_S: Final = 10.0  # TLS and token; takes 5 ms
LANE_DIAL_S: Final = 3.0  # all attempts of one side; then the other one dials, or libp2p carries it
LANE_DIAL_STAGGER_S: Final = 0.15  # between attempts at one peer's addresses
LANE_MAX_PLACES: Final = 8  # addresses that are offered, and that are tried
LANE_MAX_CERT_BYTES: Final = 1024  # ours have about 320
LANE_FORGET_S: Final = 300.0  # so long no lane is tried with a peer that could not be reached by one
LANE_REMEMBERED_PEERS: Final = 1_000
LANE_BLOCK_BYTES: Final = MIB  # one buffer between two threads
LANE_BUFFERS: Final = 4  # of one transfer
LANE_SOCKET_BYTES: Final = 256 * 1024  # read and written at a time
LANE_LINGER_S: Final = 1.0  # for the peer to read our last words before the socket goes
LANE_PROGRESS_S: Final = 0.2
SHARE_RUN_CHUNKS: Final = 8  # asked of the owner at once, while there are no peers to share with
SHARE_RUN_S: Final = 0.2  # a run that takes longer is followed by a shorter one
LANE_UNNAMED_FILES: Final = 1_000  # that wait to be hashed by sha3-256, too

# --- networks (issue 6) -----------------------------------------------------------------------------------------------
MAX_PROFILE_BYTES: Final = 64 * 1024  # a network profile; a real one has 1 KiB
PROFILE_FETCH_TIMEOUT_S: Final = 20.0
DNSADDR_TIMEOUT_S: Final = 5.0
DNSADDR_MAX_ADDRESSES: Final = 64  # of one name, all that it refers to included
DNSADDR_MAX_DEPTH: Final = 4  # names that refer to names
BOOTNODE_REPORT_S: Final = 60.0  # between two lines of a bootnode's log
RENDEZVOUS_ABOVE_OFFERS: Final = 2_000  # in a subnet: from then on offers are found by the DHT instead of gossiped
RENDEZVOUS_SHARDS: Final = 64  # parts of the offers of one runtime; a DHT node keeps a few hundred providers of one
RENDEZVOUS_PROVIDE_S: Final = 1_200.0  # how often a provider announces itself; DHT nodes forget after hours
RENDEZVOUS_FIND_LIMIT: Final = 32  # providers of one shard
RENDEZVOUS_ENOUGH: Final = 100  # matching offers for one demand; then the search pauses
RENDEZVOUS_AGAIN_S: Final = 60.0  # after which a demand's search goes on with the shards not asked yet
RENDEZVOUS_ASKED_AT_ONCE: Final = 8  # providers
RENDEZVOUS_OFFERS: Final = 16  # of one provider
TARGET_PEERS: Final = 8  # a gossip mesh of 6 wants some more; below it we ask peers for others
MIN_OUTBOUND_PEERS: Final = 4  # that we dialled: whoever fills our inbound places does not choose these
MAX_PEERS_OF_GROUP: Final = 4  # that we dial in one /16 outside of private networks: one owner must not be all we know
RESERVED_OUTBOUND: Final = 50  # of MAX_CONNECTIONS, that inbound connections cannot take
PEER_EXCHANGE_AGAIN_S: Final = 5.0  # how often one peer may ask on average
PEER_EXCHANGE_BURST: Final = 10
PEER_EXCHANGE_ADDRESSES: Final = 16
PEER_EXCHANGE_BYTES: Final = 16 * 1024
PEER_EXCHANGE_TIMEOUT_S: Final = 10.0
PEER_GROW_MAX_S: Final = 60.0  # between two questions for peers when none brought any
DIALS_OF_ONE_ANSWER: Final = 4  # that we dial, so that one peer does not choose all our peers
ANCHORS: Final = 16  # peers remembered over a restart
ANCHORS_KEEP_S: Final = 300.0  # how often they are written down
GRAYLIST_S: Final = 600.0  # after a ban: what the peer forwards is ignored
FAULT_HALF_LIFE_S: Final = 600.0
PEER_BAN_GROWTH: Final = 4  # 1, 4, 16 minutes
PEER_BAN_MAX_S: Final = 3_600.0
BANS_REMEMBERED_S: Final = 86_400.0

# --- market: the index of offers --------------------------------------------------------------------------------------
MATCH_COLUMNS: Final = 128  # properties that demands asked about, remembered; half a MB each for 100,000 offers
MATCH_CLAUSES: Final = 256  # of one property, whose answers are remembered
MATCH_SHAPES: Final = 256  # forms of offers' constraints that are looked at together; a network has a handful
MATCH_FLAT_CHARS: Final = 1_024  # of constraints that can have such a form
MATCH_SPARE_SLOTS: Final = 1_000  # empty ones, beside as many as are in use
OUTCOME_KEEP_S: Final = 1_800.0  # how long the last attempt at an offer explains something
OUTCOME_MAX_CHARS: Final = 300  # of a foreign reason
MAX_OUTCOMES: Final = 5_000
MAX_GONE_OFFERS: Final = 500  # withdrawn ones that explain something: a busy provider withdraws its offer
SDK_EXPLAIN_AFTER_S: Final = 10.0  # a job that waits so long for a provider says why
SDK_EXPLAIN_AGAIN_S: Final = 60.0
BOOTNODE_LOOK_S: Final = 5.0
BOOTNODE_PEERS_HIGH: Final = 200  # of 250 inbound places: above it a bootnode lets those go who have others by now
BOOTNODE_PEERS_LOW: Final = 120
BOOTNODE_STAY_S: Final = 30.0  # in which a new node has found others
