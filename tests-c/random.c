/*
 * Random calls, valid and not. One thread against a model that knows what each call must return and what the tables hold;
 * many threads on shared handles, where only codes, the end and what is left over can be checked.
 *   RANDOM_CALLS="SEED CALLS SECONDS CYCLES" random     the defaults take a few seconds; RANDOM_REPORT names a file for figures
 */
#include "check.h"

#include <dirent.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Somebody who can have a transaction: a node's handle or a session. Of the rows their number and their sum are known. */
struct actor {
	dqlitepy_handle handle;
	int node; /* the place of its node */
	int inside, pending, pending_sum, broken;
};

static struct {
	struct actor self;
	enum { NONE, CONFIGURED, RUNNING, STOPPED } state;
	int is_open, rows, sum;
	const char *dir, *address;
	const char *list; /* of its cluster, whose other members are in another process */
} nodes[NODES];

static struct actor sessions[SESSIONS];
static dqlitepy_handle queue;
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
	nodes[n].is_open = nodes[n].self.inside = nodes[n].self.pending = nodes[n].self.pending_sum = 0;
	for (int i = 0; i < SESSIONS; i++)
		if (sessions[i].handle && sessions[i].node == n)
			sessions[i].inside = sessions[i].pending = sessions[i].pending_sum = 0, sessions[i].broken = 1;
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
		CHECK_OK(nodes[n].list ? dqlitepy_node_create_with_cluster(1, nodes[n].address, nodes[n].dir, nodes[n].list, &handle)
				       : dqlitepy_node_create(1, nodes[n].address, nodes[n].dir, &handle));
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

/* What comes out of the queue next, which is all that is in it. */
static dqlitepy_completion take_out(uint64_t token)
{
	struct pollfd waiting = { .events = POLLIN };
	dqlitepy_completion done;
	uint64_t count = 0;
	CHECK_OK(dqlitepy_queue_fd(queue, &waiting.fd));
	CHECK_INT(poll(&waiting, 1, 40000), 1);
	CHECK_OK(dqlitepy_queue_poll(queue, &done, 1, &count));
	CHECK(count == 1 && done.token == token);
	CHECK((done.code == 0) == (done.message == NULL));
	dqlitepy_free(done.message);
	return done;
}

static int run_sql(const struct actor *who, const char *sql)
{
	if (who == &nodes[who->node].self)
		return dqlitepy_node_exec(who->handle, sql, NULL, NULL);
	if (below(3) > 0)
		return dqlitepy_session_exec(who->handle, sql, -1, NULL, NULL);
	uint64_t token = next_random(&state);
	CHECK_OK(dqlitepy_queue_session_exec(queue, token, who->handle, sql, -1, NULL, 0));
	return take_out(token).code;
}

/* So many rows with that sum were written, if they were. */
static void wrote(struct actor *who, int rows, int sum)
{
	who->pending += rows;
	who->pending_sum += sum;
	if (!who->inside) {
		nodes[who->node].rows += who->pending, nodes[who->node].sum += who->pending_sum;
		who->pending = who->pending_sum = 0;
	}
}

#define COUNT "SELECT count(*) AS n, coalesce(sum(a), 0) AS s FROM t"

static void check_rows(dqlitepy_handle rows, int count, int sum)
{
	int64_t number = 0;
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &number));
	CHECK_INT(number, count);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 1, &number));
	CHECK_INT(number, sum);
	expect("a column that is not there", dqlitepy_rows_column_int64(rows, 2, &number), -1);
	CHECK_OK(dqlitepy_rows_close(rows));
	forget(rows);
}

static void check_count(const struct actor *who)
{
	char want[80], *json = NULL;
	int count = nodes[who->node].rows + who->pending, sum = nodes[who->node].sum + who->pending_sum;
	dqlitepy_handle rows = 0;
	if (who == &nodes[who->node].self) {
		snprintf(want, sizeof want, "[{\"n\":%d,\"s\":%d}]", count, sum);
		expect("query", dqlitepy_node_query(who->handle, COUNT, &json), 0);
		CHECK_TEXT(json, want);
		dqlitepy_free(json);
		return;
	}
	if (below(2)) {
		expect("session_query", dqlitepy_session_query(who->handle, COUNT, -1, &rows), 0);
	} else {
		CHECK_OK(dqlitepy_queue_session_query(queue, 9, who->handle, COUNT, -1, NULL, 0));
		rows = take_out(9).handle;
	}
	fresh(rows);
	check_rows(rows, count, sum);
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
		who->inside = 0;
		wrote(who, 0, 0);
		break;
	case 2:
		expect("ROLLBACK", run_sql(who, "ROLLBACK"), who->inside ? 0 : 1001);
		who->inside = who->pending = who->pending_sum = 0;
		break;
	case 3:
		expect("nonsense", run_sql(who, below(2) ? "NONSENSE" : "INSERT INTO missing VALUES(1)"), 1001);
		break;
	case 4:
		check_count(who);
		break;
	default:
		expect("INSERT", run_sql(who, "INSERT INTO t VALUES(1), (2)"), locked ? 1005 : 0);
		if (!locked)
			wrote(who, 2, 3);
	}
}

