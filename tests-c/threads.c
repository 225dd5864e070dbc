/* Many threads on one handle, and the end of a node under them. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 16, BUSY_THREADS = 8, CALLS = 60 };

#define LONG_SELECT "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT count(*) FROM s"

struct worker {
	pthread_t thread;
	dqlitepy_handle node;
	int number;
	int calls;       /* how many succeeded */
	int code;        /* of the first that failed, 0 = none */
	char error[300]; /* and its message */
};

static atomic_int started;

static void start_workers(struct worker *workers, int n, dqlitepy_handle node, void *(*run)(void *))
{
	memset(workers, 0, sizeof *workers * (size_t)n);
	atomic_store(&started, 0);
	for (int i = 0; i < n; i++) {
		workers[i].node = node;
		workers[i].number = i;
		CHECK(pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0);
	}
}

static void join_workers(struct worker *workers, int n)
{
	for (int i = 0; i < n; i++)
		CHECK(pthread_join(workers[i].thread, NULL) == 0);
}

static int have_started(void *n)
{
	return atomic_load(&started) >= *(int *)n;
}

/* One write and one read; the code of the first that fails. */
static int write_and_read(struct worker *w, int call)
{
	char sql[120];
	int64_t id, rows;
	char *json = NULL;
	snprintf(sql, sizeof sql, "INSERT INTO t(worker, call) VALUES(%d, %d)", w->number, call);
	int rc = dqlitepy_node_exec(w->node, sql, &id, &rows);
	if (rc == 0) {
		w->calls++;
		rc = dqlitepy_node_query(w->node, "SELECT count(*) AS n, max(id) AS m FROM t", &json);
	}
	if (rc == 0 && (!json || json[0] != '['))
		rc = -1;
	dqlitepy_free(json);
	if (rc != 0) {
		w->code = rc;
		snprintf(w->error, sizeof w->error, "%s", last_error_text());
	}
	return rc;
}

static void *run_calls(void *argument)
{
	struct worker *w = argument;
	for (int i = 0; i < CALLS; i++)
		if (write_and_read(w, i) != 0)
			break;
	return NULL;
}

static void *run_until_failure(void *argument)
{
	struct worker *w = argument;
	for (int i = 0; write_and_read(w, i) == 0; i++)
		if (i == 0)
			atomic_fetch_add(&started, 1);
	return NULL;
}

static void *run_long_select(void *argument)
{
	struct worker *w = argument;
	char *json = NULL;
	atomic_fetch_add(&started, 1);
	w->code = dqlitepy_node_query(w->node, LONG_SELECT, &json);
	snprintf(w->error, sizeof w->error, "%s", last_error_text());
	dqlitepy_free(json);
	return NULL;
}

static dqlitepy_handle node_with_table(const char *dir, const char *address)
{
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, worker, call)");
	return node;
}

/* The call in flight got SHUTDOWN, or the next one found the node stopped, or its handle gone. */
static void check_ended_by_stop(const struct worker *w, int afterwards)
{
	if (w->code != DQLITEPY_SHUTDOWN && w->code != afterwards)
		check_fail(__FILE__, __LINE__, "worker %d: code %d instead of %d or %d: %s", w->number, w->code,
			   DQLITEPY_SHUTDOWN, afterwards, w->error);
	if (!w->error[0])
		check_fail(__FILE__, __LINE__, "worker %d: code %d and no message", w->number, w->code);
}

static void no_call_fails(void)
{
	static struct worker workers[THREADS];
	char want[40];
	dqlitepy_handle node = node_with_table(path_in_test_dir("node"), free_address());
	start_workers(workers, THREADS, node, run_calls);
	join_workers(workers, THREADS);
	for (int i = 0; i < THREADS; i++)
		if (workers[i].code || workers[i].calls != CALLS)
			check_fail(__FILE__, __LINE__, "worker %d: %d calls, code %d: %s", i, workers[i].calls, workers[i].code,
				   workers[i].error);
	/* Each row once, none twice. */
	snprintf(want, sizeof want, "[{\"n\":%d,\"d\":%d}]", THREADS * CALLS, THREADS * CALLS);
	CHECK_JSON(node, "SELECT count(*) AS n, count(DISTINCT worker * 1000 + call) AS d FROM t", want);
	dqlitepy_node_destroy(node);
}

