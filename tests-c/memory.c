/*
 * A process whose memory ends (RLIMIT_AS), over and over: calls of all kinds from several threads end with a code, nothing
 * aborts, and when there is memory again everything works and each acknowledged row is there once.
 *   MEMORY_STEPS="STEPS SECONDS" memory     how many limits and how long under each; MEMORY_REPORT names a file for figures
 */
#include "check.h"

#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { KINDS = 8, ROWS = 200000, KEPT = 4000, CODES = 2000 };

static int steps = 8;
static double seconds = 0.7;

static dqlitepy_handle node;
static const char *address, *copy_path;
static char *large; /* a statement of some megabytes */
static size_t large_size;

static atomic_bool running;
static pthread_barrier_t barrier;
static atomic_int codes[CODES];
static atomic_long refused;

/* What a call that inserted row n said: acknowledged, not applied, not known. */
enum outcome { NOTHING, ACKNOWLEDGED, FAILED, UNKNOWN };
static unsigned char outcomes[ROWS];
static atomic_int next_row = 1;

/* ---- memory ---- */

struct block {
	struct block *next;
};

/* All that malloc has for this thread, down to blocks of that size. */
static struct block *take_all(size_t least)
{
	struct block *all = NULL, *block;
	for (size_t size = (size_t)64 << 20; size >= least; size /= 2)
		while (atomic_load(&running) && (block = malloc(size))) {
			block->next = all;
			all = block;
		}
	return all;
}

static void give_back(struct block *all)
{
	while (all) {
		struct block *next = all->next;
		free(all);
		all = next;
	}
}

static rlim_t address_space(void)
{
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");
	CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
	fclose(file);
	return (rlim_t)pages * 4096;
}

static void limit_to(rlim_t bytes)
{
	struct rlimit limit;
	CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
	limit.rlim_cur = bytes;
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* ---- calls ---- */

static int count(int rc)
{
	if (rc < 0 || rc >= CODES)
		check_fail(__FILE__, __LINE__, "code %d", rc);
	atomic_fetch_add(&codes[rc], 1);
	if (rc == DQLITEPY_NOMEM)
		atomic_fetch_add(&refused, 1);
	return rc;
}

static void inserted(int row, int rc)
{
	outcomes[row] = rc == 0 ? ACKNOWLEDGED : rc == DQLITEPY_UNKNOWN || rc == DQLITEPY_SHUTDOWN ? UNKNOWN : FAILED;
}

static int new_row(void)
{
	int row = atomic_fetch_add(&next_row, 1);
	return row < ROWS ? row : 0;
}

struct kept {
	dqlitepy_handle handles[KEPT];
	int count;
};

/* The call is made before the handle is read. */
static void keep(struct kept *kept, int rc, const dqlitepy_handle *handle)
{
	if (count(rc) == 0)
		kept->handles[kept->count++] = *handle;
}

static int has_room(const struct kept *kept)
{
	return kept->count < KEPT;
}

static void insert_rows(struct kept *kept)
{
	char sql[100];
	int64_t id, rows;
	int row = new_row();
	(void)kept;
	if (!row)
		return;
	snprintf(sql, sizeof sql, "INSERT INTO t VALUES (%d, zeroblob(%d))", row, row % 20 == 0 ? 100000 : 10);
	inserted(row, count(dqlitepy_node_exec(node, sql, &id, &rows)));
}

static void large_statements(struct kept *kept)
{
	char *json = NULL;
	dqlitepy_handle session = 0;
	(void)kept;
	count(dqlitepy_node_query(node, large, &json));
	dqlitepy_free(json);
	if (count(dqlitepy_session_open(node, "test.db", &session)) != 0)
		return;
	dqlitepy_handle statement = 0;
	uint64_t tail;
	int row = new_row();
	if (row && count(dqlitepy_session_prepare(session, "INSERT INTO t VALUES (?, length(?))", -1, &statement, &tail)) == 0) {
		int64_t id, rows;
		/* Without its number it would be given the next free one. */
		int bound = count(dqlitepy_statement_bind_int64(statement, 1, row)) == 0;
		if (bound && count(dqlitepy_statement_bind_blob(statement, 2, large, large_size)) == 0)
			inserted(row, count(dqlitepy_statement_exec(statement, &id, &rows)));
		count(dqlitepy_statement_finalize(statement));
	}
	count(dqlitepy_session_close(session));
}

static void many_rows(struct kept *kept)
{
	char *json = NULL;
	(void)kept;
	count(dqlitepy_node_query(node, "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 30000) "
					"SELECT n, hex(randomblob(100)) AS h FROM s", &json));
	dqlitepy_free(json);
}

static void sessions(struct kept *kept)
{
	dqlitepy_handle session = 0;
	if (has_room(kept))
		keep(kept, dqlitepy_session_open(node, "test.db", &session), &session);
	for (int i = 0; session && i < 3; i++)
		count(dqlitepy_session_exec(session, i == 0 ? "BEGIN" : "SELECT count(*) FROM t", -1, NULL, NULL));
}

static void clients(struct kept *kept)
{
	dqlitepy_handle client = 0;
	char *text = NULL;
	if (has_room(kept))
		keep(kept, dqlitepy_client_create(address, &client), &client);
	if (client)
		count(dqlitepy_client_cluster(client, &text));
	dqlitepy_free(text);
}

static void statements(struct kept *kept)
{
	dqlitepy_handle *session = &kept->handles[0], statement = 0;
	uint64_t tail;
	char sql[300];
	if (kept->count == 0) {
		keep(kept, dqlitepy_session_open(node, "test.db", session), session);
		return;
	}
	if (!has_room(kept))
		return;
	snprintf(sql, sizeof sql, "SELECT :a + %d, :b, :c, :d, '%0100d' FROM t", kept->count, 1);
	keep(kept, dqlitepy_session_prepare(*session, sql, -1, &statement, &tail), &statement);
	if (statement)
		count(dqlitepy_statement_bind_text(statement, 1, sql, strlen(sql)));
}

static void polled(dqlitepy_handle queue, uint64_t least)
{
	dqlitepy_completion done[64];
	int fd = -1;
	count(dqlitepy_queue_fd(queue, &fd));
	for (uint64_t n = 0, all = 0; all < least; all += n) {
		poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 100);
		if (count(dqlitepy_queue_poll(queue, done, 64, &n)) != 0)
			return;
		for (uint64_t i = 0; i < n; i++) {
			inserted((int)done[i].token, count(done[i].code));
			dqlitepy_free(done[i].message);
		}
	}
}