/* All sets of a batch or none. */
static void run_a_batch(struct actor *who, dqlitepy_handle statement, int locked)
{
	int sets = 1 + below(20), sum = 0, got;
	int64_t changed = 0;
	for (int i = 0; i < sets; i++) {
		int value = below(1000);
		CHECK_OK(dqlitepy_statement_bind_int64(statement, 1, value));
		CHECK_OK(dqlitepy_statement_add_batch(statement));
		sum += value;
	}
	if (below(2)) {
		got = dqlitepy_statement_exec_batch(statement, &changed);
	} else {
		CHECK_OK(dqlitepy_queue_statement_exec_batch(queue, 3, statement));
		dqlitepy_completion done = take_out(3);
		got = done.code, changed = done.rows_affected;
	}
	expect("a batch", got, locked ? 1005 : 0);
	CHECK_INT(changed, locked ? 0 : sets);
	if (!locked)
		wrote(who, sets, sum);
}

/* What is committed goes into a file, and from there into another database. */
static void copy_the_database(struct actor *who)
{
	static int copies;
	char name[40];
	const char *path = path_in_test_dir("dump");
	dqlitepy_handle other = 0, rows = 0;
	int n = who->node;
	if (who->broken || who->inside || nodes[n].state != RUNNING || is_locked(who))
		return;
	expect("dump", dqlitepy_session_dump(who->handle, path, NULL, NULL), 0);
	snprintf(name, sizeof name, "copy%d.db", copies++);
	CHECK_OK(dqlitepy_session_open(nodes[n].self.handle, name, &other));
	fresh(other);
	expect("load_file", dqlitepy_session_load_file(other, path, NULL, NULL), 0);
	CHECK_OK(dqlitepy_session_query(other, COUNT, -1, &rows));
	check_rows(rows, nodes[n].rows, nodes[n].sum);
	CHECK_OK(dqlitepy_session_close(other));
	forget(other);
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
		int value = below(1000);
		CHECK_OK(dqlitepy_statement_bind_int64(statement, 1, value));
		expect("statement_exec", dqlitepy_statement_exec(statement, NULL, NULL), locked ? 1005 : 0);
		if (!locked)
			wrote(who, 1, value);
	}
	run_a_batch(who, statement, locked);
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
		CHECK_HAS(nodes[n].list ? nodes[n].list : nodes[n].address, text);
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

static void prepare_model(void)
{
	state = seed * 0x9e3779b97f4a7c15 + 1;
	for (int n = 0; n < NODES; n++) {
		nodes[n].dir = path_in_test_dir(n ? "b" : "a");
		nodes[n].address = free_address();
	}
}