static void end_under_load(void (*end)(dqlitepy_handle), int afterwards)
{
	static struct worker workers[BUSY_THREADS];
	const char *dir = path_in_test_dir("node"), *address = free_address();
	int all = BUSY_THREADS, written = 0;
	dqlitepy_handle node = node_with_table(dir, address);
	start_workers(workers, BUSY_THREADS, node, run_until_failure);
	WAIT_UNTIL(20, have_started, &all);
	double start = now();
	end(node);
	join_workers(workers, BUSY_THREADS);
	CHECK_WITHIN(start, 5.0);
	for (int i = 0; i < BUSY_THREADS; i++) {
		check_ended_by_stop(&workers[i], afterwards);
		written += workers[i].calls;
	}
	dqlitepy_node_destroy(node);
	/* What was acknowledged is there; each worker may have one more row whose answer it did not get. */
	node = node_with_table(dir, address);
	for (int i = 0; i < BUSY_THREADS; i++) {
		char sql[200];
		snprintf(sql, sizeof sql, "SELECT count(*) BETWEEN %d AND %d AS ok, count(*) = count(DISTINCT call) AS once FROM t WHERE worker = %d",
			 workers[i].calls, workers[i].calls + 1, i);
		CHECK_JSON(node, sql, "[{\"ok\":1,\"once\":1}]");
	}
	CHECK(written >= BUSY_THREADS);
	dqlitepy_node_destroy(node);
}

static void stop_it(dqlitepy_handle node)
{
	CHECK_OK(dqlitepy_node_stop(node));
}

static void stop_under_load(void)
{
	end_under_load(stop_it, DQLITEPY_STOPPED);
}

static void destroy_under_load(void)
{
	end_under_load(dqlitepy_node_destroy, DQLITEPY_NOTFOUND);
}

/* The engine itself waits for a running step however long it takes. */
static void stop_during_a_long_statement(void)
{
	static struct worker workers[3];
	int all = 3;
	dqlitepy_handle node = node_with_table(path_in_test_dir("node"), free_address());
	start_workers(workers, 3, node, run_long_select);
	WAIT_UNTIL(5, have_started, &all);
	double start = now();
	CHECK_OK(dqlitepy_node_stop(node));
	join_workers(workers, 3);
	CHECK_WITHIN(start, 5.0);
	for (int i = 0; i < 3; i++)
		check_ended_by_stop(&workers[i], DQLITEPY_STOPPED);
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":0}]");
	dqlitepy_node_destroy(node);
}

/* start and stop from several threads at once: each call gets an answer, the node is in one of its states. */
static void *run_start_and_stop(void *argument)
{
	struct worker *w = argument;
	for (int i = 0; i < 5; i++) {
		int rc = w->number % 2 ? dqlitepy_node_start(w->node) : dqlitepy_node_stop(w->node);
		if (rc != 0 && rc != DQLITEPY_MISUSE && rc != DQLITEPY_SHUTDOWN && rc != DQLITEPY_STOPPED) {
			w->code = rc;
			snprintf(w->error, sizeof w->error, "%s", last_error_text());
		}
		rc = dqlitepy_node_open_db(w->node, "test.db");
		if (rc == 0)
			w->calls++;
	}
	return NULL;
}

static void start_and_stop_at_once(void)
{
	static struct worker workers[4];
	dqlitepy_handle node = node_with_table(path_in_test_dir("node"), free_address());
	start_workers(workers, 4, node, run_start_and_stop);
	join_workers(workers, 4);
	for (int i = 0; i < 4; i++)
		if (workers[i].code)
			check_fail(__FILE__, __LINE__, "worker %d: code %d: %s", i, workers[i].code, workers[i].error);
	int rc = dqlitepy_node_start(node);
	CHECK(rc == 0 || rc == DQLITEPY_MISUSE);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "INSERT INTO t(worker) VALUES(1)");
	dqlitepy_node_destroy(node);
}

