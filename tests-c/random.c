/*
 * Random calls, valid and not. One thread against a model that knows what each call must return and what the tables hold;
 * many threads on shared handles, where only codes, the end and what is left over can be checked.
 *   RANDOM_CALLS="SEED CALLS SECONDS CYCLES" random     the defaults take a few seconds; RANDOM_REPORT names a file for figures
 */
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long seed = 1;
static long calls = 1500, seconds = 2, rounds = 20;

static void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *format, ...)
{
	va_list arguments;
	FILE *report = getenv("RANDOM_REPORT") ? fopen(getenv("RANDOM_REPORT"), "a") : NULL;
	if (!report)
		return;
	va_start(arguments, format);
	vfprintf(report, format, arguments);
	va_end(arguments);
	fclose(report);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1d >> 16;
}

/* ---- one thread and a model ---- */

enum { NODES = 2, SESSIONS = 4, STALE = 64, BUSY_MS = 20 };

/* Somebody who can have a transaction: a node's handle or a session. Rows are counted, not looked at. */
struct actor {
	dqlitepy_handle handle;
	int node; /* the place of its node */
	int inside, pending, broken;
};

static struct {
	struct actor self;
	enum { NONE, CONFIGURED, RUNNING, STOPPED } state;
	int is_open, rows;
	const char *dir, *address;
} nodes[NODES];

static struct actor sessions[SESSIONS];
static dqlitepy_handle stale[STALE];
static unsigned stale_count;
static uint64_t state;

static int below(int limit)
{
	return (int)(next_random(&state) % (uint64_t)limit);
}

static void forget(dqlitepy_handle handle)
{
	stale[stale_count++ % STALE] = handle;
}

static void fresh(dqlitepy_handle handle)
{
	CHECK(handle != 0);
	for (unsigned i = 0; i < stale_count && i < STALE; i++)
		CHECK(stale[i] != handle); /* never used twice */
}

/* Another one on the same node is inside of a transaction that writes. */
static int is_locked(const struct actor *who)
{
	int locked = 0;
	for (int i = 0; i < SESSIONS; i++)
		locked |= sessions[i].handle && &sessions[i] != who && sessions[i].node == who->node && sessions[i].inside;
	return locked | (&nodes[who->node].self != who && nodes[who->node].self.inside);
}

/* What ends with a node's run. */
static void node_ended(int n)
{
	nodes[n].is_open = nodes[n].self.inside = nodes[n].self.pending = 0;
	for (int i = 0; i < SESSIONS; i++)
		if (sessions[i].handle && sessions[i].node == n)
			sessions[i].inside = sessions[i].pending = 0, sessions[i].broken = 1;
}

static void expect(const char *what, int got, int want)
{
	if (want < 0 ? got == 0 : got != want)
		check_fail(__FILE__, __LINE__, "%s gave %d instead of %d (-1: any failure): %s", what, got, want, last_error_text());
	if (got != 0)
		CHECK(last_error_text()[0] != 0);
}

static void create_or_destroy(int n)
{
	if (nodes[n].state == NONE) {
		dqlitepy_handle handle = 0;
		CHECK_OK(dqlitepy_node_create(1, nodes[n].address, nodes[n].dir, &handle));
		fresh(handle);
		CHECK_OK(dqlitepy_node_set_busy_timeout(handle, BUSY_MS));
		nodes[n].self = (struct actor){ .handle = handle, .node = n };
		nodes[n].state = CONFIGURED;
	} else if (below(4) == 0) {
		dqlitepy_node_destroy(nodes[n].self.handle);
		forget(nodes[n].self.handle);
		node_ended(n);
		nodes[n].self.handle = 0;
		nodes[n].state = NONE;
	}
}

static void start_or_stop(int n)
{
	dqlitepy_handle handle = nodes[n].self.handle;
	if (nodes[n].state == NONE)
		return;
	if (below(3) > 0) {
		expect("start", dqlitepy_node_start(handle), nodes[n].state == RUNNING ? DQLITEPY_MISUSE : 0);
		nodes[n].state = RUNNING;
	} else if (below(3) == 0) {
		expect("stop", dqlitepy_node_stop(handle), nodes[n].state == RUNNING ? 0 : -1);
		if (nodes[n].state == RUNNING) {
			node_ended(n);
			nodes[n].state = STOPPED;
		}
	}
}

