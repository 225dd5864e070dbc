/*
 * Every function with odd arguments in every place: wrong, stale and foreign handles, NULL, empty, huge, invalid UTF-8,
 * numbers at and beyond their ends, and all of that in combination. Nothing may crash, take 30 seconds, give a code that
 * does not exist, fail without a message, or leave a node that does not serve. And every function in forked children of
 * a process whose threads are at work.
 *   MATRIX="SEED EACH" matrix     at most EACH combinations of each function; the figures are printed in the end
 */
#include "check.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BAD_UTF8 "a\xff\xfe" "b"
#define HANG_SECONDS 30

enum { MOST_ARGUMENTS = 8, ARRAY = 4, TIMEOUT_MS = 300 };

static unsigned long seed = 1;
static long each = 200;

typedef void (*function)(void);

/*
 * One letter for the result and for each argument:
 *   i code   v nothing   t owned text   k anything that needs no care
 *   arguments: handles of n node, c client, e session, m statement, r rows, q queue; texts: s SQL with z its size, a address,
 *   l list of addresses, d directory, f file, D database, N name; numbers: i int, u unsigned, U and k 64 bits, I signed
 *   64 bits, F double; o output, T output of text, H output of a handle; v values, w room for values, C their number,
 *   K room for completions, b bytes, B their number, P callback of progress, L of messages, x its data, X what is freed
 */
