/*
 * Members that catch up, with as much data as there is.
 *
 * The engine gives a snapshot thirty seconds from its first byte to its last effect, and a member that is to vote fifty.
 * What takes longer is begun anew, for ever; and the log that was written meanwhile may be gone when the snapshot has
 * arrived. Here the time counts from the last progress, and the log waits for whoever is catching up. The owner is told how
 * far it is.
 *
 * Everything here is on the loop's thread.
 */
#include <stdlib.h>

#include "internal.h"

#include "raft.h"
#include "raft/configuration.h"
#include "raft/log.h"
#include "raft/progress.h"
#include "raft/uv_encoding.h"
#include "server.h"

enum { TICK_MS = 1000 };

/* What a member may take without visible progress: the engine's own figure for a round of catching up. */
enum { PATIENCE_MS = 50 * 1000 };

/* The same while it takes entries: then it answers, unless its disk or its loop is busy. */
enum { FOLLOW_MS = 30 * 1000 };

/* How fast, at the least, a member puts a snapshot on its disk and into its memory; nothing is heard of it meanwhile. */
enum { INSTALL_BYTES_PER_MS = 10 * 1000 };

/* How much log is kept for a member that catches up, unless the snapshot that it would get instead is larger. */
enum { KEEP_BYTES = 64 << 20 };

/* A member that this node, as the leader, brings up to date. */
struct transfer {
	struct transfer *next;
	raft_id peer;
	enum glue_stage stage;
	uint64_t done, total;
	uint64_t size;      /* of the snapshot; 0 = it needs none */
	raft_time moved_at; /* when it last came nearer */
	bool told;          /* the owner knows of it */
	struct raft_io_send *req; /* the snapshot's message, until it is sent */
	raft_io_send_cb sent;
	const void *data;
	uv_stream_t *stream;
	raft_index from, target; /* the entries */
};

struct glue_transfers {
	struct dqlite_node *engine;
	const struct glue_options *options;
	uv_timer_t timer;
	struct transfer *first;
	unsigned reading;    /* snapshots that are read from the disk in order to be sent */
	uv_stream_t *source; /* of the snapshot that this node receives */
	uint64_t received, expected;
	bool installing;
	int (*send)(struct raft_io *, struct raft_io_send *, const struct raft_message *, raft_io_send_cb);
	int (*snapshot_get)(struct raft_io *, struct raft_io_snapshot_get *, raft_io_snapshot_get_cb);
	raft_io_snapshot_get_cb got;
};

static void tell(struct glue_transfers *all, raft_id peer, enum glue_stage stage, uint64_t done, uint64_t total)
{
	struct glue_progress progress = { .peer = peer, .stage = stage, .done = done, .total = total };
	all->options->progress(all->options->data, &progress);
}

static raft_time now_of(struct glue_transfers *all)
{
	return all->engine->raft_io.time(&all->engine->raft_io);
}

static void tick(uv_timer_t *timer);

static void watch(struct glue_transfers *all)
{
	uv_handle_t *timer = (uv_handle_t *)&all->timer;
	if (!uv_is_closing(timer) && !uv_is_active(timer)) {
		uv_timer_start(&all->timer, tick, TICK_MS, TICK_MS);
	}
}

static struct transfer *transfer_begin(struct glue_transfers *all, raft_id peer, enum glue_stage stage)
{
	struct transfer *transfer = calloc(1, sizeof *transfer);
	if (transfer != NULL) {
		transfer->peer = peer;
		transfer->stage = stage;
		transfer->moved_at = now_of(all);
		transfer->next = all->first;
		all->first = transfer;
		watch(all);
	}
	return transfer;
}

static void transfer_end(struct glue_transfers *all, struct transfer *transfer)
{
	struct transfer **place = &all->first;
	while (*place != transfer) {
		place = &(*place)->next;
	}
	*place = transfer->next;
	free(transfer);
}

static void transfer_tell(struct glue_transfers *all, struct transfer *transfer, enum glue_stage stage)
{
	transfer->told = true;
	tell(all, transfer->peer, stage, transfer->done, transfer->total);
}

static struct transfer *transfer_to(struct glue_transfers *all, raft_id peer)
{
	struct transfer *transfer = all->first;
	while (transfer != NULL && transfer->peer != peer) {
		transfer = transfer->next;
	}
	return transfer;
}

bool glue_snapshot_was_sent(uint64_t peer)
{
	const struct transfer *transfer = transfer_to(glue_transfers_here(), peer);
	return transfer != NULL && transfer->stage == GLUE_INSTALLING;
}