static void open_database(int n)
{
	static const char *const bad[] = { "", "a/b", ":memory:", "file:x", "a?b", NULL };
	dqlitepy_handle handle = nodes[n].self.handle;
	if (nodes[n].state == NONE)
		return;
	if (below(5) == 0) {
		expect("open_db of a bad name", dqlitepy_node_open_db(handle, bad[below(6)]), -1);
		return;
	}
	expect("open_db", dqlitepy_node_open_db(handle, "test.db"), nodes[n].state == RUNNING ? 0 : -1);
	if (nodes[n].state == RUNNING && !nodes[n].is_open) {
		nodes[n].is_open = 1;
		if (!is_locked(&nodes[n].self))
			expect("CREATE", dqlitepy_node_exec(handle, "CREATE TABLE IF NOT EXISTS t(a)", NULL, NULL), 0);
	}
}

static void session_open_or_close(int i)
{
	struct actor *session = &sessions[i];
	if (!session->handle) {
		int n = below(NODES), works = nodes[n].state == RUNNING;
		if (nodes[n].state == NONE || !nodes[n].is_open)
			return;
		dqlitepy_handle handle = 0;
		expect("session_open", dqlitepy_session_open(nodes[n].self.handle, "test.db", &handle), works ? 0 : -1);
		if (works) {
			fresh(handle);
			CHECK_OK(dqlitepy_session_set_busy_timeout(handle, BUSY_MS));
			*session = (struct actor){ .handle = handle, .node = n };
		}
	} else if (below(4) == 0) {
		expect("session_close", dqlitepy_session_close(session->handle), 0);
		forget(session->handle);
		*session = (struct actor){ 0 };
	}
}

static int run_sql(const struct actor *who, const char *sql)
{
	if (who == &nodes[who->node].self)
		return dqlitepy_node_exec(who->handle, sql, NULL, NULL);
	return dqlitepy_session_exec(who->handle, sql, -1, NULL, NULL);
}

static void check_count(const struct actor *who)
{
	char want[60], *json = NULL;
	long long found = -1;
	int expected = nodes[who->node].rows + who->pending;
	dqlitepy_handle rows = 0;
	snprintf(want, sizeof want, "[{\"n\":%d}]", expected);
	if (who == &nodes[who->node].self) {
		expect("query", dqlitepy_node_query(who->handle, "SELECT count(*) AS n FROM t", &json), 0);
		CHECK_TEXT(json, want);
		dqlitepy_free(json);
		return;
	}
	expect("session_query", dqlitepy_session_query(who->handle, "SELECT count(*) FROM t", -1, &rows), 0);
	CHECK_RC(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	int64_t number = 0;
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &number));
	found = number;
	CHECK_INT(found, expected);
	expect("a column that is not there", dqlitepy_rows_column_int64(rows, 1, &number), -1);
	CHECK_OK(dqlitepy_rows_close(rows));
	forget(rows);
}

static void use(struct actor *who)
{
	int n = who->node, locked = is_locked(who);
	if (who->broken || nodes[n].state != RUNNING || !nodes[n].is_open) {
		if (who->handle)
			expect("a statement on what does not run", run_sql(who, "INSERT INTO t VALUES(1)"), -1);
		return;
	}
	switch (below(8)) {
	case 0:
		expect("BEGIN", run_sql(who, "BEGIN IMMEDIATE"), who->inside ? 1001 : locked ? 1005 : 0);
		if (!locked)
			who->inside = 1;
		break;
	case 1:
		expect("COMMIT", run_sql(who, "COMMIT"), who->inside ? 0 : 1001);
		nodes[n].rows += who->pending;
		who->inside = who->pending = 0;
		break;
	case 2:
		expect("ROLLBACK", run_sql(who, "ROLLBACK"), who->inside ? 0 : 1001);
		who->inside = who->pending = 0;
		break;
	case 3:
		expect("nonsense", run_sql(who, below(2) ? "NONSENSE" : "INSERT INTO missing VALUES(1)"), 1001);
		break;
	case 4:
		check_count(who);
		break;
	default:
		expect("INSERT", run_sql(who, "INSERT INTO t VALUES(1), (2)"), locked ? 1005 : 0);
		if (!locked && who->inside)
			who->pending += 2;
		else if (!locked)
			nodes[n].rows += 2;
	}
}

