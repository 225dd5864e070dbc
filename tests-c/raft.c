/*
 * raft alone, as the build has changed it, on its own storage and on a stand-in for that: what the disk holds, and what other
 * members are told, where something goes wrong at the wrong moment. tests-c/run compiles it with raft's sources; what the
 * library's glue adds to them is left out here, or stands at the end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "raft.h"
#include "raft/configuration.h"
#include "raft/convert.h"
#include "raft/log.h"
#include "raft/progress.h"
#include "raft/recv.h"
#include "raft/replication.h"
#include "raft/uv_fs.h"

/* The engine has one of its own, which ends nothing. */
#undef CHECK
#include "check.h"

/* --- raft's storage --- */

static struct raft_uv_transport transport;
static struct raft_io io;
static uv_loop_t loop;
static bool stored; /* a snapshot */
static unsigned finished; /* appends */
static bool closed;

static int transport_init(struct raft_uv_transport *t, raft_id id, const char *address)
{
	(void)t, (void)id, (void)address;
	return 0;
}

static int transport_listen(struct raft_uv_transport *t, raft_uv_accept_cb cb)
{
	(void)t, (void)cb;
	return 0;
}

static int transport_connect(struct raft_uv_transport *t,
			     struct raft_uv_connect *request,
			     raft_id id,
			     const char *address,
			     raft_uv_connect_cb cb)
{
	(void)t, (void)request, (void)id, (void)address, (void)cb;
	return RAFT_NOCONNECTION;
}

static void transport_close(struct raft_uv_transport *t, raft_uv_transport_close_cb cb)
{
	cb(t);
}

static void open_storage(void)
{
	transport = (struct raft_uv_transport){
		.version = 1,
		.init = transport_init,
		.listen = transport_listen,
		.connect = transport_connect,
		.close = transport_close,
	};
	memset(&io, 0, sizeof io);
	CHECK_INT(uv_loop_init(&loop), 0);
	CHECK_INT(raft_uv_init(&io, &loop, test_dir(), &transport), 0);
	raft_uv_set_snapshot_compression(&io, false);
	CHECK_INT(io.init(&io, 1, "1"), 0);
}

static void was_closed(struct raft_io *which)
{
	(void)which;
	closed = true;
}

static void close_storage(void)
{
	closed = false;
	io.close(&io, was_closed);
	while (!closed) {
		uv_run(&loop, UV_RUN_ONCE);
	}
}

static size_t load(struct raft_entry **entries, raft_index *first)
{
	raft_term term;
	raft_id vote;
	struct raft_snapshot *snapshot;
	size_t n;
	CHECK_INT(io.load(&io, &term, &vote, &snapshot, first, entries, &n), 0);
	return n;
}

static void bootstrap(void)
{
	struct raft_configuration configuration;
	struct raft_entry *entries;
	raft_index first;
	raft_configuration_init(&configuration);
	raft_configuration_add(&configuration, 1, "1", RAFT_VOTER);
	CHECK_INT(io.bootstrap(&io, &configuration), 0);
	CHECK_INT(load(&entries, &first), 1);
}

static void was_appended(struct raft_io_append *request, int status)
{
	CHECK_INT(status, 0);
	free(request);
	finished++;
}

/* Entries of one word each; they are finished some time later. */
static void append(raft_term term, unsigned n)
{
	struct raft_io_append *request = calloc(1, sizeof *request);
	struct raft_entry *entries = calloc(n, sizeof *entries);
	for (unsigned i = 0; i < n; i++) {
		entries[i] = (struct raft_entry){ .term = term, .type = RAFT_COMMAND };
		entries[i].buf = (struct raft_buffer){ .base = calloc(1, 8), .len = 8 };
	}
	CHECK_INT(io.append(&io, request, entries, n, was_appended), 0);
}

static void run_until_finished(unsigned appends)
{
	while (finished < appends) {
		uv_run(&loop, UV_RUN_ONCE);
	}
}