static void make_calls(long calls_to_make)
{
	CHECK_OK(dqlitepy_queue_open(0, &queue));
	for (long i = 0; i < calls_to_make; i++) {
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
		case 15:
			if (sessions[s].handle && nodes[sessions[s].node].is_open && below(5) == 0)
				copy_the_database(&sessions[s]);
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
	CHECK_OK(dqlitepy_queue_close(queue));
}

static void against_a_model(void)
{
	prepare_model();
	make_calls(calls);
}

/* The helper: two more members, until its end is closed. */
static int be_members(char **arguments)
{
	dqlitepy_handle node = 0;
	for (unsigned i = 0; i < 2; i++) {
		CHECK_OK(dqlitepy_node_create_with_cluster(i + 2, arguments[1 + i], arguments[3 + i], arguments[0], &node));
		CHECK_OK(dqlitepy_node_set_busy_timeout(node, BUSY_MS)); /* the one of who leads counts */
		CHECK_OK(dqlitepy_node_start(node));
	}
	puts("ready");
	fflush(stdout);
	return getchar() == EOF ? 0 : 1;
}

/* The same where one of the nodes is a member of three, and mostly not the one that leads. */
static void against_a_model_of_three(void)
{
	static char list[200];
	const char *addresses[2] = { free_address(), free_address() };
	prepare_model();
	snprintf(list, sizeof list, "%s,%s,%s", nodes[1].address, addresses[0], addresses[1]);
	nodes[1].list = list;
	create_or_destroy(1);
	CHECK_OK(dqlitepy_node_start(nodes[1].self.handle));
	nodes[1].state = RUNNING;
	struct helper helper = start_helper((const char *const[]){ "members", list, addresses[0], addresses[1], path_in_test_dir("c"),
								    path_in_test_dir("d"), NULL });
	CHECK_TEXT(helper_line(&helper, 30), "ready");
	make_calls(calls / 3);
	close(helper.in);
	CHECK_INT(wait_for_exit(helper.pid, 30), 0);
}

/* ---- many threads ---- */

enum { THREADS = 16, EACH = 4, PLACES = 5 * EACH, LIBUV_S = 4, MOST_MORE_KB = 32 << 10 };

static _Atomic(dqlitepy_handle) shared[PLACES]; /* nodes, sessions, clients, statements, queues; four each */
#define NODE shared[0 * EACH + n]
#define SESSION shared[1 * EACH + n]
#define CLIENT shared[2 * EACH + n]
#define STATEMENT shared[3 * EACH + n]
#define QUEUE shared[4 * EACH + n]
static atomic_long made, logged;
static double end;
static const char *dirs[EACH], *addresses[EACH];

static int is_known(int code)
{
	return (code >= 0 && code <= 8) || (code >= 100 && code <= 106) || (code >= DQLITEPY_ROW && code <= DQLITEPY_MORE) ||
	       (code > 1000 && code < 1102);
}

static void count_message(void *data, int level, const char *message)
{
	(void)data, (void)level;
	logged += message[0] != 0;
}

static int keep_going(void *data, uint64_t done, uint64_t total)
{
	(void)done, (void)total;
	return now() > *(double *)data;
}

/* Puts a handle in the place of another one, which is given back. */
static void put(_Atomic(dqlitepy_handle) *place, dqlitepy_handle handle)
{
	handle = atomic_exchange(place, handle);
	dqlitepy_session_close(handle);
	dqlitepy_client_close(handle);
	dqlitepy_statement_finalize(handle);
	dqlitepy_queue_close(handle);
	dqlitepy_node_destroy(handle);
}

static int read_all(dqlitepy_handle rows)
{
	dqlitepy_value values[20];
	uint64_t count = 0;
	int code = 0;
	while (code == DQLITEPY_ROW || code == 0) {
		code = dqlitepy_rows_step(rows);
		if (code == DQLITEPY_ROW)
			code = dqlitepy_rows_fetch(rows, values, 20, &count);
	}
	dqlitepy_rows_close(rows);
	return code;
}

/* Takes what is there, which other threads do, too. */
static int drain(dqlitepy_handle queue)
{
	dqlitepy_completion done[8];
	uint64_t count = 0;
	int code = dqlitepy_queue_poll(queue, done, 8, &count);
	for (uint64_t i = 0; i < count; i++) {
		if (!is_known(done[i].code))
			check_fail(__FILE__, __LINE__, "a queue gave %d: %s", done[i].code, done[i].message);
		dqlitepy_free(done[i].message);
		dqlitepy_rows_close(done[i].handle);
		dqlitepy_statement_finalize(done[i].handle);
		dqlitepy_session_close(done[i].handle);
	}
	return code;
}

static int submit(dqlitepy_handle queue, unsigned n, unsigned what)
{
	const dqlitepy_value values[] = { { .type = DQLITEPY_INTEGER, .integer = 4 }, { .type = DQLITEPY_NULL } };
	switch (what) {
	case 0: return dqlitepy_queue_session_open(queue, what, NODE, "test.db");
	case 1: return dqlitepy_queue_session_query(queue, what, SESSION, "SELECT * FROM t LIMIT 50", -1, NULL, 0);
	case 2: return dqlitepy_queue_session_exec_batch(queue, what, SESSION, "INSERT INTO t VALUES(?)", -1, values, 1, 2);
	case 3: return dqlitepy_queue_session_prepare(queue, what, SESSION, "SELECT 1", -1);
	case 4: return dqlitepy_queue_statement_exec(queue, what, STATEMENT);
	case 5: return dqlitepy_queue_statement_query(queue, what, STATEMENT);
	case 6: return dqlitepy_queue_cancel(queue, what - 1);
	default: return dqlitepy_queue_session_exec(queue, what, SESSION, "INSERT INTO t VALUES(?)", -1, values, 1);
	}
}

/* One call on whatever has the number n, or on something of another kind. */
static int call_something(uint64_t *mine, const char *path)
{
	unsigned n = (unsigned)(next_random(mine) % EACH), what = (unsigned)(next_random(mine) % 64);
	dqlitepy_handle any = shared[next_random(mine) % PLACES], out = 0, rows = 0;
	char *text = NULL;
	int code;
	switch (what) {
	case 0:
		code = dqlitepy_node_create(1, addresses[n], dirs[n], &out);
		put(&NODE, out);
		return code;
	case 1: case 2: return dqlitepy_node_start(NODE);
	case 3: return next_random(mine) % 4 == 0 ? dqlitepy_node_stop(NODE) : dqlitepy_node_interrupt(any);
	case 4: case 5: return dqlitepy_node_open_db(NODE, "test.db");
	case 6: case 7:
		code = dqlitepy_session_open(NODE, "test.db", &out);
		put(&SESSION, out);
		return code;
	case 8:
		code = dqlitepy_client_create(addresses[n], &out);
		put(&CLIENT, out);
		return code;
	case 9: case 10:
		code = dqlitepy_session_prepare(SESSION, what == 9 ? "INSERT INTO t VALUES(?)" : "SELECT * FROM t LIMIT 30", -1, &out, NULL);
		put(&STATEMENT, out);
		return code;
	case 11:
		code = dqlitepy_queue_open(50, &out);
		put(&QUEUE, out);
		return code;
	case 12: return dqlitepy_session_exec(any, "BEGIN", -1, NULL, NULL);
	case 13: return dqlitepy_session_exec(any, "COMMIT", -1, NULL, NULL);
	case 14: return dqlitepy_session_rollback(SESSION);
	case 15: return dqlitepy_session_interrupt(any);
	case 16: return dqlitepy_client_interrupt(any);
	case 17: case 18: code = dqlitepy_client_leader(CLIENT, &text); break;
	case 19: code = dqlitepy_client_cluster(CLIENT, &text); break;
	case 20: code = dqlitepy_metrics((int)(next_random(mine) % 3), &text); break;
	case 21: code = dqlitepy_node_metrics(any, 0, &text); break;
	case 22: code = dqlitepy_client_metrics(any, 1, &text); break;
	case 23: return dqlitepy_set_log_callback(next_random(mine) % 2 ? count_message : NULL, NULL);
	case 24: return next_random(mine) % 4 ? 0 : dqlitepy_session_dump(SESSION, path, keep_going, &end);
	case 25: return dqlitepy_session_load_script(SESSION, "INSERT INTO t VALUES(7); DELETE FROM t WHERE a = 7", -1, keep_going, &end);
	case 26: return dqlitepy_statement_bind_int64(STATEMENT, 1, 6);
	case 27: return dqlitepy_statement_add_batch(STATEMENT);
	case 28: return dqlitepy_statement_exec_batch(STATEMENT, NULL);
	case 29: case 30: return dqlitepy_statement_exec(STATEMENT, NULL, NULL);
	case 31: case 32:
		code = dqlitepy_statement_query(STATEMENT, &rows);
		return code ? code : read_all(rows);
	case 33: case 34: case 35:
		code = dqlitepy_session_query(any, "SELECT * FROM t LIMIT 50", -1, &rows);
		return code ? code : read_all(rows);
	case 36: case 37: case 38: case 39: return submit(QUEUE, n, (unsigned)(next_random(mine) % 12));
	case 40: case 41: case 42: return drain(QUEUE);
	case 43: code = dqlitepy_session_leader(any, &text); break;
	case 44: code = dqlitepy_node_query(any, "SELECT count(*) AS n FROM t", &text); break;
	case 45: return dqlitepy_node_exec(NODE, "CREATE TABLE IF NOT EXISTS t(a)", NULL, NULL);
	case 46: return dqlitepy_node_exec(NODE, "DELETE FROM t WHERE rowid % 2", NULL, NULL);
	default: return dqlitepy_session_exec(what % 2 ? SESSION : any, "INSERT INTO t VALUES(1)", -1, NULL, NULL);
	}
	dqlitepy_free(text);
	return code;
}

static void *call_anything(void *argument)
{
	char name[20];
	uint64_t mine = (seed + (uint64_t)(uintptr_t)argument) * 0x9e3779b97f4a7c15 + 1;
	snprintf(name, sizeof name, "dump%d", (int)(uintptr_t)argument);
	const char *path = path_in_test_dir(name);
	while (now() < end) {
		int code = call_something(&mine, path);
		if (!is_known(code))
			check_fail(__FILE__, __LINE__, "a call gave %d: %s", code, last_error_text());
		atomic_fetch_add(&made, 1);
	}
	return NULL;
}

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

static int no_more_threads(void *most)
{
	return status_number("Threads:") <= *(long *)most;
}

/* Kilobytes, without what malloc keeps for later. */
static long memory(void)
{
	malloc_trim(0);
	return status_number("VmRSS:");
}

static void let_them(double long_enough)
{
	pthread_t threads[THREADS];
	end = now() + long_enough;
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, call_anything, (void *)i) == 0);
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(now() < end + 60);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	for (int i = PLACES; i-- > 0;)
		put(&shared[i], 0);
}