static void queues(struct kept *kept)
{
	uint64_t submitted = 0;
	dqlitepy_handle *queue = &kept->handles[0], *session = &kept->handles[1];
	if (kept->count < 2) {
		kept->count == 0 ? keep(kept, dqlitepy_queue_open(0, queue), queue)
				 : keep(kept, dqlitepy_session_open(node, "test.db", session), session);
		return;
	}
	for (int i = 0; i < 200; i++) {
		int row = new_row();
		char sql[60];
		snprintf(sql, sizeof sql, "INSERT INTO t VALUES (%d, 1)", row);
		if (!row || count(dqlitepy_queue_session_exec(*queue, (uint64_t)row, *session, sql, -1, NULL, 0)) != 0)
			break;
		submitted++;
	}
	polled(*queue, submitted);
}

static void copies(struct kept *kept)
{
	dqlitepy_handle session = 0, rows = 0;
	(void)kept;
	if (count(dqlitepy_session_open(node, "test.db", &session)) != 0)
		return;
	count(dqlitepy_session_dump(session, copy_path, NULL, NULL));
	if (count(dqlitepy_session_query(session, "SELECT * FROM t", -1, &rows)) == 0) {
		int rc;
		while ((rc = dqlitepy_rows_step(rows)) == DQLITEPY_ROW)
			;
		count(rc);
		count(dqlitepy_rows_close(rows));
	}
	count(dqlitepy_session_close(session));
}

static void (*const kinds[KINDS])(struct kept *) = { insert_rows, large_statements, many_rows, sessions,
						     clients,	  statements,	    queues,    copies };

static void close_all(int kind, struct kept *kept)
{
	while (kept->count > 0) {
		dqlitepy_handle handle = kept->handles[--kept->count];
		int rc = kinds[kind] == clients ? dqlitepy_client_close(handle) : DQLITEPY_INVALID;
		if (rc == DQLITEPY_INVALID)
			rc = dqlitepy_session_close(handle);
		if (rc == DQLITEPY_INVALID)
			rc = dqlitepy_statement_finalize(handle);
		if (rc == DQLITEPY_INVALID)
			rc = dqlitepy_queue_close(handle);
		CHECK_INT(rc, 0);
	}
}