static const struct callee {
	const char *name, *signature;
	function function;
} callees[] = {
#define CALLEE(name, signature) { #name, signature, (function)dqlitepy_##name }
	CALLEE(session_dump, "iefPx"),
	CALLEE(session_load_file, "iefPx"),
	CALLEE(session_load_script, "ieszPx"),
	CALLEE(client_create, "ilH"),
	CALLEE(client_set_timeout, "icu"),
	CALLEE(client_interrupt, "ic"),
	CALLEE(client_close, "ic"),
	CALLEE(client_add, "icka"),
	CALLEE(client_remove, "ick"),
	CALLEE(client_leader, "icT"),
	CALLEE(client_cluster, "icT"),
	CALLEE(client_assign, "icki"),
	CALLEE(client_transfer, "ick"),
	CALLEE(client_describe, "icaoo"),
	CALLEE(client_set_weight, "icaU"),
	CALLEE(client_metrics, "iciT"),
	CALLEE(last_error, "t"),
	CALLEE(last_error_code, "k"),
	CALLEE(last_sqlite_code, "k"),
	CALLEE(engine_version, "k"),
	CALLEE(free, "vX"),
	CALLEE(generate_node_id, "ka"),
	CALLEE(version_number, "k"),
	CALLEE(version_string, "t"),
	CALLEE(set_log_callback, "iLx"),
	CALLEE(set_default_timeout, "iiu"),
	CALLEE(metrics, "iiT"),
	CALLEE(node_metrics, "iniT"),
	CALLEE(node_create, "ikadH"),
	CALLEE(node_create_with_cluster, "ikadlH"),
	CALLEE(node_start, "in"),
	CALLEE(node_handover, "in"),
	CALLEE(node_stop, "in"),
	CALLEE(node_destroy, "vn"),
	CALLEE(node_open_db, "inD"),
	CALLEE(node_exec, "insoo"),
	CALLEE(node_query, "insT"),
	CALLEE(node_set_bind_address, "ina"),
	CALLEE(node_set_auto_recovery, "ini"),
	CALLEE(node_set_busy_timeout, "inu"),
	CALLEE(node_set_snapshot_compression, "ini"),
	CALLEE(node_set_network_latency_ms, "inu"),
	CALLEE(node_set_timeout, "inu"),
	CALLEE(node_set_start_timeout, "inu"),
	CALLEE(node_set_stop_timeout, "inu"),
	CALLEE(node_interrupt, "in"),
	CALLEE(node_set_voters, "inu"),
	CALLEE(node_set_standbys, "inu"),
	CALLEE(node_set_failure_domain, "inU"),
	CALLEE(node_set_weight, "inU"),
	CALLEE(node_set_snapshot_params, "inuui"),
	CALLEE(node_set_block_size, "inu"),
	CALLEE(node_set_bootstrap, "ini"),
	CALLEE(queue_open, "iUH"),
	CALLEE(queue_fd, "iqo"),
	CALLEE(queue_poll, "iqKCo"),
	CALLEE(queue_cancel, "iqU"),
	CALLEE(queue_close, "iq"),
	CALLEE(queue_session_open, "iqUnD"),
	CALLEE(queue_session_open_addresses, "iqUlD"),
	CALLEE(queue_session_close, "iqUe"),
	CALLEE(queue_session_exec, "iqUeszvC"),
	CALLEE(queue_session_query, "iqUeszvC"),
	CALLEE(queue_session_exec_batch, "iqUeszvC1"),
	CALLEE(queue_session_prepare, "iqUesz"),
	CALLEE(queue_statement_exec, "iqUm"),
	CALLEE(queue_statement_query, "iqUm"),
	CALLEE(queue_statement_exec_batch, "iqUm"),
	CALLEE(queue_rows_more, "iqUr"),
	CALLEE(queue_rows_close, "iqUr"),
	CALLEE(rows_step, "ir"),
	CALLEE(rows_column_count, "iro"),
	CALLEE(rows_column_name, "irio"),
	CALLEE(rows_column_type, "irio"),
	CALLEE(rows_column_int64, "irio"),
	CALLEE(rows_column_double, "irio"),
	CALLEE(rows_column_text, "irioo"),
	CALLEE(rows_column_blob, "irioo"),
	CALLEE(rows_row, "irwC"),
	CALLEE(rows_fetch, "irwCo"),
	CALLEE(rows_close, "ir"),
	CALLEE(session_open, "inDH"),
	CALLEE(session_open_addresses, "ilDH"),
	CALLEE(session_close, "ie"),
	CALLEE(session_exec, "ieszoo"),
	CALLEE(session_query, "ieszH"),
	CALLEE(session_prepare, "ieszHo"),
	CALLEE(session_begin, "iei"),
	CALLEE(session_commit, "ie"),
	CALLEE(session_rollback, "ie"),
	CALLEE(session_savepoint, "ieN"),
	CALLEE(session_release, "ieN"),
	CALLEE(session_rollback_to, "ieN"),
	CALLEE(session_in_transaction, "ieo"),
	CALLEE(session_interrupt, "ie"),
	CALLEE(session_set_timeout, "ieu"),
	CALLEE(session_set_busy_timeout, "ieu"),
	CALLEE(session_set_max_result, "ieU"),
	CALLEE(session_leader, "ieT"),
	CALLEE(session_last_error, "te"),
	CALLEE(session_error_code, "ke"),
	CALLEE(session_sqlite_code, "ke"),
	CALLEE(statement_parameter_count, "imo"),
	CALLEE(statement_parameter_index, "imNo"),
	CALLEE(statement_parameter_name, "imiT"),
	CALLEE(statement_bind_null, "imi"),
	CALLEE(statement_bind_int64, "imiI"),
	CALLEE(statement_bind_double, "imiF"),
	CALLEE(statement_bind_bool, "imii"),
	CALLEE(statement_bind_text, "imisz"),
	CALLEE(statement_bind_blob, "imibB"),
	CALLEE(statement_bind_time, "imiIu"),
	CALLEE(statement_bind_values, "imvC"),
	CALLEE(statement_clear_bindings, "im"),
	CALLEE(statement_reset, "im"),
	CALLEE(statement_finalize, "im"),
	CALLEE(statement_exec, "imoo"),
	CALLEE(statement_query, "imH"),
	CALLEE(statement_add_batch, "im"),
	CALLEE(statement_exec_batch, "imo"),
};
#define CALLEES (sizeof callees / sizeof *callees)

/* ---- what stands for itself while the others are odd ---- */

static struct {
	dqlitepy_handle node, unused, client, session, statement, rows, queue, stale;
	const char *address;
	int number;
} good;

static char huge[300001], scratch[MOST_ARGUMENTS][256], bytes[64];

static void make_all(void)
{
	char name[40];
	snprintf(name, sizeof name, "node%d", good.number++);
	good.address = free_address();
	good.node = running_node(path_in_test_dir(name), good.address);
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("unused"), &good.unused));
	CHECK_OK(dqlitepy_client_create(good.address, &good.client));
	CHECK_OK(dqlitepy_session_open(good.node, "test.db", &good.session));
	CHECK_EXEC(good.node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_session_prepare(good.session, "SELECT ?1, :name, ?3", -1, &good.statement, NULL));
	CHECK_OK(dqlitepy_session_query(good.session, "SELECT 1 UNION ALL SELECT 'x'", -1, &good.rows));
	CHECK_OK(dqlitepy_queue_open(1000, &good.queue));
	good.stale = good.unused;
	dqlitepy_node_destroy(good.stale);
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("unused"), &good.unused));
}