static void many_threads(void)
{
	for (int n = 0; n < EACH; n++) {
		dirs[n] = path_in_test_dir((const char *const[]){ "a", "b", "c", "d" }[n]);
		addresses[n] = free_address();
	}
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CALLS, 2000));
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CLIENTS, 500));
	dqlitepy_node_destroy(running_node(dirs[0], addresses[0])); /* what the library keeps for good is there now */
	int before = descriptors();
	long threads = status_number("Threads:") + LIBUV_S;
	let_them((double)seconds / 2);
	long kilobytes = memory();
	let_them((double)seconds / 2);
	WAIT_UNTIL(20, no_more_descriptors, &before);
	WAIT_UNTIL(20, no_more_threads, &threads);
	long more = memory() - kilobytes;
	CHECK(made > 100);
	tell("%ld calls of %d threads in %ld s, seed %lu, %ld kB more in their second half\n", (long)made, THREADS, seconds, seed, more);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they hold back freed memory */
	CHECK(more < MOST_MORE_KB);
#endif
}

/* ---- what a cycle leaves behind ---- */

/* So many of each, made and given back while a node runs. */
static void handles_of_every_kind(void)
{
	const char *address = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("handles"), address), session = 0;
	long threads = 0, kilobytes = 0;
	int open = 0;
	CHECK_EXEC(node, "CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)");
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	for (long i = 0; i < 12 * rounds; i++) {
		dqlitepy_handle other = 0, statement = 0, rows = 0, client = 0, queue = 0;
		CHECK_OK(dqlitepy_session_open(node, "test.db", &other));
		CHECK_OK(dqlitepy_session_prepare(other, "SELECT a FROM t", -1, &statement, NULL));
		CHECK_OK(dqlitepy_statement_query(statement, &rows));
		CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
		CHECK_OK(dqlitepy_rows_close(rows));
		CHECK_OK(dqlitepy_session_query(session, "SELECT a FROM t", -1, &rows));
		CHECK_OK(dqlitepy_rows_close(rows));
		CHECK_OK(dqlitepy_statement_finalize(statement));
		CHECK_OK(dqlitepy_client_create(address, &client));
		CHECK_OK(dqlitepy_client_close(client));
		CHECK_OK(dqlitepy_queue_open(0, &queue));
		CHECK_OK(dqlitepy_queue_session_close(queue, 1, other));
		CHECK_OK(dqlitepy_queue_close(queue));
		if (i == 2 * rounds) {
			threads = status_number("Threads:");
			kilobytes = memory();
			open = descriptors();
		}
	}
	WAIT_UNTIL(20, no_more_descriptors, &open);
	WAIT_UNTIL(20, no_more_threads, &threads);
	long more = memory() - kilobytes;
	tell("%ld handles of each kind: %ld kB more\n", 10 * rounds, more);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	CHECK(more < 2048);
#endif
	dqlitepy_node_destroy(node);
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
	handles_of_every_kind();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they hold back freed memory */
	CHECK(more < 4096);
	CHECK(most < 1024);
#endif
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "against_a_model", against_a_model, 7200 },
		{ "against_a_model_of_three", against_a_model_of_three, 7200 },
		{ "many_threads", many_threads, 7200 },
		{ "cycles", cycles, 7200 },
		{ NULL, NULL, 0 },
	};
	if (argc == 8 && strcmp(argv[1], "--helper") == 0)
		return be_members(argv + 3);
	if (getenv("RANDOM_CALLS"))
		sscanf(getenv("RANDOM_CALLS"), "%lu %ld %ld %ld", &seed, &calls, &seconds, &rounds);
	return check_main(argc, argv, tests);
}