static void truncate_at(raft_index index)
{
	CHECK_INT(io.truncate(&io, raft_malloc(sizeof(struct raft_io_truncate)), index), 0);
}

static void was_stored(struct raft_io_snapshot_put *request, int status)
{
	(void)request;
	CHECK_INT(status, 0);
	stored = true;
}

/* It takes some tenths of a second to write. */
enum { LARGE = 400 << 20, SMALL = 8 };

static void put_snapshot(raft_index index,
			 raft_term term,
			 size_t size,
			 struct raft_io_snapshot_put *request,
			 struct raft_snapshot *snapshot)
{
	static struct raft_buffer buffer;
	buffer = (struct raft_buffer){ .base = malloc(size), .len = size };
	CHECK(buffer.base != NULL);
	memset(buffer.base, 7, size);
	*snapshot = (struct raft_snapshot){
		.index = index, .term = term, .configuration_index = 1, .bufs = &buffer, .n_bufs = 1
	};
	raft_configuration_init(&snapshot->configuration);
	raft_configuration_add(&snapshot->configuration, 1, "1", RAFT_VOTER);
	CHECK_INT(io.snapshot_put(&io, 1000, request, snapshot, was_stored), 0);
}

/* The last entries are of the later term, and nothing stands twice. */
static void check_log(unsigned length, raft_term last, unsigned of_last)
{
	struct raft_entry *entries;
	raft_index first;
	size_t n;
	open_storage();
	n = load(&entries, &first);
	CHECK_INT(first + n - 1, length);
	for (size_t i = 0; i < n; i++) {
		raft_term want = first + i > length - of_last ? last : 1;
		CHECK_INT(entries[i].term, want);
	}
}

/* A former leader takes a snapshot, and hears from the next leader that its last entry does not hold. */
static void a_truncation_amid_a_snapshot(void)
{
	struct raft_io_snapshot_put request;
	struct raft_snapshot snapshot;
	open_storage();
	bootstrap();
	append(1, 3);
	run_until_finished(1);
	put_snapshot(4, 1, LARGE, &request, &snapshot);
	append(1, 2);
	run_until_finished(2);
	CHECK(!stored); /* or it is too short for this test */
	truncate_at(6);
	append(2, 3);
	run_until_finished(3);
	while (!stored) {
		uv_run(&loop, UV_RUN_ONCE);
	}
	close_storage();
	check_log(8, 2, 3);
}

static jmp_buf lost;

/* A directory has the name that the segment would get. */
static void a_segment_that_gets_no_name(void)
{
	open_storage();
	bootstrap();
	append(1, 3);
	run_until_finished(1);
	CHECK_INT(mkdir(path_in_test_dir("0000000000000002-0000000000000004"), 0700), 0);
	if (setjmp(lost) != 0) {
		return;
	}
	truncate_at(4);
	append(2, 1);
	run_until_finished(2);
	check_fail(__FILE__, __LINE__, "it went on");
}

static void was_refused(struct raft_io_append *request, int status)
{
	static struct raft_entry entry = { .term = 1, .type = RAFT_COMMAND };
	(void)request;
	entry.buf = (struct raft_buffer){ .base = calloc(1, 8), .len = 8 };
	CHECK(status != 0);
	CHECK(io.append(&io, calloc(1, sizeof(struct raft_io_append)), &entry, 1, was_appended) != 0);
	finished++;
}

/* The entry is too large for the disk, or for what this process may write. */
static void an_append_amid_failures(void)
{
	struct rlimit small = { 9 << 20, 9 << 20 };
	struct raft_io_append *request = calloc(1, sizeof *request);
	struct raft_entry entry = { .term = 1, .type = RAFT_COMMAND };
	entry.buf = (struct raft_buffer){ .base = calloc(1, 16 << 20), .len = 16 << 20 };
	open_storage();
	bootstrap();
	append(1, 3);
	run_until_finished(1);
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &small), 0);
	signal(SIGXFSZ, SIG_IGN);
	CHECK_INT(io.append(&io, request, &entry, 1, was_refused), 0);
	run_until_finished(2);
	append(2, 2);
	run_until_finished(3);
	close_storage();
	check_log(6, 2, 2);
}