/* A statement that is kept: made, run some times, finalized; or refused where its session is no good. */
static void use_a_statement(struct actor *who)
{
	dqlitepy_handle statement = 0;
	int n = who->node, locked = is_locked(who), works = !who->broken && nodes[n].state == RUNNING;
	int made = dqlitepy_session_prepare(who->handle, "INSERT INTO t VALUES(?)", -1, &statement, NULL);
	expect("prepare", made, works ? 0 : -1);
	if (made != 0) {
		CHECK_INT(statement, 0);
		return;
	}
	fresh(statement);
	expect("a parameter that is not there", dqlitepy_statement_bind_int64(statement, 2, 1), -1);
	for (int i = below(3); i >= 0; i--) {
		CHECK_OK(dqlitepy_statement_bind_int64(statement, 1, i));
		expect("statement_exec", dqlitepy_statement_exec(statement, NULL, NULL), locked ? 1005 : 0);
		if (!locked && who->inside)
			who->pending++;
		else if (!locked)
			nodes[n].rows++;
	}
	CHECK_OK(dqlitepy_statement_finalize(statement));
	forget(statement);
	expect("a finalized statement", dqlitepy_statement_exec(statement, NULL, NULL), DQLITEPY_NOTFOUND);
}

/* Who leads, as a client of one node sees it. */
static void ask_a_client(int n)
{
	dqlitepy_handle client = 0;
	char *text = NULL;
	CHECK_OK(dqlitepy_client_create(nodes[n].address, &client));
	fresh(client);
	CHECK_OK(dqlitepy_client_set_timeout(client, nodes[n].state == RUNNING ? 0 : 20));
	expect("client_leader", dqlitepy_client_leader(client, &text), nodes[n].state == RUNNING ? 0 : DQLITEPY_NOLEADER);
	if (text != NULL)
		CHECK_TEXT(text, nodes[n].address);
	dqlitepy_free(text);
	CHECK_OK(dqlitepy_client_interrupt(client)); /* nothing is under way */
	expect("a member that is not there", dqlitepy_client_remove(client, 99), nodes[n].state == RUNNING ? DQLITEPY_NOTFOUND : -1);
	CHECK_OK(dqlitepy_client_close(client));
	forget(client);
}

/* Options are for nodes that do not run; limits and interrupts of what is not under way are for all and do nothing. */
static void set_something(int n)
{
	dqlitepy_handle handle = nodes[n].self.handle;
	int running = nodes[n].state == RUNNING;
	if (nodes[n].state == NONE)
		return;
	switch (below(7)) {
	case 0: expect("an option", dqlitepy_node_set_busy_timeout(handle, BUSY_MS), running ? DQLITEPY_MISUSE : 0); break;
	case 1: expect("an option", dqlitepy_node_set_timeout(handle, 0), running ? DQLITEPY_MISUSE : 0); break;
	case 2: expect("a bad option", dqlitepy_node_set_voters(handle, 0), running ? DQLITEPY_MISUSE : DQLITEPY_INVALID); break;
	case 3: CHECK_OK(dqlitepy_node_set_start_timeout(handle, below(2) ? 0 : 20000)); break;
	case 4: CHECK_OK(dqlitepy_node_set_stop_timeout(handle, below(2) ? 0 : 20000)); break;
	case 5: CHECK_OK(dqlitepy_node_interrupt(handle)); break;
	default: expect("a limit of nothing", dqlitepy_set_default_timeout(5 + below(100), 1), DQLITEPY_INVALID);
	}
}