/* Odd numbers in earlier calls must not make later ones slow. */
static void short_patience(void)
{
	for (int what = DQLITEPY_FOR_CALLS; what <= DQLITEPY_FOR_STOP; what++)
		CHECK_OK(dqlitepy_set_default_timeout(what, 0));
	dqlitepy_node_set_timeout(good.node, 0);
	dqlitepy_node_set_stop_timeout(good.node, 0);
	CHECK_OK(dqlitepy_client_set_timeout(good.client, TIMEOUT_MS));
	CHECK_OK(dqlitepy_session_set_timeout(good.session, TIMEOUT_MS));
	CHECK_OK(dqlitepy_session_set_busy_timeout(good.session, 20));
	CHECK_OK(dqlitepy_session_set_max_result(good.session, 1 << 20));
}

static void close_any(dqlitepy_handle handle)
{
	dqlitepy_rows_close(handle);
	dqlitepy_statement_finalize(handle);
	dqlitepy_session_close(handle);
	dqlitepy_client_close(handle);
	dqlitepy_queue_close(handle);
	dqlitepy_node_destroy(handle);
}

static void close_all(void)
{
	const dqlitepy_handle all[] = { good.rows, good.statement, good.session, good.client, good.queue, good.unused, good.node };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		close_any(all[i]);
}

/* Takes what came out of the queue, so that it never fills. */
static void empty_queue(void)
{
	dqlitepy_completion done[32];
	uint64_t count = 0;
	while (dqlitepy_queue_poll(good.queue, done, 32, &count) == 0 && count > 0)
		for (uint64_t i = 0; i < count; i++) {
			dqlitepy_free(done[i].message);
			if (done[i].handle)
				close_any(done[i].handle);
		}
}

/* ---- arguments ---- */

static int told(void *data, uint64_t done, uint64_t total)
{
	return data != NULL && done > total;
}

static void logged(void *data, int level, const char *message)
{
	(void)data, (void)level, (void)message;
}

static const int64_t numbers[] = { 1, 0, -1, 2, 7, 1000, INT_MAX, INT_MIN, UINT_MAX, INT64_MAX, INT64_MIN, 1ll << 40 };
static const int64_t sizes[] = { -1, 0, 1, -2, INT64_MIN };
static const int64_t lengths[] = { ARRAY, 0, 1, 3 };
static const double reals[] = { 1.5, 0, -0.0, 1e308, -1e308 };

#define TEXTS(...) \
	do { \
		const char *const texts[] = { __VA_ARGS__ }; \
		*count = (int)(sizeof texts / sizeof *texts); \
		return (uintptr_t)texts[i % *count]; \
	} while (0)
#define NUMBERS(list) \
	do { \
		*count = (int)(sizeof(list) / sizeof *(list)); \
		return (uint64_t)(list)[i % *count]; \
	} while (0)

static uint64_t handle_argument(dqlitepy_handle own, int i, int *count)
{
	const dqlitepy_handle all[] = { own, 0, 99, ~0ull, 1ull << 63, own ^ 1, own ^ 1ull << 22, own ^ 1ull << 60, own | 1ull << 63,
					good.stale, good.unused, good.node, good.client, good.session, good.statement, good.rows,
					good.queue };
	*count = (int)(sizeof all / sizeof *all);
	return all[i % *count];
}

static uint64_t values_argument(int i, int *count)
{
	static const dqlitepy_value lists[][ARRAY] = {
		{ { 1, 5, 0, NULL, 0 }, { 2, 0, 1.5, NULL, 0 }, { 3, 0, 0, "text", 4 }, { 5, 0, 0, NULL, 0 } },
		{ { 0, 0, 0, NULL, 0 }, { -1, 0, 0, NULL, 0 }, { 99, 0, 0, NULL, 0 }, { 6, 0, 0, NULL, 0 } },
		{ { 3, 0, 0, NULL, 5 }, { 4, 0, 0, NULL, 5 }, { 10, 0, 0, NULL, 5 }, { 4, 0, 0, NULL, UINT64_MAX } },
		{ { 3, 0, 0, BAD_UTF8, 4 }, { 10, 0, 0, BAD_UTF8, 4 }, { 9, INT64_MAX, 0, NULL, 0 }, { 11, 7, 0, NULL, 0 } },
		{ { 3, 0, 0, "x", UINT64_MAX }, { 4, 0, 0, "x", 1ull << 63 }, { 3, 0, 0, "x", 0 }, { 4, 0, 0, "", 0 } },
		{ { 2, 0, 0, NULL, 0 }, { 2, 0, 1e308, NULL, 0 }, { 9, INT64_MIN, 0, NULL, 0 }, { 10, 0, 0, "no time", 7 } },
	};
	*count = (int)(sizeof lists / sizeof *lists) + 1;
	return i % *count == *count - 1 ? 0 : (uintptr_t)lists[i % *count];
}