static unsigned removals_left = 1000;
static bool asserts;

int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __wrap_unlink(const char *path)
{
	if (removals_left == 0) {
		errno = EIO;
		return -1;
	}
	removals_left--;
	return __real_unlink(path);
}

/* As a crash ends it that comes between two segments. */
static void a_truncation_that_ends_between_segments(void)
{
	struct raft_entry *entries;
	raft_index first;
	for (unsigned i = 0; i < 3; i++) {
		open_storage();
		if (i == 0) {
			bootstrap();
		} else {
			load(&entries, &first);
		}
		append(1, 3);
		run_until_finished(i + 1);
		close_storage();
	}
	open_storage();
	CHECK_INT(load(&entries, &first), 10);
	removals_left = 1;
	asserts = true; /* that it succeeded */
	if (setjmp(lost) == 0) {
		truncate_at(5);
		for (double until = now() + 5; now() < until;) {
			uv_run(&loop, UV_RUN_NOWAIT);
		}
		check_fail(__FILE__, __LINE__, "it went on");
	}
	removals_left = 1000;
	open_storage();
	CHECK_INT(load(&entries, &first), 7);
}

/* The crash came between the two: the snapshot is there, and the log that it replaces. */
static void a_snapshot_whose_log_was_not_removed(void)
{
	struct raft_io_snapshot_put request;
	struct raft_snapshot snapshot;
	struct raft_entry *entries;
	raft_index first;
	open_storage();
	bootstrap();
	append(1, 9);
	run_until_finished(1);
	put_snapshot(6, 2, SMALL, &request, &snapshot);
	while (!stored) {
		uv_run(&loop, UV_RUN_ONCE);
	}
	close_storage();
	for (unsigned start = 0; start < 2; start++) {
		open_storage();
		CHECK_INT(load(&entries, &first), start);
		CHECK_INT(first, 7);
		append(2, 1);
		run_until_finished(2 + start);
		close_storage();
	}
}

/* --- raft's storage without memory --- */

static unsigned reallocations_left = 1000000;
static bool no_memory, no_buffers;

static void *heap_malloc(void *data, size_t size)
{
	(void)data;
	return no_memory ? NULL : malloc(size);
}

static void heap_free(void *data, void *block)
{
	(void)data;
	free(block);
}

static void *heap_calloc(void *data, size_t n, size_t size)
{
	(void)data;
	return no_memory ? NULL : calloc(n, size);
}

static void *heap_realloc(void *data, void *block, size_t size)
{
	(void)data;
	return no_memory || reallocations_left-- == 0 ? NULL : realloc(block, size);
}

static void *heap_aligned_alloc(void *data, size_t alignment, size_t size)
{
	(void)data;
	return no_buffers ? NULL : aligned_alloc(alignment, size);
}

static void heap_aligned_free(void *data, size_t alignment, void *block)
{
	(void)data, (void)alignment;
	free(block);
}

static void use_own_heap(void)
{
	static struct raft_heap heap = {
		.malloc = heap_malloc,
		.free = heap_free,
		.calloc = heap_calloc,
		.realloc = heap_realloc,
		.aligned_alloc = heap_aligned_alloc,
		.aligned_free = heap_aligned_free,
	};
	raft_heap_set(&heap);
}