/* Numbers that stand for nothing, or for something else than the function takes. */
static void wrong_handle(void)
{
	dqlitepy_handle handle = (dqlitepy_handle)next_random(&state), out = 5;
	char *text = (char *)1;
	if (below(2) && stale_count > 0)
		handle = stale[below(stale_count < STALE ? (int)stale_count : STALE)];
	int is_session = below(3) == 0 && sessions[0].handle != 0;
	if (is_session)
		handle = sessions[0].handle;
	int got;
	switch (below(13)) {
	case 0: got = dqlitepy_node_start(handle); break;
	case 1: got = dqlitepy_node_stop(handle); break;
	case 2: got = dqlitepy_node_exec(handle, "SELECT 1", NULL, NULL); break;
	case 3: got = dqlitepy_node_query(handle, "SELECT 1", &text); CHECK(text == NULL); break;
	case 4: got = dqlitepy_client_leader(handle, &text); CHECK(text == NULL); break;
	case 5: got = dqlitepy_session_open(handle, "a", &out); CHECK_INT(out, 0); break;
	case 6: got = dqlitepy_rows_step(handle); break;
	case 7: got = dqlitepy_statement_exec(handle, NULL, NULL); break;
	case 8: got = dqlitepy_node_interrupt(handle); break;
	case 9: got = dqlitepy_client_interrupt(handle); break;
	case 10: got = dqlitepy_node_set_start_timeout(handle, 1); break;
	case 11: got = dqlitepy_client_set_timeout(handle, 1); break;
	default: got = dqlitepy_client_close(handle);
	}
	if (got != DQLITEPY_NOTFOUND && got != DQLITEPY_INVALID)
		check_fail(__FILE__, __LINE__, "a wrong handle gave %d: %s", got, last_error_text());
	dqlitepy_node_destroy(below(2) ? 0 : is_session ? sessions[0].handle : handle);
}

static void against_a_model(void)
{
	state = seed * 0x9e3779b97f4a7c15 + 1;
	for (int n = 0; n < NODES; n++) {
		nodes[n].dir = path_in_test_dir(n ? "b" : "a");
		nodes[n].address = free_address();
	}
	for (long i = 0; i < calls; i++) {
		int n = below(NODES), s = below(SESSIONS);
		switch (below(20)) {
		case 0: create_or_destroy(n); break;
		case 1: case 2: start_or_stop(n); break;
		case 3: case 4: open_database(n); break;
		case 5: case 6: session_open_or_close(s); break;
		case 7: wrong_handle(); break;
		case 12: set_something(n); break;
		case 13:
			if (below(4) == 0)
				ask_a_client(n);
			break;
		case 14:
			if (sessions[s].handle && nodes[sessions[s].node].is_open)
				use_a_statement(&sessions[s]);
			break;
		case 8: case 9: case 10: case 11:
			if (nodes[n].state != NONE)
				use(&nodes[n].self);
			break;
		default:
			if (sessions[s].handle)
				use(&sessions[s]);
		}
	}
	for (int n = 0; n < NODES; n++)
		if (nodes[n].state != NONE)
			dqlitepy_node_destroy(nodes[n].self.handle);
}

/* ---- many threads ---- */

enum { THREADS = 16, PLACES = 12 };

static _Atomic(dqlitepy_handle) shared[PLACES]; /* nodes, then sessions, then clients; four each */
static atomic_long made;
static double end;
static const char *dirs[4], *addresses[4];

static int is_known(int code)
{
	return (code >= 0 && code <= 8) || (code >= 100 && code <= 104) || code == DQLITEPY_ROW || code == DQLITEPY_DONE || (code > 1000 && code < 1102);
}

static void *call_anything(void *argument)
{
	uint64_t mine = (seed + (uint64_t)(uintptr_t)argument) * 0x9e3779b97f4a7c15 + 1;
	while (now() < end) {
		unsigned place = (unsigned)(next_random(&mine) % PLACES), n = place % 4;
		dqlitepy_handle handle = shared[place], node = shared[n], out = 0, rows = 0;
		char *text = NULL;
		int code = 0;
		uint64_t what = next_random(&mine) % 40;
		if (what == 0 && place < 4) {
			code = dqlitepy_node_create(1, addresses[n], dirs[n], &out);
			dqlitepy_node_destroy(atomic_exchange(&shared[n], out));
		} else if (what < 3 && place < 4) {
			code = dqlitepy_node_start(handle);
		} else if (what == 3 && place < 4) {
			code = dqlitepy_node_stop(handle);
		} else if (what < 8 && place < 4) {
			code = dqlitepy_node_open_db(handle, "test.db");
		} else if (what < 10 && place >= 4 && place < 8) {
			code = dqlitepy_session_open(node, "test.db", &out);
			dqlitepy_session_close(atomic_exchange(&shared[place], out));
		} else if (what < 10 && place >= 8) {
			code = dqlitepy_client_create(addresses[n], &out);
			dqlitepy_client_close(atomic_exchange(&shared[place], out));
		} else if (what < 14) {
			code = dqlitepy_session_exec(handle, what == 10 ? "BEGIN" : what == 11 ? "COMMIT" : "INSERT INTO t VALUES(1)", -1, NULL, NULL);
		} else if (what < 17) {
			code = dqlitepy_session_query(handle, "SELECT * FROM t LIMIT 50", -1, &rows);
			while (code == 0 && dqlitepy_rows_step(rows) == DQLITEPY_ROW)
				;
			dqlitepy_rows_close(rows);
			code = is_known(code) ? 0 : code;
		} else if (what < 19) {
			code = place < 4   ? dqlitepy_node_interrupt(handle)
			       : place < 8 ? dqlitepy_session_interrupt(handle)
					   : dqlitepy_client_interrupt(handle);
		} else if (what < 22) {
			code = dqlitepy_client_leader(handle, &text);
		} else if (what < 30) {
			code = dqlitepy_node_exec(node, what < 24 ? "CREATE TABLE IF NOT EXISTS t(a)" : "INSERT INTO t VALUES(1)", NULL, NULL);
		} else {
			code = dqlitepy_node_query(node, "SELECT count(*) AS n FROM t", &text);
		}
		dqlitepy_free(text);
		if (!is_known(code))
			check_fail(__FILE__, __LINE__, "call %d gave %d: %s", (int)what, code, last_error_text());
		atomic_fetch_add(&made, 1);
	}
	return NULL;
}