/* The argument of that kind with the number i, of which the first is a good one; and how many there are. */
static uint64_t argument(char kind, int place, int i, int *count)
{
	*count = 1;
	switch (kind) {
	case 'n': return handle_argument(good.node, i, count);
	case 'c': return handle_argument(good.client, i, count);
	case 'e': return handle_argument(good.session, i, count);
	case 'm': return handle_argument(good.statement, i, count);
	case 'r': return handle_argument(good.rows, i, count);
	case 'q': return handle_argument(good.queue, i, count);
	case 's':
		TEXTS("SELECT 1", NULL, "", " ", ";;;", "SELECT", "NONSENSE", BAD_UTF8, "SELECT '\xc3", huge, "BEGIN", "COMMIT",
		      "INSERT INTO t VALUES(?, ?)", "INSERT INTO t VALUES(1)", "SELECT 1; SELECT 2", "SELECT ?32766, ?1",
		      "SELECT ?99999999999", "-- \n", "/*", "'", "ATTACH 'x' AS y", "PRAGMA journal_mode = DELETE", "VACUUM",
		      "DELETE FROM t RETURNING *", "EXPLAIN SELECT 1", "SELECT x'00', 'a' || char(0), NULL, 1e999, -0.0",
		      "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM c) SELECT x FROM c LIMIT 3000");
	case 'a':
		TEXTS(good.address, NULL, "", " ", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", ":9001", BAD_UTF8, huge,
		      "127.0.0.1:-1", "[::1", "[]:1", "/tmp/socket", "\x01:9001", "127.0.0.1:1,127.0.0.1:2");
	case 'l':
		TEXTS(good.address, NULL, "", ",", ",,,,", "nonsense", "127.0.0.1:99999", BAD_UTF8, huge, "127.0.0.1:", " ");
	case 'd':
		TEXTS(path_in_test_dir("made"), NULL, "", "/proc/dqlitepy/node", "/dev/null", huge, BAD_UTF8, "/", "\n");
	case 'f':
		TEXTS(path_in_test_dir("file"), NULL, "", "/", "/dev/null/x", "/proc/version", huge, BAD_UTF8, test_dir());
	case 'D':
		TEXTS("test.db", NULL, "", "a/b.db", "../x", ":memory:", "file:x?mode=memory", "a?b", huge, BAD_UTF8, ".", "\n", "a b");
	case 'N':
		TEXTS("name", NULL, "", ":name", "a b", "\"", "'; DROP TABLE t; --", huge, BAD_UTF8, "?1", "@", "\n");
	case 'z': NUMBERS(sizes);
	case 'i':
	case 'u':
	case 'U':
	case 'I':
	case 'k': NUMBERS(numbers);
	case '1': return 1;
	case 'C':
	case 'B': NUMBERS(lengths);
	case 'F': *count = (int)(sizeof reals / sizeof *reals); return (uint64_t)i;
	case 'b': *count = 2; return i % 2 ? 0 : (uintptr_t)bytes;
	case 'v': return values_argument(i, count);
	case 'o':
	case 'T':
	case 'H':
	case 'w':
	case 'K': *count = 2; return i % 2 ? 0 : (uintptr_t)scratch[place];
	case 'P': *count = 2; return i % 2 ? 0 : (uintptr_t)told;
	case 'L': *count = 2; return i % 2 ? 0 : (uintptr_t)logged;
	case 'x': *count = 2; return i % 2 ? 0 : (uintptr_t)bytes;
	case 'X': return 0;
	}
	check_fail(__FILE__, __LINE__, "no such kind of argument: %c", kind);
}

/* ---- one call ---- */

static char current[400];
static _Atomic double began;
static long done_calls, refused_calls;
static double slowest;
static char slowest_call[400];

static void *watch(void *unused)
{
	for (;;) {
		usleep(200000);
		double since = atomic_load(&began);
		if (since > 0 && now() - since > HANG_SECONDS)
			check_fail(__FILE__, __LINE__, "%s takes more than %d s", current, HANG_SECONDS);
	}
	return unused;
}

static void died(int number)
{
	char text[500];
	int n = snprintf(text, sizeof text, "signal %d in %s\n", number, current);
	if (write(2, text, (size_t)n) < 0)
		_exit(3);
	signal(number, SIG_DFL);
	raise(number);
}

static void watch_signals(void)
{
	const int signals[] = { SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL };
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
		struct sigaction before;
		/* Not where a sanitizer has its own. */
		if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
			signal(signals[i], died);
	}
}