static void an_open_segment_without_memory(void)
{
	struct raft_entry *entries;
	struct raft_snapshot *snapshot;
	raft_index first;
	raft_term term;
	raft_id vote;
	size_t n;
	int rv = RAFT_NOMEM;
	open_storage();
	bootstrap();
	append(1, 3);
	run_until_finished(1);
	append(1, 2);
	run_until_finished(2);
	close_storage();
	CHECK_INT(rename(path_in_test_dir("0000000000000002-0000000000000006"), path_in_test_dir("open-1")), 0);
	use_own_heap();
	for (unsigned left = 0; rv == RAFT_NOMEM; left++) {
		open_storage();
		reallocations_left = left;
		rv = io.load(&io, &term, &vote, &snapshot, &first, &entries, &n);
	}
	CHECK_INT(rv, 0);
	CHECK_INT(n, 6);
}

static void a_write_without_a_buffer(void)
{
	use_own_heap();
	open_storage();
	bootstrap();
	if (setjmp(lost) != 0) {
		return;
	}
	append(1, 1);
	no_buffers = true;
	for (double until = now() + 5; finished == 0 && now() < until;) {
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	check_fail(__FILE__, __LINE__, "it went on");
}

static void *no_malloc(size_t size)
{
	(void)size;
	return NULL;
}

static void a_snapshot_without_a_name(void)
{
	char reason[RAFT_ERRMSG_BUF_SIZE];
	struct raft_buffer buffer = { .base = reason, .len = sizeof reason };
	open_storage();
	CHECK(fcntl(0, F_GETFD) >= 0);
	uv_replace_allocator(no_malloc, realloc, calloc, free);
	CHECK(UvFsMakeCompressedFile(test_dir(), "snapshot", &buffer, 1, reason) != 0);
	CHECK(fcntl(0, F_GETFD) >= 0);
}

/* Where the stack's words are, when they were never set. */
static __attribute__((noinline)) void soil_stack(void)
{
	volatile char words[1 << 15];
	for (size_t i = 0; i < sizeof words; i++) {
		words[i] = 0x55;
	}
}

static void a_directory_that_cannot_be_listed(void)
{
	struct rlimit few = { 3, 3 };
	struct raft_entry *entries;
	struct raft_snapshot *snapshot;
	raft_index first;
	raft_term term;
	raft_id vote;
	size_t n;
	open_storage();
	bootstrap();
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &few), 0);
	soil_stack();
	CHECK_INT(io.load(&io, &term, &vote, &snapshot, &first, &entries, &n), RAFT_IOERR);
}

/* --- compressed snapshots --- */

static size_t compressed(struct raft_buffer *buffer)
{
	struct stat found;
	char reason[RAFT_ERRMSG_BUF_SIZE];
	unlink(path_in_test_dir("snapshot"));
	CHECK_INT(UvFsMakeCompressedFile(test_dir(), "snapshot", buffer, 1, reason), 0);
	CHECK_INT(stat(path_in_test_dir("snapshot"), &found), 0);
	return (size_t)found.st_size;
}

/* It is read in pieces; the end of this one is behind the first. */
static void a_checksum_behind_a_piece(void)
{
	enum { PIECE = LZ4_COMPRESSBOUND(4 << 20), MOST = 5 << 20 };
	static char bytes[MOST];
	char reason[RAFT_ERRMSG_BUF_SIZE];
	struct raft_buffer buffer = { .base = bytes, .len = 4 << 20 }, read = { 0 };
	char byte;
	uint64_t random = 1;
	for (size_t i = 0; i < MOST; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		bytes[i] = (char)(random >> 56);
	}
	open_storage();
	for (size_t size = 0; size != PIECE + 4; buffer.len += PIECE + 4 - size) {
		size = compressed(&buffer);
	}
	CHECK_INT(UvFsReadCompressedFile(test_dir(), "snapshot", &read, reason), 0);
	CHECK_INT(read.len, buffer.len);
	CHECK(memcmp(read.base, bytes, read.len) == 0);
	int fd = open(path_in_test_dir("snapshot"), O_RDWR);
	CHECK_INT(pread(fd, &byte, 1, 1000000), 1);
	byte ^= 1;
	CHECK_INT(pwrite(fd, &byte, 1, 1000000), 1);
	CHECK(UvFsReadCompressedFile(test_dir(), "snapshot", &read, reason) != 0);
}