/* The engine counts from when it began. As long as the member comes nearer, that is not what matters. */
static void be_patient(struct glue_transfers *all, unsigned i)
{
	struct raft *raft = &all->engine->raft;
	if (progressState(raft, i) == PROGRESS__SNAPSHOT) {
		progressUpdateSnapshotLastSend(raft, i);
	}
	if (raft->leader_state.promotee_id == raft->configuration.servers[i].id) {
		raft_time round = now_of(all) - raft->leader_state.round_start;
		raft_set_max_catch_up_round_duration(raft, (unsigned)round + PATIENCE_MS);
	}
}

static bool still_sends(struct glue_transfers *all, struct transfer *transfer)
{
	uint64_t waiting = transfer->stream != NULL ? uv_stream_get_write_queue_size(transfer->stream) : transfer->total;
	uint64_t done = waiting < transfer->total ? transfer->total - waiting : 0;
	if (done > transfer->done) {
		transfer->done = done;
		transfer->moved_at = now_of(all);
	}
	transfer_tell(all, transfer, GLUE_SENDING);
	return true;
}

static bool still_installs(struct glue_transfers *all, struct transfer *transfer, unsigned i)
{
	struct raft *raft = &all->engine->raft;
	if (progressState(raft, i) == PROGRESS__SNAPSHOT) {
		/* Nothing is heard of it; the engine's patience follows after ours. */
		return now_of(all) - transfer->moved_at < transfer->size / INSTALL_BYTES_PER_MS + PATIENCE_MS;
	}
	transfer->stage = GLUE_FOLLOWING;
	transfer->from = progressMatchIndex(raft, i);
	transfer->target = logLastIndex(raft->log);
	transfer->done = 0;
	transfer->moved_at = now_of(all);
	return true;
}

static bool still_follows(struct glue_transfers *all, struct transfer *transfer, unsigned i)
{
	struct raft *raft = &all->engine->raft;
	raft_index match = progressMatchIndex(raft, i);
	uint64_t done = match > transfer->from ? match - transfer->from : 0;
	if (done > transfer->done) {
		transfer->moved_at = now_of(all);
	}
	transfer->done = done;
	transfer->total = transfer->target - transfer->from;
	if (match >= transfer->target) {
		if (transfer->told) {
			transfer_tell(all, transfer, GLUE_CAUGHT_UP);
		}
		return false;
	}
	transfer_tell(all, transfer, GLUE_FOLLOWING);
	return now_of(all) - transfer->moved_at < FOLLOW_MS;
}

/* Looks how far the member is; false if there is nothing to look for any more. */
static bool transfer_goes_on(struct glue_transfers *all, struct transfer *transfer)
{
	struct raft *raft = &all->engine->raft;
	unsigned i = raft->state == RAFT_LEADER ? configurationIndexOf(&raft->configuration, transfer->peer) : 0;
	if (raft->state != RAFT_LEADER || i == raft->configuration.n) {
		return false;
	}
	raft_time before = transfer->moved_at;
	bool goes_on = transfer->stage == GLUE_SENDING	    ? still_sends(all, transfer)
		       : transfer->stage == GLUE_INSTALLING ? still_installs(all, transfer, i)
							    : still_follows(all, transfer, i);
	if (transfer->moved_at != before || (goes_on && transfer->stage == GLUE_INSTALLING)) {
		be_patient(all, i);
	}
	return goes_on;
}

static bool still_receives(struct glue_transfers *all)
{
	if (all->source != NULL) {
		tell(all, 0, GLUE_RECEIVING, all->received, all->expected);
	} else if (all->installing && all->engine->raft.snapshot.put.data == NULL &&
		   glue_install_of(&all->engine->raft)->late == NULL) {
		all->installing = false;
		tell(all, 0, GLUE_INSTALLED, all->expected, all->expected);
	}
	return all->source != NULL || all->installing;
}

static void tick(uv_timer_t *timer)
{
	struct glue_transfers *all = timer->data;
	struct raft *raft = &all->engine->raft;
	struct transfer *next;
	for (struct transfer *transfer = all->first; transfer != NULL; transfer = next) {
		next = transfer->next;
		if (!transfer_goes_on(all, transfer) && transfer->req == NULL) {
			transfer_end(all, transfer);
		}
	}
	for (unsigned i = 0; all->reading > 0 && raft->state == RAFT_LEADER && i < raft->configuration.n; i++) {
		be_patient(all, i);
	}
	if (!still_receives(all) && all->first == NULL && all->reading == 0) {
		raft_set_max_catch_up_round_duration(raft, PATIENCE_MS);
		uv_timer_stop(timer);
	}
}

static void snapshot_sent(struct raft_io_send *req, int status)
{
	struct glue_transfers *all = glue_transfers_here();
	struct transfer *transfer = all->first;
	while (transfer->req != req) {
		transfer = transfer->next;
	}
	raft_io_send_cb sent = transfer->sent;
	transfer->req = NULL;
	if (status == 0) {
		transfer->done = transfer->total;
		transfer->stage = GLUE_INSTALLING;
		transfer->moved_at = now_of(all);
		transfer_tell(all, transfer, GLUE_INSTALLING);
	} else {
		if (status != RAFT_CANCELED) {
			transfer_tell(all, transfer, GLUE_FAILED);
		}
		transfer_end(all, transfer);
	}
	sent(req, status);
}