static void describe(const struct callee *callee, const int *choice)
{
	int n = snprintf(current, sizeof current, "dqlitepy_%s (%s) with", callee->name, callee->signature + 1);
	for (int p = 0; callee->signature[p + 1]; p++)
		n += snprintf(current + n, sizeof current - (size_t)n, " %d", choice[p]);
}

static int is_code(int code)
{
	return (code >= DQLITEPY_OK && code <= DQLITEPY_INTERNAL) || (code >= DQLITEPY_TIMEOUT && code <= DQLITEPY_SETTINGS_LOST) ||
	       (code >= DQLITEPY_ROW && code <= DQLITEPY_MORE) || (code > DQLITEPY_SQL && code < DQLITEPY_SQL + 256);
}

static uint64_t make_call(const struct callee *callee, const uint64_t *a)
{
	if (strchr(callee->signature, 'F'))
		return (uint64_t)((int (*)(uint64_t, int, double))callee->function)(a[0], (int)a[1], reals[a[2] % 5]);
	return ((uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t))callee->function)(
		a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

/* All of them anew, if the call took one of them away. */
static void renew(const struct callee *callee, int rc)
{
	static const char *const ends[] = { "close", "destroy", "stop", "finalize", "handover", "start" };
	int ended = 0;
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
		ended |= strstr(callee->name, ends[i]) != NULL;
	if (ended && (rc == 0 || callee->signature[0] == 'v')) {
		char *json = NULL;
		int inside = 0, fd = -1;
		empty_queue();
		if (dqlitepy_node_query(good.node, "SELECT 1", &json) != 0 || dqlitepy_session_in_transaction(good.session, &inside) != 0 ||
		    dqlitepy_statement_parameter_count(good.statement, &inside) != 0 || dqlitepy_queue_fd(good.queue, &fd) != 0 ||
		    dqlitepy_rows_column_count(good.rows, &inside) != 0 || dqlitepy_node_set_busy_timeout(good.unused, 20) != 0 ||
		    dqlitepy_client_set_timeout(good.client, TIMEOUT_MS) != 0) {
			close_all();
			make_all();
		}
		dqlitepy_free(json);
	}
}

static void tidy_up(const struct callee *callee, const uint64_t *arguments, int rc)
{
	for (int p = 0; callee->signature[p + 1]; p++) {
		char kind = callee->signature[p + 1];
		if (kind == 'T' && arguments[p] && rc == 0)
			dqlitepy_free(*(char **)arguments[p]);
		if (kind == 'H' && arguments[p] && rc == 0)
			close_any(*(dqlitepy_handle *)arguments[p]);
	}
	if (strcmp(callee->name, "set_log_callback") == 0)
		CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	if (strcmp(callee->name, "queue_poll") == 0 && rc == 0 && arguments[1] && arguments[3])
		for (uint64_t i = 0; i < *(uint64_t *)arguments[3]; i++)
			dqlitepy_free(((dqlitepy_completion *)arguments[1])[i].message);
	renew(callee, rc);
	if (strstr(callee->name, "session") || strstr(callee->name, "statement") || strchr(callee->signature, 's')) {
		int inside = 0;
		empty_queue();
		dqlitepy_node_exec(good.node, "ROLLBACK", NULL, NULL);
		if (dqlitepy_session_in_transaction(good.session, &inside) == 0 && inside)
			dqlitepy_session_rollback(good.session);
	}
	if (strncmp(callee->name, "client_", 7) == 0 || strstr(callee->name, "set_"))
		short_patience();
}

static void call(const struct callee *callee, const int *choice)
{
	uint64_t arguments[MOST_ARGUMENTS] = { 0 };
	int count;
	memset(scratch, 0, sizeof scratch);
	for (int p = 0; callee->signature[p + 1]; p++)
		arguments[p] = argument(callee->signature[p + 1], p, choice[p], &count);
	describe(callee, choice);
	double start = now();
	atomic_store(&began, start);
	uint64_t got = make_call(callee, arguments);
	atomic_store(&began, 0);
	double taken = now() - start;
	if (taken > slowest) {
		slowest = taken;
		memcpy(slowest_call, current, sizeof current);
	}
	done_calls++;
	int rc = (int)got;
	if (callee->signature[0] == 'i') {
		if (!is_code(rc))
			check_fail(__FILE__, __LINE__, "%s gave %d, which is no code", current, rc);
		if (rc != 0 && rc < DQLITEPY_ROW && last_error_text()[0] == 0)
			check_fail(__FILE__, __LINE__, "%s gave %d and no message", current, rc);
		refused_calls += rc != 0 && (rc < DQLITEPY_ROW || rc > DQLITEPY_MORE);
	} else if (callee->signature[0] == 't') {
		dqlitepy_free((void *)(uintptr_t)got);
	}
	tidy_up(callee, arguments, rc);
}

/* ---- all of them ---- */

static uint64_t next_random(void)
{
	static uint64_t state;
	if (state == 0)
		state = seed * 0x9e3779b97f4a7c15 | 1;
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return state * 0x2545f4914f6cdd1d >> 16;
}

static void combinations(const struct callee *callee)
{
	int counts[MOST_ARGUMENTS] = { 0 }, choice[MOST_ARGUMENTS] = { 0 }, places = (int)strlen(callee->signature) - 1;
	long all = 1, made = 0;
	for (int p = 0; p < places; p++) {
		argument(callee->signature[p + 1], p, 0, &counts[p]);
		all = all > 1000000 ? all : all * counts[p];
	}
	if (all <= each) {
		for (long number = 0; number < all; number++) {
			long rest = number;
			for (int p = 0; p < places; p++, rest /= counts[p - 1])
				choice[p] = (int)(rest % counts[p]);
			call(callee, choice);
		}
		return;
	}
	for (int p = 0; p < places; p++) /* each odd one among good ones */
		for (int i = p > 0; i < counts[p]; i++, made++) {
			memset(choice, 0, sizeof choice);
			choice[p] = i;
			call(callee, choice);
		}
	for (; made < each; made++) {
		for (int p = 0; p < places; p++) /* the first is likelier, else a wrong handle hides the rest */
			choice[p] = next_random() % 3 == 0 ? 0 : (int)(next_random() % (uint64_t)counts[p]);
		call(callee, choice);
	}
}

static void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void report(const char *format, ...)
{
	va_list arguments;
	FILE *file = getenv("MATRIX_REPORT") ? fopen(getenv("MATRIX_REPORT"), "a") : NULL;
	if (!file)
		return;
	va_start(arguments, format);
	vfprintf(file, format, arguments);
	va_end(arguments);
	fclose(file);
}

static void family(const char *prefix)
{
	pthread_t watcher;
	memset(huge, 'y', sizeof huge - 1);
	watch_signals();
	CHECK_INT(pthread_create(&watcher, NULL, watch, NULL), 0);
	make_all();
	short_patience();
	for (size_t i = 0; i < CALLEES; i++) {
		int is_meant = strncmp(callees[i].name, prefix, strlen(prefix)) == 0;
		if (!*prefix)
			is_meant = !strchr("ncsrq", callees[i].name[0]) || strncmp(callees[i].name, "set_", 4) == 0;
		if (is_meant)
			combinations(&callees[i]);
	}
	/* Nothing of all that is left: a node serves, and writes. */
	close_all();
	make_all();
	CHECK_EXEC(good.node, "INSERT INTO t VALUES(1)");
	CHECK_JSON(good.node, "SELECT count(*) AS n FROM t", "[{\"n\":1}]");
	close_all();
	report("%ld %ld %.3f %s\n", done_calls, refused_calls, slowest, slowest_call);
}

static void node(void) { family("node_"); }
static void client(void) { family("client_"); }
static void session(void) { family("session_"); }
static void statement(void) { family("statement_"); }
static void rows(void) { family("rows_"); }
static void queue(void) { family("queue_"); }
static void others(void) { family(""); }

/* ---- in a forked child ---- */

enum { BUSY = 8, LIVE_ON = 8, CHILD_ENDED_WELL = 7 };

static atomic_int enough;
static dqlitepy_handle restarted, broken;
static atomic_long inserted;

static void submit_and_poll(void)
{
	const struct timespec pause = { .tv_nsec = 100000 };
	dqlitepy_completion done[8];
	uint64_t count = 0;
	for (uint64_t token = 0; token < 8; token++)
		CHECK_OK(dqlitepy_queue_session_exec(good.queue, token, good.session, "SELECT 1", -1, NULL, 0));
	for (uint64_t left = 8; left > 0; left -= count) {
		CHECK_OK(dqlitepy_queue_poll(good.queue, done, left, &count));
		for (uint64_t i = 0; i < count; i++)
			CHECK_INT(done[i].code, 0);
		if (count == 0)
			nanosleep(&pause, NULL);
	}
}

static void read_rows(dqlitepy_handle session)
{
	dqlitepy_handle statement = 0, rows = 0;
	CHECK_OK(dqlitepy_session_prepare(session, "WITH RECURSIVE s(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM s) SELECT n FROM s LIMIT 300", -1, &statement, NULL));
	CHECK_OK(dqlitepy_statement_query(statement, &rows));
	while (dqlitepy_rows_step(rows) == DQLITEPY_ROW)
		;
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_statement_finalize(statement));
}