/* --- raft's log in memory --- */

static void an_entry_that_comes_again(void)
{
	struct raft_log *log = logInit();
	struct raft_entry *sent;
	unsigned n;
	for (long i = 1; i <= 4; i++) {
		struct raft_buffer buffer = { .base = raft_malloc(8), .len = 8 };
		memcpy(buffer.base, &i, sizeof i);
		CHECK_INT(logAppend(log, 1, RAFT_COMMAND, buffer, true, NULL), 0);
	}
	CHECK_INT(logAcquire(log, 2, &sent, &n), 0);
	logTruncate(log, 2);
	for (raft_index i = 2; i <= 4; i++) {
		bool again;
		CHECK_INT(logReinstate(log, 1, RAFT_COMMAND, &again), 0);
		CHECK(again);
	}
	for (raft_index i = 1; i <= 4; i++) {
		long content = 0;
		memcpy(&content, logGet(log, i)->buf.base, sizeof content);
		CHECK_INT(content, (long)i);
	}
	logRelease(log, 2, sent, n);
	logClose(log);
}

/* --- raft on a stand-in for its storage --- */

static struct raft raft;
static struct raft_io_append *appending;
static struct raft_io_snapshot_put *storing;
static struct raft_io_snapshot_get *reading;
static raft_time clock_says = 1;
static unsigned votes;
static bool refuses; /* to append */

static int stand_in_init(struct raft_io *which, raft_id id, const char *address)
{
	(void)which, (void)id, (void)address;
	return 0;
}

static int stand_in_load(struct raft_io *which,
			 raft_term *term,
			 raft_id *vote,
			 struct raft_snapshot **snapshot,
			 raft_index *first,
			 struct raft_entry **entries,
			 size_t *n)
{
	struct raft_configuration members;
	(void)which;
	raft_configuration_init(&members);
	raft_configuration_add(&members, 1, "1", RAFT_VOTER);
	raft_configuration_add(&members, 2, "2", RAFT_VOTER);
	raft_configuration_add(&members, 3, "3", RAFT_VOTER);
	*term = 5;
	*vote = 0;
	*snapshot = NULL;
	*first = *n = 1;
	*entries = raft_calloc(1, sizeof **entries);
	(*entries)->term = 1;
	(*entries)->type = RAFT_CHANGE;
	return configurationEncode(&members, &(*entries)->buf);
}

static int stand_in_start(struct raft_io *which, unsigned ms, raft_io_tick_cb tick, raft_io_recv_cb receive)
{
	(void)which, (void)ms, (void)tick, (void)receive;
	return 0;
}

static int stand_in_word(struct raft_io *which, raft_term word)
{
	(void)which, (void)word;
	return 0;
}

static bool is_any(const struct sm *sm, int before)
{
	(void)sm, (void)before;
	return true;
}

static int stand_in_append(struct raft_io *which,
			   struct raft_io_append *request,
			   const struct raft_entry entries[],
			   unsigned n,
			   raft_io_append_cb cb)
{
	static const struct sm_conf any = { .name = "any", .flags = SM_INITIAL | SM_FINAL | SM_FAILURE };
	(void)which, (void)entries, (void)n;
	sm_init(&request->sm, is_any, NULL, &any, "append", 0);
	request->cb = cb;
	appending = request;
	return refuses ? RAFT_IOERR : 0;
}

static int stand_in_send(struct raft_io *which,
			 struct raft_io_send *request,
			 const struct raft_message *message,
			 raft_io_send_cb cb)
{
	(void)which;
	if (message->type == RAFT_IO_REQUEST_VOTE_RESULT) {
		votes += message->request_vote_result.vote_granted;
	}
	cb(request, 0);
	return 0;
}