static int send_snapshot(struct glue_transfers *all,
			 struct raft_io *io,
			 struct raft_io_send *req,
			 const struct raft_message *message,
			 raft_io_send_cb sent)
{
	struct transfer *transfer = transfer_to(all, message->server_id);
	if (transfer != NULL && transfer->req == NULL) {
		transfer_end(all, transfer);
	}
	transfer = transfer_begin(all, message->server_id, GLUE_SENDING);
	if (transfer == NULL) {
		return RAFT_NOMEM;
	}
	transfer->data = message->install_snapshot.data.base;
	transfer->size = transfer->total = message->install_snapshot.data.len;
	transfer->req = req;
	transfer->sent = sent;
	transfer_tell(all, transfer, GLUE_SENDING);
	int rv = all->send(io, req, message, snapshot_sent);
	if (rv != 0) {
		transfer_end(all, transfer);
	}
	return rv;
}

/* The member is there, and lacks more than one message holds. */
static bool is_behind(struct glue_transfers *all, const struct raft_message *message)
{
	const struct raft_append_entries *args = &message->append_entries;
	struct raft *raft = &all->engine->raft;
	if (message->type != RAFT_IO_APPEND_ENTRIES || args->n_entries == 0 ||
	    args->prev_log_index + args->n_entries >= logLastIndex(raft->log)) {
		return false;
	}
	unsigned i = configurationIndexOf(&raft->configuration, message->server_id);
	return i < raft->configuration.n && progressState(raft, i) == PROGRESS__PIPELINE && progressGetRecentRecv(raft, i);
}

static int send_message(struct raft_io *io,
			struct raft_io_send *req,
			const struct raft_message *message,
			raft_io_send_cb sent)
{
	struct glue_transfers *all = glue_transfers_here();
	struct raft_message bounded = *message;
	if (message->server_id == 0) {
		/* The answer to a leader whose link has ended. */
		return RAFT_NOCONNECTION;
	}
	if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
		return send_snapshot(all, io, req, message, sent);
	}
	if (message->type == RAFT_IO_APPEND_ENTRIES) {
		glue_bound_commit(&bounded.append_entries);
	}
	if (is_behind(all, message) && transfer_to(all, message->server_id) == NULL) {
		struct transfer *transfer = transfer_begin(all, message->server_id, GLUE_FOLLOWING);
		if (transfer != NULL) {
			transfer->from = message->append_entries.prev_log_index;
			transfer->target = logLastIndex(all->engine->raft.log);
		}
	}
	return all->send(io, req, &bounded, sent);
}

static void snapshot_got(struct raft_io_snapshot_get *req, struct raft_snapshot *snapshot, int status)
{
	struct glue_transfers *all = glue_transfers_here();
	all->reading--;
	all->got(req, snapshot, status);
}

static int get_snapshot(struct raft_io *io, struct raft_io_snapshot_get *req, raft_io_snapshot_get_cb got)
{
	struct glue_transfers *all = glue_transfers_here();
	all->got = got; /* always the same */
	int rv = all->snapshot_get(io, req, snapshot_got);
	if (rv == 0) {
		all->reading++;
		watch(all);
	}
	return rv;
}

/* Stands in for uv_write in uv_send.c: this is the link that the snapshot takes. */
int glue_raft_write(uv_write_t *req, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n, uv_write_cb cb);
int glue_raft_write(uv_write_t *req, uv_stream_t *stream, const uv_buf_t bufs[], unsigned n, uv_write_cb cb)
{
	for (struct transfer *transfer = glue_transfers_here()->first; transfer != NULL; transfer = transfer->next) {
		if (transfer->req != NULL && n > 1 && bufs[n - 1].base == transfer->data) {
			transfer->stream = stream;
		}
	}
	return glue_write_in_parts(req, stream, bufs, n, cb);
}

/* Stand in for uv_read_start and uvDecodeMessage in uv_recv.c: how much of a snapshot has arrived. */
static _Atomic(uv_read_cb) engine_read_cb;
static __thread uv_stream_t *reading_from;

uv_stream_t *glue_link_read(void)
{
	return reading_from;
}

static void raft_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct glue_transfers *all = glue_transfers_here();
	if (all->source == stream) {
		all->received += n > 0 ? (uint64_t)n : 0;
		if (n < 0) {
			all->source = NULL;
		}
	}
	reading_from = stream;
	atomic_load(&engine_read_cb)(stream, n, buf);
	if (all->source == stream && all->received >= all->expected) {
		all->source = NULL;
		all->installing = true;
		tell(all, 0, GLUE_RECEIVING, all->received, all->expected);
	}
}