/* Calls of one kind; every other time with all that malloc has for this thread gone. */
static void *run(void *argument)
{
	int kind = (int)(intptr_t)argument;
	static struct kept all[KINDS];
	struct kept *kept = &all[kind];
	for (int step = 0; step < steps; step++) {
		pthread_barrier_wait(&barrier);
		for (int i = 0; atomic_load(&running); i++) {
			struct block *mine = i % 2 ? take_all((size_t)32 << step % 4 * 2) : NULL;
			kinds[kind](kept);
			give_back(mine);
		}
		pthread_barrier_wait(&barrier);
		close_all(kind, kept);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

/* ---- what must hold afterwards ---- */

static void check_rows(int until)
{
	static unsigned char there[ROWS];
	dqlitepy_handle session, rows;
	int rc, lost = 0, more = 0, acknowledged = 0;
	memset(there, 0, sizeof there);
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	CHECK_OK(dqlitepy_session_query(session, "SELECT a FROM t", -1, &rows));
	while ((rc = dqlitepy_rows_step(rows)) == DQLITEPY_ROW) {
		int64_t row;
		CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &row));
		there[row]++;
	}
	CHECK_INT(rc, DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_session_close(session));
	for (int row = 1; row < until; row++) {
		acknowledged += outcomes[row] == ACKNOWLEDGED;
		lost += outcomes[row] == ACKNOWLEDGED && there[row] != 1;
		more += there[row] > 1 || (outcomes[row] == FAILED && there[row]);
	}
	if (lost || more)
		check_fail(__FILE__, __LINE__, "%d of %d acknowledged rows are missing, %d are there that failed", lost, acknowledged, more);
}

static void tell(const char *what, rlim_t room)
{
	FILE *report = getenv("MEMORY_REPORT") ? fopen(getenv("MEMORY_REPORT"), "a") : NULL;
	if (!report)
		return;
	fprintf(report, "%s, room %ld kB:", what, (long)(room >> 10));
	for (int i = 0; i < CODES; i++)
		if (codes[i])
			fprintf(report, " %d of %d,", codes[i], i);
	fprintf(report, " %d rows\n", next_row);
	fclose(report);
}

static void under_limit(rlim_t room)
{
	memset(codes, 0, sizeof codes);
	atomic_store(&running, true);
	malloc_trim(0);
	limit_to(address_space() + room);
	pthread_barrier_wait(&barrier);
	for (double start = now(); now() < start + seconds;)
		give_back(take_all(64));
	atomic_store(&running, false);
	pthread_barrier_wait(&barrier);
	limit_to(RLIM_INFINITY);
	tell("codes", room);
	pthread_barrier_wait(&barrier);
	CHECK_EXEC(node, "INSERT INTO other VALUES (1)");
	CHECK_OK(dqlitepy_node_exec(node, large, NULL, NULL));
	check_rows(next_row < ROWS ? next_row : ROWS);
}

static void memory_ends(void)
{
	pthread_t threads[KINDS];
	const char *dir = path_in_test_dir("node");
	if (getenv("CHECK_UNDER"))
		check_skip("%s has no place for its own memory below a limit", getenv("CHECK_UNDER"));
	/* What is given back is to be addresses again. */
	mallopt(M_ARENA_MAX, 2);
	large_size = (size_t)3 << 20;
	large = malloc(large_size + 100);
	memset(large, 'x', large_size);
	memcpy(large, "SELECT length('", 15);
	memcpy(large + large_size - 3, "')", 3);
	large_size -= 1;
	address = free_address();
	copy_path = path_in_test_dir("copy.db");
	node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE TABLE other (a)");
	CHECK(pthread_barrier_init(&barrier, NULL, KINDS + 1) == 0);
	for (int i = 0; i < KINDS; i++)
		CHECK(pthread_create(&threads[i], NULL, run, (void *)(intptr_t)i) == 0);
	for (int step = 0; step < steps; step++)
		under_limit((rlim_t)(step % 8 == 0 ? 0 : 1 << 16) << (step % 8) * 3 / 2);
	for (int i = 0; i < KINDS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(refused > 0);
	/* And from the disk. */
	dqlitepy_node_destroy(node);
	node = running_node(dir, address);
	check_rows(next_row < ROWS ? next_row : ROWS);
	dqlitepy_node_destroy(node);
}

int main(int argc, char **argv)
{
	if (getenv("MEMORY_STEPS"))
		sscanf(getenv("MEMORY_STEPS"), "%d %lf", &steps, &seconds);
	struct test tests[] = {
		{ "memory_ends", memory_ends, (int)(60 + steps * (seconds + 3)) },
		{ 0 },
	};
	return check_main(argc, argv, tests);
}