static void *be_busy(void *number)
{
	dqlitepy_handle session = 0, out = 0;
	char *text = NULL;
	CHECK_OK(dqlitepy_session_open(good.node, "test.db", &session));
	while (!atomic_load(&enough)) {
		switch ((uintptr_t)number) {
		case 0:
			submit_and_poll();
			break;
		case 1:
			read_rows(session);
			break;
		case 2:
			CHECK_OK(dqlitepy_metrics(DQLITEPY_METRICS_JSON, &text));
			break;
		case 3:
			CHECK_OK(dqlitepy_set_log_callback(logged, NULL));
			CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
			break;
		case 4: /* their port is in no child's hands */
			CHECK(dqlitepy_node_start(broken) != 0);
			CHECK_ERROR_HAS("metadata");
			CHECK_OK(dqlitepy_node_start(restarted));
			CHECK_OK(dqlitepy_node_stop(restarted));
			break;
		case 5:
			CHECK_RC(dqlitepy_session_exec(session, "NONSENSE", -1, NULL, NULL), DQLITEPY_SQL + 1);
			CHECK_OK(dqlitepy_node_create(1, good.address, test_dir(), &out));
			dqlitepy_node_destroy(out);
			break;
		case 6:
			CHECK_OK(dqlitepy_client_leader(good.client, &text));
			break;
		default:
			CHECK_OK(dqlitepy_session_exec(session, "INSERT INTO t VALUES(1)", -1, NULL, NULL));
			inserted++;
		}
		dqlitepy_free(text);
		text = NULL;
	}
	CHECK_OK(dqlitepy_session_close(session));
	return NULL;
}

