/*
 * Stand in for sqlite3_open_v2 (db.c), sqlite3_progress_handler and sqlite3_close_v2 (leader.c), and sqlite3_close (fsm.c,
 * gateway.c).
 *
 * To stop a running step the engine installs a progress handler then, which SQLite does not look at before the next step,
 * and which waits for the connection's mutex, that is for the end of the step: the node's whole loop stands still
 * meanwhile. Here the handler is there from the start and looks at a flag; installing and removing only sets the flag.
 *
 * Nor does the engine look at a client's socket while a statement of it runs: who vanishes in the middle of a long write
 * keeps the write lock to its end. The handler looks there too, now and then.
 */
#include <poll.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

/* A thousand steps take some ten microseconds, a look at the socket one. */
enum { BUCKETS = 1024, STEPS_BETWEEN_LOOKS = 1000, LOOKS_PER_CLIENT_LOOK = 256 };
/*
 * With a budget it looks more often, and at the clock: a step may copy a row of any size. The clock alone says little on a
 * busy machine; what it finds too long has to be so by the processor's time, too.
 */
enum { STEPS_BETWEEN_SHORT_LOOKS = 100, LONG_NS = 1000 * 1000 };

struct glue_entry {
	sqlite3 *conn;
	atomic_bool abort;
	atomic_int client; /* the socket; -1: unknown */
	unsigned looks;	   /* of the thread that runs the step */
	unsigned budget;   /* looks until it is given up; 0: never */
	bool overrun;
	uint64_t began_ns;
	uint64_t processor_ns; /* what the thread had used when the clock said too long first; 0: it has not */
	struct glue_kept kept;
	struct glue_bounds bounds;
	enum glue_wish wish; /* deletion.c */
	struct glue_entry *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct glue_entry *buckets[BUCKETS];

static struct glue_entry **bucket_of(sqlite3 *conn)
{
	return &buckets[((uintptr_t)conn >> 6) % BUCKETS];
}

/* With the mutex held: the link that points to the connection's entry, or to NULL. */
static struct glue_entry **find(sqlite3 *conn)
{
	struct glue_entry **link = bucket_of(conn);
	while (*link != NULL && (*link)->conn != conn) {
		link = &(*link)->next;
	}
	return link;
}

static bool client_has_gone(int fd)
{
	struct pollfd client = { .fd = fd, .events = POLLRDHUP };
	return fd >= 0 && poll(&client, 1, 0) == 1 && (client.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/*
 * SQLite asks once more when a statement has ended, with its transaction committed. To stop it then would call it failed,
 * and what it wrote would be sent to nobody and given up by nobody: the connection would keep the write lock.
 */
bool glue_has_ended(sqlite3 *conn)
{
	sqlite3_stmt *stmt = NULL;
	do {
		stmt = sqlite3_next_stmt(conn, stmt);
	} while (stmt != NULL && !sqlite3_stmt_busy(stmt));
	return stmt == NULL;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool takes_long(struct glue_entry *entry)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	if (now - entry->began_ns < LONG_NS) {
		return false;
	}
	uint64_t used = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	if (entry->processor_ns != 0) {
		return used - entry->processor_ns >= LONG_NS;
	}
	entry->processor_ns = used;
	return false;
}

static bool is_to_stop(struct glue_entry *entry)
{
	if (entry->budget > 0 && (--entry->budget == 0 || takes_long(entry))) {
		entry->overrun = true;
		return true;
	}
	if (++entry->looks % LOOKS_PER_CLIENT_LOOK == 0 && client_has_gone(atomic_load(&entry->client))) {
		return true;
	}
	return atomic_load_explicit(&entry->abort, memory_order_relaxed);
}

static int look(void *arg)
{
	struct glue_entry *entry = arg;
	return is_to_stop(entry) && !(CURE_ENDED && glue_has_ended(entry->conn));
}

int glue_open_v2(const char *name, sqlite3 **conn, int flags, const char *vfs);
int glue_open_v2(const char *name, sqlite3 **conn, int flags, const char *vfs)
{
	int rv = sqlite3_open_v2(name, conn, flags, vfs);
	if (rv != SQLITE_OK) {
		return rv;
	}
	struct glue_entry *entry = calloc(1, sizeof *entry);
	if (entry == NULL) {
		return SQLITE_NOMEM;
	}
	entry->conn = *conn;
	atomic_init(&entry->client, -1);
	pthread_mutex_lock(&mutex);
	entry->next = *bucket_of(*conn);
	*bucket_of(*conn) = entry;
	pthread_mutex_unlock(&mutex);
	sqlite3_progress_handler(*conn, STEPS_BETWEEN_LOOKS, look, entry);
	if (CURE_CHECKPOINTS) {
		/*
		 * The engine says so, too, but from within the opening, and SQLite turns it on again behind that. It would
		 * then copy what was committed to the database before it is replicated, and that cannot be taken back.
		 */
		sqlite3_wal_autocheckpoint(*conn, 0);
	}
	return SQLITE_OK;
}

void glue_progress_handler(sqlite3 *conn, int steps, int (*handler)(void *), void *arg);
void glue_progress_handler(sqlite3 *conn, int steps, int (*handler)(void *), void *arg)
{
	(void)steps;
	(void)arg;
	pthread_mutex_lock(&mutex);
	struct glue_entry *entry = *find(conn);
	if (entry != NULL) {
		atomic_store_explicit(&entry->abort, handler != NULL, memory_order_relaxed);
	}
	pthread_mutex_unlock(&mutex);
}

void glue_watch_client(sqlite3 *conn, int fd)
{
	pthread_mutex_lock(&mutex);
	struct glue_entry *entry = *find(conn);
	if (entry != NULL) {
		atomic_store(&entry->client, fd);
	}
	pthread_mutex_unlock(&mutex);
}

struct glue_entry *glue_budget_begin(sqlite3 *conn, unsigned looks)
{
	pthread_mutex_lock(&mutex);
	struct glue_entry *entry = *find(conn);
	pthread_mutex_unlock(&mutex);
	if (entry != NULL) {
		entry->budget = looks;
		entry->overrun = false;
		if (looks > 0) {
			entry->began_ns = clock_ns(CLOCK_MONOTONIC);
			entry->processor_ns = 0;
			sqlite3_progress_handler(conn, STEPS_BETWEEN_SHORT_LOOKS, look, entry);
		}
	}
	return entry;
}

bool glue_budget_end(struct glue_entry *entry)
{
	if (entry != NULL) {
		entry->budget = 0;
		sqlite3_progress_handler(entry->conn, STEPS_BETWEEN_LOOKS, look, entry);
	}
	return entry != NULL && entry->overrun;
}

struct glue_kept *glue_kept_of(sqlite3 *conn)
{
	pthread_mutex_lock(&mutex);
	struct glue_entry *entry = *find(conn);
	pthread_mutex_unlock(&mutex);
	return entry != NULL ? &entry->kept : NULL;
}

struct glue_bounds *glue_bounds_of(sqlite3 *conn)
{
	pthread_mutex_lock(&mutex);
	struct glue_entry *entry = *find(conn);
	pthread_mutex_unlock(&mutex);
	/* Every connection has one; see glue_open_v2. */
	return &entry->bounds;
}

enum glue_wish *glue_wish_of(sqlite3 *conn)
{
	pthread_mutex_lock(&mutex);
	struct glue_entry *entry = *find(conn);
	pthread_mutex_unlock(&mutex);
	return entry != NULL ? &entry->wish : NULL;
}

static void forget(sqlite3 *conn)
{
	glue_deletion_forget(conn);
	pthread_mutex_lock(&mutex);
	struct glue_entry **link = find(conn);
	struct glue_entry *entry = *link;
	if (entry != NULL) {
		*link = entry->next;
	}
	pthread_mutex_unlock(&mutex);
	sqlite3_progress_handler(conn, 0, NULL, NULL);
	if (entry != NULL) {
		glue_kept_clear(&entry->kept);
		glue_bounds_clear(&entry->bounds);
	}
	free(entry);
}

/*
 * The connection's own statements are finalized (gateway.c). Those of a virtual table whose schema was replaced meanwhile are
 * not before something is compiled: with one of them left it would live on, with its transaction and the write lock.
 */
int glue_close_v2(sqlite3 *conn);
int glue_close_v2(sqlite3 *conn)
{
	sqlite3_stmt *nothing = NULL;
	forget(conn);
	if (CURE_ZOMBIE) {
		sqlite3_prepare_v2(conn, "", -1, &nothing, NULL);
		sqlite3_exec(conn, sqlite3_get_autocommit(conn) ? "" : "ROLLBACK", NULL, NULL, NULL);
	}
	return sqlite3_close_v2(conn);
}

int glue_close_conn(sqlite3 *conn);
int glue_close_conn(sqlite3 *conn)
{
	forget(conn);
	return sqlite3_close(conn);
}