static int descriptors(void)
{
	int n = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static int no_more_descriptors(void *most)
{
	return descriptors() <= *(int *)most;
}

static void many_threads(void)
{
	pthread_t threads[THREADS];
	for (int n = 0; n < 4; n++) {
		dirs[n] = path_in_test_dir((const char *const[]){ "a", "b", "c", "d" }[n]);
		addresses[n] = free_address();
	}
	dqlitepy_node_destroy(running_node(dirs[0], addresses[0])); /* what the library keeps for good is there now */
	int before = descriptors();
	end = now() + (double)seconds;
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, call_anything, (void *)i) == 0);
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(now() < end + 60);
	for (int i = 0; i < PLACES; i++) {
		dqlitepy_session_close(shared[i]);
		dqlitepy_client_close(shared[i]);
		dqlitepy_node_destroy(shared[i]);
	}
	WAIT_UNTIL(20, no_more_descriptors, &before);
	CHECK(made > 100);
	tell("%ld calls of %d threads in %ld s, seed %lu\n", (long)made, THREADS, seconds, seed);
}

/* ---- what a cycle leaves behind ---- */

static long status_number(const char *key)
{
	char line[200];
	long value = -1;
	FILE *f = fopen("/proc/self/status", "r");
	CHECK(f != NULL);
	while (fgets(line, sizeof line, f))
		if (strncmp(line, key, strlen(key)) == 0)
			value = atol(line + strlen(key));
	fclose(f);
	return value;
}

static int no_more_threads(void *most)
{
	return status_number("Threads:") <= *(long *)most;
}

static void cycles(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	long threads = 0, kilobytes = 0, more;
	int open = 0;
	for (long i = 0; i < rounds; i++) {
		dqlitepy_handle node = running_node(dir, address);
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1); DELETE FROM t");
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
		if (i == rounds / 4) { /* what is allocated once is there by then */
			threads = status_number("Threads:");
			kilobytes = status_number("VmRSS:");
			open = descriptors();
		}
	}
	WAIT_UNTIL(20, no_more_descriptors, &open);
	WAIT_UNTIL(20, no_more_threads, &threads);
	more = status_number("VmRSS:") - kilobytes;
	for (long i = 0; i < 10 * rounds; i++) {
		dqlitepy_handle node = 0;
		CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
		dqlitepy_node_destroy(node);
	}
	long most = status_number("VmRSS:") - kilobytes - more;
	tell("%ld cycles: %ld threads, %d descriptors, %ld kB more; %ld handles: %ld kB more\n", rounds, threads, open, more, 10 * rounds, most);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they hold back freed memory */
	CHECK(more < 4096);
	CHECK(most < 1024);
#endif
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "against_a_model", against_a_model, 7200 },
		{ "many_threads", many_threads, 7200 },
		{ "cycles", cycles, 7200 },
		{ NULL, NULL, 0 },
	};
	if (getenv("RANDOM_CALLS"))
		sscanf(getenv("RANDOM_CALLS"), "%lu %ld %ld %ld", &seed, &calls, &seconds, &rounds);
	return check_main(argc, argv, tests);
}