/* Each function, as it would work but for the fork. */
static void refused_in_a_child(const struct callee *callee)
{
	uint64_t arguments[MOST_ARGUMENTS] = { 0 };
	int choice[MOST_ARGUMENTS] = { 0 }, count;
	memset(scratch, 1, sizeof scratch);
	for (int p = 0; callee->signature[p + 1]; p++)
		arguments[p] = argument(callee->signature[p + 1], p, 0, &count);
	describe(callee, choice);
	double start = now();
	uint64_t got = make_call(callee, arguments);
	CHECK_WITHIN(start, 1.0);
	if (callee->signature[0] == 'i' && (int)got != DQLITEPY_MISUSE)
		check_fail(__FILE__, __LINE__, "%s gave %d in a forked child", current, (int)got);
	if (callee->signature[0] == 'i')
		CHECK_ERROR_HAS("forked");
	if (callee->signature[0] == 't')
		dqlitepy_free((void *)(uintptr_t)got);
	for (int p = 0; callee->signature[p + 1]; p++)
		if (strchr("TH", callee->signature[p + 1]))
			CHECK(*(uint64_t *)(void *)scratch[p] == 0);
}

static void be_a_child(int number, int lives_on, const int *hosts, const int *ends, int living)
{
	char byte;
	signal(SIGALRM, died);
	alarm(10);
	/* What the library closes here is its own. */
	for (int i = 0; i < 6; i++)
		CHECK(fcntl(hosts[i], F_GETFD) >= 0);
	for (size_t i = 0; i < CALLEES; i++)
		refused_in_a_child(&callees[i]);
	for (int i = 0; i < living; i++)
		close(ends[i]);
	if (lives_on) { /* until the parent closes the other end */
		alarm(60);
		close(hosts[1]);
		CHECK_INT(read(hosts[0], &byte, 1), 0);
	}
	if (number % 2)
		exit(CHILD_ENDED_WELL);
	_exit(CHILD_ENDED_WELL);
}