static int stand_in_put(struct raft_io *which,
			unsigned trailing,
			struct raft_io_snapshot_put *request,
			const struct raft_snapshot *snapshot,
			raft_io_snapshot_put_cb cb)
{
	(void)which, (void)trailing, (void)snapshot;
	request->cb = cb;
	storing = request;
	return 0;
}

static int stand_in_get(struct raft_io *which, struct raft_io_snapshot_get *request, raft_io_snapshot_get_cb cb)
{
	(void)which;
	request->cb = cb;
	reading = request;
	return 0;
}

static raft_time stand_in_time(struct raft_io *which)
{
	(void)which;
	return clock_says;
}

static int stand_in_random(struct raft_io *which, int least, int most)
{
	(void)which, (void)most;
	return least;
}

static void start_on_stand_in(void)
{
	static struct raft_fsm fsm = { .version = 1 };
	io = (struct raft_io){
		.version = 2,
		.data = &raft,
		.init = stand_in_init,
		.load = stand_in_load,
		.start = stand_in_start,
		.set_term = stand_in_word,
		.set_vote = stand_in_word,
		.append = stand_in_append,
		.send = stand_in_send,
		.snapshot_put = stand_in_put,
		.snapshot_get = stand_in_get,
		.time = stand_in_time,
		.random = stand_in_random,
	};
	CHECK_INT(raft_init(&raft, &io, &fsm, 1, "1"), 0);
	CHECK_INT(raft_start(&raft), 0);
}

static void a_snapshot_that_finds_no_room(void)
{
	struct raft_message message = { .type = RAFT_IO_INSTALL_SNAPSHOT, .server_id = 2, .server_address = "2" };
	start_on_stand_in();
	message.install_snapshot = (struct raft_install_snapshot){
		.term = 5, .last_index = 1000, .last_term = 5, .conf_index = 1, .data = { .base = raft_malloc(8), .len = 8 }
	};
	CHECK_INT(configurationCopy(&raft.configuration, &message.install_snapshot.conf), 0);
	recvCb(&io, &message);
	CHECK(storing != NULL);
	if (setjmp(lost) != 0) {
		return;
	}
	storing->cb(storing, RAFT_NOSPACE);
	check_fail(__FILE__, __LINE__, "it went on");
}

static bool is_due, tried;

static int no_snapshot(struct raft_fsm *fsm, struct raft_buffer **bufs, unsigned *n)
{
	(void)fsm, (void)bufs, (void)n;
	tried = true;
	return RAFT_ERROR;
}

/* A follower that is told of an entry, then that it is committed, and has to take a snapshot behind it. */
static void a_snapshot_that_cannot_be_begun(void)
{
	struct raft_message message = { .type = RAFT_IO_APPEND_ENTRIES, .server_id = 2, .server_address = "2" };
	struct raft_entry *entry = raft_calloc(1, sizeof *entry);
	start_on_stand_in();
	raft.fsm->snapshot = no_snapshot;
	is_due = true;
	*entry = (struct raft_entry){ .term = 5, .type = RAFT_BARRIER, .buf = { .base = raft_malloc(8), .len = 8 } };
	entry->batch = entry->buf.base;
	message.append_entries = (struct raft_append_entries){
		.term = 5, .prev_log_index = 1, .prev_log_term = 1, .leader_commit = 1, .entries = entry, .n_entries = 1
	};
	recvCb(&io, &message);
	appending->cb(appending, 0);
	CHECK_INT(raft.last_stored, 2);
	message.append_entries = (struct raft_append_entries){ .term = 5, .prev_log_index = 2, .prev_log_term = 5, .leader_commit = 2 };
	recvCb(&io, &message);
	CHECK_INT(raft.last_applied, 2);
	CHECK(tried);
	CHECK_INT(raft.state, RAFT_FOLLOWER);
}