static void *run_own_node(void *argument)
{
	struct worker *w = argument;
	char name[20];
	static pthread_mutex_t addresses = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&addresses);
	const char *address = free_address();
	pthread_mutex_unlock(&addresses);
	snprintf(name, sizeof name, "node%d", w->number);
	for (int i = 0; i < 2; i++) {
		w->node = node_with_table(path_in_test_dir(name), address);
		for (int k = 0; k < 5 && w->code == 0; k++)
			write_and_read(w, k);
		CHECK_OK(dqlitepy_node_stop(w->node));
		dqlitepy_node_destroy(w->node);
	}
	return NULL;
}

static void a_node_for_each_thread(void)
{
	static struct worker workers[6];
	start_workers(workers, 6, 0, run_own_node);
	join_workers(workers, 6);
	for (int i = 0; i < 6; i++)
		if (workers[i].code || workers[i].calls != 10)
			check_fail(__FILE__, __LINE__, "worker %d: %d calls, code %d: %s", i, workers[i].calls, workers[i].code,
				   workers[i].error);
}

static void *run_client_calls(void *argument)
{
	struct worker *w = argument;
	for (;;) {
		char *text = NULL;
		w->code = w->number % 2 ? dqlitepy_client_leader(w->node, &text) : dqlitepy_client_cluster(w->node, &text);
		dqlitepy_free(text);
		if (w->code != 0)
			break;
		if (w->calls++ == 0)
			atomic_fetch_add(&started, 1);
	}
	snprintf(w->error, sizeof w->error, "%s", last_error_text());
	return NULL;
}

static void close_a_busy_client(void)
{
	static struct worker workers[4];
	int all = 4;
	const char *address = free_address();
	dqlitepy_handle node = node_with_table(path_in_test_dir("node"), address), client = 0;
	CHECK_OK(dqlitepy_client_create(address, &client));
	start_workers(workers, 4, client, run_client_calls);
	WAIT_UNTIL(10, have_started, &all);
	double start = now();
	CHECK_OK(dqlitepy_client_close(client));
	join_workers(workers, 4);
	CHECK_WITHIN(start, 3.0);
	for (int i = 0; i < 4; i++) /* the call in flight, or the next one */
		if (workers[i].code != DQLITEPY_SHUTDOWN && workers[i].code != DQLITEPY_NOTFOUND)
			check_fail(__FILE__, __LINE__, "worker %d: code %d: %s", i, workers[i].code, workers[i].error);
	dqlitepy_node_destroy(node);
}

/* While one thread reads for long, the others go on. */
static void readers_do_not_wait(void)
{
	static struct worker reader[1];
	int one = 1;
	dqlitepy_handle node = node_with_table(path_in_test_dir("node"), free_address());
	start_workers(reader, 1, node, run_long_select);
	WAIT_UNTIL(5, have_started, &one);
	double start = now();
	for (int i = 0; i < 20; i++)
		CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":0}]");
	CHECK_WITHIN(start, 3.0);
	CHECK_OK(dqlitepy_node_stop(node));
	join_workers(reader, 1);
	check_ended_by_stop(reader, DQLITEPY_STOPPED);
	dqlitepy_node_destroy(node);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "no_call_fails", no_call_fails, 60 },
		{ "stop_under_load", stop_under_load, 60 },
		{ "destroy_under_load", destroy_under_load, 60 },
		{ "stop_during_a_long_statement", stop_during_a_long_statement, 0 },
		{ "start_and_stop_at_once", start_and_stop_at_once, 0 },
		{ "a_node_for_each_thread", a_node_for_each_thread, 60 },
		{ "close_a_busy_client", close_a_busy_client, 0 },
		{ "readers_do_not_wait", readers_do_not_wait, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