/* Two nodes with one address; the directory of one is damaged. */
static void make_two(void)
{
	const char *address = free_address(), *dir = path_in_test_dir("broken"), *files[] = { "broken/metadata1", "broken/open-1" };
	CHECK_OK(dqlitepy_node_create(1, address, path_in_test_dir("restarted"), &restarted));
	CHECK_OK(dqlitepy_node_create(1, address, dir, &broken));
	CHECK_INT(mkdir(dir, 0700), 0);
	for (int i = 0; i < 2; i++) {
		int fd = open(path_in_test_dir(files[i]), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		CHECK_INT(write(fd, huge, 64), 64);
		close(fd);
	}
}

static void forked_children(void)
{
	pthread_t threads[BUSY];
	pid_t alive[LIVE_ON];
	int ends[LIVE_ON], hosts[6], living = 0, children = (int)(each / 2);
	char want[60];
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	check_skip("the sanitizer's malloc may hang in a child that was forked among threads");
#endif
	watch_signals();
	memset(huge, 'y', sizeof huge - 1);
	make_all();
	make_two();
	for (uintptr_t i = 0; i < BUSY; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, be_busy, (void *)i), 0);
	for (int number = 0; number < children; number++) {
		int lives_on = living < LIVE_ON && number % 2;
		for (int i = 0; i < 6; i += 2)
			CHECK_INT(pipe2(hosts + i, O_CLOEXEC), 0);
		pid_t pid = fork();
		if (pid == 0)
			be_a_child(number, lives_on, hosts, ends, living);
		CHECK(pid > 0);
		for (int i = 0; i < 6; i++)
			if (!lives_on || i != 1)
				close(hosts[i]);
		if (lives_on)
			alive[living] = pid, ends[living++] = hosts[1];
		else
			CHECK_INT(wait_for_exit(pid, 15), CHILD_ENDED_WELL);
	}
	atomic_store(&enough, 1);
	for (int i = 0; i < BUSY; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
	for (int i = 0; i < living; i++) {
		close(ends[i]);
		CHECK_INT(wait_for_exit(alive[i], 15), CHILD_ENDED_WELL);
	}
	/* The parent has noticed nothing. */
	snprintf(want, sizeof want, "[{\"n\":%ld}]", (long)inserted);
	CHECK_JSON(good.node, "SELECT count(*) AS n FROM t", want);
	dqlitepy_node_destroy(restarted);
	dqlitepy_node_destroy(broken);
	close_all();
}

/* A function that is new in the header has to come into the table above. */
static void every_function(void)
{
	char line[1000];
	const char *path = getenv("HEADER");
	FILE *header = path ? fopen(path, "r") : NULL;
	size_t found = 0;
	if (!header)
		check_skip("HEADER does not name the header");
	while (fgets(line, sizeof line, header)) {
		char *name = strstr(line, "dqlitepy_"), *end = strchr(line, '(');
		/* A prototype stands at the start of a line; comments and members do not. */
		if (line[0] < 'a' || line[0] > 'z' || strncmp(line, "typedef", 7) == 0 || !end)
			continue;
		for (char *at = name; at && at < end; at = strstr(at + 1, "dqlitepy_"))
			name = at;
		*end = 0;
		size_t i = 0;
		while (i < CALLEES && strcmp(callees[i].name, name + 9) != 0)
			i++;
		if (i == CALLEES)
			check_fail(__FILE__, __LINE__, "%s is not in the table of tests-c/matrix.c: add it", name);
		found++;
	}
	fclose(header);
	CHECK_INT(found, CALLEES);
}

static void print_report(const char *path)
{
	char text[500];
	long made = 0, refused = 0, sum = 0, sum_refused = 0;
	double longest = 0, taken;
	FILE *file = fopen(path, "r");
	text[0] = 0;
	for (char line[500], what[450]; file && fgets(line, sizeof line, file);) {
		if (sscanf(line, "%ld %ld %lf %449[^\n]", &made, &refused, &taken, what) != 4)
			continue;
		sum += made, sum_refused += refused;
		if (taken > longest) {
			longest = taken;
			memcpy(text, what, sizeof what);
		}
	}
	if (file)
		fclose(file);
	printf("%ld calls, %ld of them refused, seed %lu; the longest took %.2f s: %s\n", sum, sum_refused, seed, longest, text);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "every_function", every_function, 0 },
		{ "node", node, 100 },
		{ "client", client, 100 },
		{ "session", session, 100 },
		{ "statement", statement, 100 },
		{ "rows", rows, 100 },
		{ "queue", queue, 100 },
		{ "others", others, 100 },
		{ "forked_children", forked_children, 100 },
		{ NULL, NULL, 0 },
	};
	const char *numbers_asked = getenv("MATRIX");
	char path[] = "/tmp/dqlitepy-matrix-XXXXXX";
	int is_child = argc > 1 && strcmp(argv[1], "--test") == 0, fd = -1;
	if (numbers_asked)
		sscanf(numbers_asked, "%lu %ld", &seed, &each);
	if (!is_child && (fd = mkstemp(path)) >= 0) {
		close(fd);
		setenv("MATRIX_REPORT", path, 1);
	}
	int code = check_main(argc, argv, tests);
	if (fd >= 0) {
		print_report(path);
		unlink(path);
	}
	return code;
}