static void lead(void)
{
	start_on_stand_in();
	CHECK_INT(convertToCandidate(&raft, true), 0);
	CHECK_INT(convertToLeader(&raft), 0);
}

static void a_snapshot_that_cannot_be_read(void)
{
	struct raft_progress *member;
	lead();
	member = &raft.leader_state.progress[1];
	raft.log->snapshot.last_index = 1;
	member->next_index = 1;
	member->recent_recv = true;
	clock_says = 1000;
	CHECK_INT(replicationProgress(&raft, 1), 0);
	CHECK_INT(member->state, PROGRESS__SNAPSHOT);
	reading->cb(reading, raft_malloc(sizeof(struct raft_snapshot)), RAFT_NOMEM);
	CHECK_INT(member->state, PROGRESS__PROBE);
}

/* It led, and was deposed while its disk still wrote. */
static void a_candidate_whose_write_fails(void)
{
	lead();
	convertToFollower(&raft);
	CHECK_INT(convertToCandidate(&raft, false), 0);
	appending->cb(appending, RAFT_NOSPACE);
	CHECK_INT(logLastIndex(raft.log), 1);
	CHECK_INT(raft.state, RAFT_FOLLOWER);
}

static void a_candidate_without_memory(void)
{
	use_own_heap();
	start_on_stand_in();
	no_memory = true;
	CHECK_INT(convertToCandidate(&raft, false), RAFT_NOMEM);
	CHECK_INT(raft.state, RAFT_FOLLOWER);
}

static void ask_for_vote(raft_id candidate, const char *address)
{
	struct raft_message message = { .type = RAFT_IO_REQUEST_VOTE, .server_id = candidate, .server_address = address };
	message.request_vote = (struct raft_request_vote){
		.term = 6, .candidate_id = candidate, .last_log_index = 1, .last_log_term = 1, .disrupt_leader = true
	};
	recvCb(&io, &message);
}

/* It was the leader, and had begun to hand on the lead to 2 when 3 stood for election. */
static void one_vote_a_term(void)
{
	struct raft_transfer transfer = { .id = 2 };
	start_on_stand_in();
	raft.transfer = &transfer;
	ask_for_vote(3, "3");
	CHECK_INT(votes, 1);
	ask_for_vote(2, "2");
	CHECK_INT(votes, 1);
}

static void check_three_members(raft_index last)
{
	CHECK_INT(raft.configuration.n, 3);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_INT(raft.configuration.servers[i].id, i + 1);
		CHECK_INT(atoi(raft.configuration.servers[i].address), i + 1);
		CHECK_INT(raft.configuration.servers[i].role, RAFT_VOTER);
	}
	CHECK_INT(raft.configuration_uncommitted_index, 0);
	CHECK_INT(logLastIndex(raft.log), last);
}

static int outcome;

static void was_changed(struct raft_change *change, int status)
{
	(void)change;
	outcome = status;
}

/* Its storage has no descriptor for the next segment. */
static void a_change_that_the_log_refuses(void)
{
	struct raft_change change;
	lead();
	refuses = true;
	CHECK_INT(raft_add(&raft, &change, 4, "4", was_changed), RAFT_IOERR);
	check_three_members(2);
	CHECK_INT(raft_remove(&raft, &change, 2, was_changed), RAFT_IOERR);
	check_three_members(2);
	CHECK_INT(raft_assign(&raft, &change, 2, RAFT_SPARE, was_changed), RAFT_IOERR);
	check_three_members(2);
	CHECK(raft.leader_state.change == NULL);
	refuses = false;
	CHECK_INT(raft_add(&raft, &change, 4, "4", was_changed), 0);
	CHECK_INT(raft.configuration.n, 4);
	CHECK_INT(progressNextIndex(&raft, 3), 4);
}