int glue_raft_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb read);
int glue_raft_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb read)
{
	atomic_store(&engine_read_cb, read); /* always the same */
	return uv_read_start(stream, alloc, raft_read);
}

int glue_decode_message(uint16_t type, const uv_buf_t *header, struct raft_message *message, size_t *payload_len);
int glue_decode_message(uint16_t type, const uv_buf_t *header, struct raft_message *message, size_t *payload_len)
{
	struct glue_transfers *all = glue_transfers_here();
	if (!glue_message_is_whole(type, header)) {
		return RAFT_MALFORMED;
	}
	int rv = uvDecodeMessage(type, header, message, payload_len);
	if (rv == 0 && type == RAFT_IO_INSTALL_SNAPSHOT) {
		all->source = reading_from;
		all->received = 0;
		all->expected = *payload_len;
		tell(all, 0, GLUE_RECEIVING, 0, all->expected);
		watch(all);
	}
	return rv;
}

static bool outweigh(struct raft_log *log, raft_index first, raft_index last, uint64_t limit)
{
	uint64_t bytes = 0;
	for (raft_index index = first; index <= last && bytes <= limit; index++) {
		const struct raft_entry *entry = logGet(log, index);
		bytes += entry != NULL ? entry->buf.len : 0;
	}
	return bytes > limit;
}

/* What the member would get instead of the log; KEEP_BYTES if that is less. */
static uint64_t snapshot_size(struct raft *raft, const struct transfer *transfer)
{
	uint64_t size = glue_growth_of(raft)->size;
	size = transfer != NULL && transfer->size > size ? transfer->size : size;
	return size > KEEP_BYTES ? size : KEEP_BYTES;
}

/* The oldest index behind which the log does not weigh too much; `oldest` if it does not. */
static raft_index light_enough(struct raft *raft, raft_index oldest, raft_index last)
{
	struct raft_log *log = raft->log;
	uint64_t bytes = 0, limit = glue_trailing_bytes(glue_growth_of(raft)->size);
	raft_index index = last;
	while (index > oldest) {
		const struct raft_entry *entry = logGet(log, index);
		bytes += entry != NULL ? entry->buf.len : 0;
		if (bytes > limit) {
			break;
		}
		index--;
	}
	return index;
}

/*
 * Stands in for logSnapshot in replication.c. What a member needs after the snapshot that it is being sent stays in the log;
 * otherwise it would need another one when it has that, and so on as long as there are writes.
 */
void glue_log_snapshot(struct raft_log *log, raft_index last, unsigned trailing);
void glue_log_snapshot(struct raft_log *log, raft_index last, unsigned trailing)
{
	struct glue_transfers *all = glue_transfers_here();
	struct raft *raft = &all->engine->raft;
	unsigned members = raft->state == RAFT_LEADER ? raft->configuration.n : 0;
	raft_index oldest = last > trailing ? last - trailing : 0;
	if (all->options->snapshot_threshold == 0) {
		oldest = light_enough(raft, oldest, last);
	}
	for (unsigned i = 0; i < members; i++) {
		struct transfer *transfer = transfer_to(all, raft->configuration.servers[i].id);
		raft_index has = progressState(raft, i) == PROGRESS__SNAPSHOT ? raft->leader_state.progress[i].snapshot_index
				 : transfer != NULL			      ? progressMatchIndex(raft, i)
									      : last;
		uint64_t limit = snapshot_size(raft, transfer);
		/* The entry that it has is what the next ones are checked against. */
		if (has > 0 && has <= oldest && !outweigh(log, has, oldest, limit)) {
			oldest = has - 1;
		}
	}
	logSnapshot(log, last, (unsigned)(last - oldest));
}

struct glue_transfers *glue_transfers_open(struct dqlite_node *engine, const struct glue_options *options)
{
	struct glue_transfers *all = calloc(1, sizeof *all);
	if (all != NULL) {
		all->engine = engine;
		all->options = options;
		uv_timer_init(&engine->loop, &all->timer);
		all->timer.data = all;
		uv_unref((uv_handle_t *)&all->timer);
		all->send = engine->raft_io.send;
		all->snapshot_get = engine->raft_io.snapshot_get;
		engine->raft_io.send = send_message;
		engine->raft_io.snapshot_get = get_snapshot;
	}
	return all;
}

void glue_transfers_detach(struct glue_transfers *all)
{
	uv_close((uv_handle_t *)&all->timer, NULL);
}

void glue_transfers_free(struct glue_transfers *all)
{
	while (all->first != NULL) {
		transfer_end(all, all->first);
	}
	free(all);
}