static void a_change_that_the_disk_refuses(void)
{
	struct raft_change change;
	lead();
	CHECK_INT(raft_add(&raft, &change, 4, "4", was_changed), 0);
	appending->cb(appending, RAFT_NOSPACE);
	CHECK_INT(outcome, RAFT_LEADERSHIPLOST);
	check_three_members(2);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "a_truncation_amid_a_snapshot", a_truncation_amid_a_snapshot, 60 },
		{ "a_segment_that_gets_no_name", a_segment_that_gets_no_name, 0 },
		{ "an_append_amid_failures", an_append_amid_failures, 0 },
		{ "a_truncation_that_ends_between_segments", a_truncation_that_ends_between_segments, 0 },
		{ "a_snapshot_whose_log_was_not_removed", a_snapshot_whose_log_was_not_removed, 0 },
		{ "an_open_segment_without_memory", an_open_segment_without_memory, 0 },
		{ "a_write_without_a_buffer", a_write_without_a_buffer, 0 },
		{ "a_snapshot_without_a_name", a_snapshot_without_a_name, 0 },
		{ "a_directory_that_cannot_be_listed", a_directory_that_cannot_be_listed, 0 },
		{ "a_checksum_behind_a_piece", a_checksum_behind_a_piece, 0 },
		{ "an_entry_that_comes_again", an_entry_that_comes_again, 0 },
		{ "a_snapshot_that_finds_no_room", a_snapshot_that_finds_no_room, 0 },
		{ "a_snapshot_that_cannot_be_begun", a_snapshot_that_cannot_be_begun, 0 },
		{ "a_snapshot_that_cannot_be_read", a_snapshot_that_cannot_be_read, 0 },
		{ "a_candidate_whose_write_fails", a_candidate_whose_write_fails, 0 },
		{ "a_candidate_without_memory", a_candidate_without_memory, 0 },
		{ "one_vote_a_term", one_vote_a_term, 0 },
		{ "a_change_that_the_log_refuses", a_change_that_the_log_refuses, 0 },
		{ "a_change_that_the_disk_refuses", a_change_that_the_disk_refuses, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}

/* --- What the changed lines call --- */

void glue_not_installed(void);
void glue_not_installed(void)
{
	longjmp(lost, 1);
}

void glue_not_finished(void);
void glue_not_finished(void)
{
	longjmp(lost, 1);
}

void glue_not_written(void);
void glue_not_written(void)
{
	longjmp(lost, 1);
}

bool glue_is_deaf(struct raft *);
bool glue_is_deaf(struct raft *which)
{
	(void)which;
	return false;
}

bool glue_snapshot_is_due(struct raft *);
bool glue_snapshot_is_due(struct raft *which)
{
	(void)which;
	return is_due;
}

unsigned glue_trailing_on_disk(struct raft *, raft_index);
unsigned glue_trailing_on_disk(struct raft *which, raft_index snapshot)
{
	(void)snapshot;
	return which->snapshot.trailing;
}

int glue_fsm_apply(struct raft *, const struct raft_buffer *);
int glue_fsm_apply(struct raft *which, const struct raft_buffer *buffer)
{
	return which->fsm->apply(which->fsm, buffer);
}

int glue_restore(struct raft_fsm *, struct raft_buffer *);
int glue_restore(struct raft_fsm *which, struct raft_buffer *from)
{
	return which->restore(which, from);
}

void glue_recv(struct raft_io *, struct raft_message *);
void glue_recv(struct raft_io *from, struct raft_message *message)
{
	recvCb(from, message);
}

void glue_left_trail(const char *, size_t);
void glue_left_trail(const char *segment, size_t offset)
{
	(void)segment;
	(void)offset;
}

void dqlite_fail(const char *, const char *, unsigned, const char *) __attribute__((noreturn));
void dqlite_fail(const char *assertion, const char *file, unsigned line, const char *function)
{
	(void)function;
	if (asserts) {
		longjmp(lost, 1);
	}
	check_fail(file, (int)line, "an assertion of the engine's: %s", assertion);
}
