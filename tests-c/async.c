/* Queues: calls that are submitted, and results that are polled when a descriptor is readable. One thread throughout. */
#include "check.h"

#include <dirent.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDLESS "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
#define MANY "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT i, 'row ' || i FROM n"

static const char *node_address;

static dqlitepy_handle new_node(void)
{
	node_address = free_address();
	return running_node(path_in_test_dir("node"), node_address);
}

static dqlitepy_handle new_queue(void)
{
	dqlitepy_handle queue = 0;
	CHECK_OK(dqlitepy_queue_open(0, &queue));
	CHECK(queue != 0);
	return queue;
}

static int readable(dqlitepy_handle queue, int milliseconds)
{
	struct pollfd entry = { .events = POLLIN };
	CHECK_OK(dqlitepy_queue_fd(queue, &entry.fd));
	CHECK(entry.fd >= 0);
	return poll(&entry, 1, milliseconds);
}

/* The next result, whatever it is. */
static dqlitepy_completion next(dqlitepy_handle queue)
{
	dqlitepy_completion completion;
	uint64_t count = 7;
	CHECK_INT(readable(queue, 20000), 1);
	CHECK_OK(dqlitepy_queue_poll(queue, &completion, 1, &count));
	CHECK_INT(count, 1);
	return completion;
}

/* The next result has this token and code; its handle. */
static dqlitepy_handle expect(dqlitepy_handle queue, uint64_t token, int code)
{
	dqlitepy_completion completion = next(queue);
	if (completion.code != code || completion.token != token)
		check_fail(__FILE__, __LINE__, "token %llu code %d (%s), expected %llu code %d", (unsigned long long)completion.token,
			   completion.code, completion.message ? completion.message : "", (unsigned long long)token, code);
	CHECK((completion.message != NULL) == (code != DQLITEPY_OK));
	dqlitepy_free(completion.message);
	return completion.handle;
}

static dqlitepy_handle new_session(dqlitepy_handle queue, dqlitepy_handle node)
{
	CHECK_OK(dqlitepy_queue_session_open(queue, 99, node, "test.db"));
	dqlitepy_handle session = expect(queue, 99, DQLITEPY_OK);
	CHECK(session != 0);
	return session;
}

static void exec(dqlitepy_handle queue, uint64_t token, dqlitepy_handle session, const char *sql)
{
	CHECK_OK(dqlitepy_queue_session_exec(queue, token, session, sql, -1, NULL, 0));
}

/* The only value of the only row. */
static long long number(dqlitepy_handle queue, dqlitepy_handle session, const char *sql)
{
	int64_t value = -1;
	CHECK_OK(dqlitepy_queue_session_query(queue, 98, session, sql, -1, NULL, 0));
	dqlitepy_handle rows = expect(queue, 98, DQLITEPY_OK);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	return value;
}

static void close_all(dqlitepy_handle queue, dqlitepy_handle session, dqlitepy_handle node)
{
	CHECK_OK(dqlitepy_queue_session_close(queue, 97, session));
	expect(queue, 97, DQLITEPY_OK);
	CHECK_INT(readable(queue, 0), 0);
	CHECK_OK(dqlitepy_queue_close(queue));
	dqlitepy_node_destroy(node);
}

/* 1,000 inserts over 16 sessions, submitted at once; whatever was passed is overwritten at once. */
static void a_thousand_in_order(void)
{
	enum { SESSIONS = 16, ALL = 1000 };
	dqlitepy_handle node = new_node(), queue = new_queue(), sessions[SESSIONS];
	int last[SESSIONS], fd, epoll = epoll_create1(0), seen = 0;
	for (int i = 0; i < SESSIONS; i++) {
		sessions[i] = new_session(queue, node);
		last[i] = -1;
	}
	exec(queue, 1, sessions[0], "CREATE TABLE t(id INTEGER PRIMARY KEY, session, n, text)");
	expect(queue, 1, DQLITEPY_OK);
	for (int i = 0; i < ALL; i++) {
		char sql[100], text[20];
		snprintf(sql, sizeof sql, "INSERT INTO t(session, n, text) VALUES (?, ?, ?)");
		snprintf(text, sizeof text, "text %d", i);
		dqlitepy_value values[3] = {
			{ .type = DQLITEPY_INTEGER, .integer = i % SESSIONS },
			{ .type = DQLITEPY_INTEGER, .integer = i },
			{ .type = DQLITEPY_TEXT, .data = text, .size = strlen(text) },
		};
		CHECK_OK(dqlitepy_queue_session_exec(queue, (uint64_t)i, sessions[i % SESSIONS], sql, (int64_t)strlen(sql), values, 3));
		memset(sql, 'x', sizeof sql);
		memset(text, 'x', sizeof text);
		memset(values, 0xff, sizeof values);
	}
	CHECK_OK(dqlitepy_queue_fd(queue, &fd));
	CHECK(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN | EPOLLET }) == 0);
	while (seen < ALL) {
		dqlitepy_completion done[64];
		uint64_t count = 0;
		struct epoll_event event;
		CHECK_INT(epoll_wait(epoll, &event, 1, 20000), 1);
		do {
			CHECK_OK(dqlitepy_queue_poll(queue, done, 64, &count));
			for (uint64_t i = 0; i < count; i++) {
				int n = (int)done[i].token;
				CHECK_INT(done[i].code, DQLITEPY_OK);
				CHECK(done[i].message == NULL && done[i].handle == 0);
				CHECK(done[i].rows_affected == 1 && done[i].last_insert_id > 0);
				CHECK(n > last[n % SESSIONS]);
				last[n % SESSIONS] = n;
			}
			seen += (int)count;
		} while (count == 64);
	}
	CHECK_INT(number(queue, sessions[0], "SELECT count(DISTINCT n) FROM t WHERE session = n % 16 AND text = 'text ' || n"), ALL);
	CHECK_INT(number(queue, sessions[0], "SELECT count(*) FROM t a JOIN t b USING (session) WHERE a.id < b.id AND a.n > b.n"), 0);
	close(epoll);
	for (int i = 1; i < SESSIONS; i++)
		CHECK_OK(dqlitepy_session_close(sessions[i]));
	close_all(queue, sessions[0], node);
}

/* The same with as many threads as can be had waiting for one lock, whose holder's requests come behind theirs. */
static void more_writers_than_threads(void)
{
	enum { SESSIONS = 150 };
	dqlitepy_handle node = new_node(), queue = new_queue(), sessions[SESSIONS];
	for (int i = 0; i < SESSIONS; i++)
		sessions[i] = new_session(queue, node);
	exec(queue, 1, sessions[0], "CREATE TABLE t(a)");
	expect(queue, 1, DQLITEPY_OK);
	double start = now();
	for (int i = 0; i < SESSIONS; i++)
		exec(queue, 1, sessions[i], "BEGIN IMMEDIATE");
	for (int i = 0; i < SESSIONS; i++) {
		exec(queue, 2, sessions[i], "INSERT INTO t VALUES (1)");
		exec(queue, 3, sessions[i], i % 2 ? "COMMIT" : "ROLLBACK");
	}
	for (int i = 0; i < 3 * SESSIONS; i++) {
		dqlitepy_completion completion = next(queue);
		CHECK_INT(completion.code, DQLITEPY_OK);
	}
	CHECK_WITHIN(start, 10);
	CHECK_INT(number(queue, sessions[0], "SELECT count(*) FROM t"), SESSIONS / 2);
	for (int i = 1; i < SESSIONS; i++)
		CHECK_OK(dqlitepy_session_close(sessions[i]));
	close_all(queue, sessions[0], node);
}

static void rows_stream(void)
{
	dqlitepy_handle node = new_node(), queue = new_queue(), session = new_session(queue, node);
	dqlitepy_value values[2 * 300];
	uint64_t count = 0, seen = 0, parts = 1;
	int rc;
	CHECK_OK(dqlitepy_queue_session_query(queue, 1, session, MANY, -1, NULL, 0));
	dqlitepy_handle rows = expect(queue, 1, DQLITEPY_OK);
	while ((rc = dqlitepy_rows_fetch(rows, values, 300, &count)) != DQLITEPY_DONE) {
		if (rc == DQLITEPY_MORE) {
			CHECK_INT(count, 0);
			CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_MORE);
			CHECK_OK(dqlitepy_queue_rows_more(queue, 2, rows));
			expect(queue, 2, DQLITEPY_OK);
			parts++;
			continue;
		}
		CHECK_INT(rc, DQLITEPY_ROW);
		for (uint64_t i = 0; i < count; i++)
			CHECK_INT(values[2 * i].integer, ++seen);
	}
	CHECK_INT(seen, 50000);
	CHECK(parts > 5);
	CHECK_OK(dqlitepy_queue_rows_more(queue, 3, rows)); /* there are none, and that is fine */
	expect(queue, 3, DQLITEPY_OK);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	/* Closed in the middle, with a request behind. */
	CHECK_OK(dqlitepy_queue_session_query(queue, 4, session, MANY, -1, NULL, 0));
	rows = expect(queue, 4, DQLITEPY_OK);
	CHECK_OK(dqlitepy_queue_rows_close(queue, 5, rows));
	CHECK_RC(dqlitepy_rows_step(rows), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_queue_rows_close(queue, 5, rows), DQLITEPY_NOTFOUND);
	exec(queue, 6, session, "SELECT 1");
	expect(queue, 5, DQLITEPY_OK);
	expect(queue, 6, DQLITEPY_OK);
	/* A part that is awaited is ended by its token. */
	CHECK_OK(dqlitepy_queue_session_query(queue, 7, session,
					      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
					      "SELECT i FROM n WHERE i < 20000 OR i % 1000000007 = 0",
					      -1, NULL, 0));
	rows = expect(queue, 7, DQLITEPY_OK);
	for (;;) {
		while ((rc = dqlitepy_rows_step(rows)) == DQLITEPY_ROW)
			;
		CHECK_INT(rc, DQLITEPY_MORE);
		CHECK_OK(dqlitepy_queue_rows_more(queue, 8, rows));
		if (readable(queue, 300) == 0)
			break;
		expect(queue, 8, DQLITEPY_OK);
	}
	CHECK_OK(dqlitepy_queue_cancel(queue, 8));
	expect(queue, 8, DQLITEPY_INTERRUPTED);
	CHECK_RC(dqlitepy_rows_step(rows), DQLITEPY_INTERRUPTED);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_INT(number(queue, session, "SELECT 5"), 5);
	close_all(queue, session, node);
}

static void statements_and_batches(void)
{
	dqlitepy_handle node = new_node(), queue = new_queue(), session = new_session(queue, node);
	exec(queue, 1, session, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
	expect(queue, 1, DQLITEPY_OK);
	CHECK_OK(dqlitepy_queue_session_prepare(queue, 2, session, "INSERT INTO t(a) VALUES (?); SELECT 1", -1));
	dqlitepy_completion prepared = next(queue);
	CHECK_INT(prepared.code, DQLITEPY_OK);
	CHECK_INT(prepared.tail, 28);
	dqlitepy_handle insert = prepared.handle;
	/* What is bound when it is submitted counts. */
	for (int i = 1; i <= 100; i++) {
		CHECK_OK(dqlitepy_statement_bind_int64(insert, 1, i * i));
		CHECK_OK(dqlitepy_queue_statement_exec(queue, (uint64_t)i, insert));
	}
	for (int i = 1; i <= 100; i++) {
		dqlitepy_completion done = next(queue);
		CHECK(done.code == DQLITEPY_OK && done.token == (uint64_t)i && done.last_insert_id == i);
	}
	CHECK_INT(number(queue, session, "SELECT count(*) FROM t WHERE a = id * id"), 100);
	for (int i = 0; i < 1000; i++)
		CHECK_OK(dqlitepy_statement_add_batch(insert));
	CHECK_OK(dqlitepy_queue_statement_exec_batch(queue, 3, insert));
	CHECK_OK(dqlitepy_queue_statement_exec_batch(queue, 4, insert)); /* nothing is left */
	CHECK_OK(dqlitepy_statement_finalize(insert));
	CHECK_INT(next(queue).rows_affected, 1000);
	CHECK_INT(next(queue).rows_affected, 0);
	dqlitepy_value sets[6] = {
		{ .type = DQLITEPY_INTEGER, .integer = 5000 }, { .type = DQLITEPY_TEXT, .data = "a", .size = 1 },
		{ .type = DQLITEPY_INTEGER, .integer = 5001 }, { .type = DQLITEPY_NULL },
		{ .type = DQLITEPY_INTEGER, .integer = 1 }, { .type = DQLITEPY_FLOAT, .real = 0.5 },
	};
	CHECK_OK(dqlitepy_queue_session_exec_batch(queue, 5, session, "INSERT INTO t VALUES (?, ?)", -1, sets, 2, 3));
	dqlitepy_completion failed = next(queue);
	CHECK(failed.code == DQLITEPY_SQL + 19 && failed.sqlite_code == 1555);
	CHECK_HAS(failed.message, "UNIQUE");
	dqlitepy_free(failed.message);
	CHECK_INT(dqlitepy_session_sqlite_code(session), 1555);
	CHECK_OK(dqlitepy_queue_session_exec_batch(queue, 6, session, "INSERT INTO t VALUES (?, ?)", -1, sets, 2, 2));
	CHECK_INT(next(queue).rows_affected, 2);
	/* A query with values, by text and by statement. */
	CHECK_OK(dqlitepy_queue_session_query(queue, 7, session, "SELECT max(id) FROM t WHERE id < ?", -1, sets, 1));
	dqlitepy_handle rows = expect(queue, 7, DQLITEPY_OK);
	int64_t value = 0;
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
	CHECK_INT(value, 1100);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_OK(dqlitepy_queue_session_prepare(queue, 8, session, "SELECT ? + 1", -1));
	dqlitepy_handle select = expect(queue, 8, DQLITEPY_OK);
	CHECK_OK(dqlitepy_statement_bind_int64(select, 1, 6));
	CHECK_OK(dqlitepy_queue_statement_query(queue, 9, select));
	CHECK_OK(dqlitepy_statement_finalize(select));
	rows = expect(queue, 9, DQLITEPY_OK);
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
	CHECK_INT(value, 7);
	CHECK_OK(dqlitepy_rows_close(rows));
	/* Too few values and too many; the transaction that they were in stays. */
	exec(queue, 1, session, "BEGIN");
	CHECK_OK(dqlitepy_queue_session_exec(queue, 2, session, "INSERT INTO t VALUES (?, ?)", -1, sets, 1));
	CHECK_OK(dqlitepy_queue_session_query(queue, 3, session, "SELECT ?", -1, sets, 2));
	CHECK_OK(dqlitepy_queue_session_exec_batch(queue, 4, session, "INSERT INTO t VALUES (?, ?)", -1, sets, 3, 2));
	exec(queue, 5, session, "COMMIT");
	expect(queue, 1, DQLITEPY_OK);
	expect(queue, 2, DQLITEPY_INVALID);
	expect(queue, 3, DQLITEPY_INVALID);
	expect(queue, 4, DQLITEPY_INVALID);
	expect(queue, 5, DQLITEPY_OK);
	close_all(queue, session, node);
}

static void cancelled(void)
{
	dqlitepy_handle node = new_node(), queue = new_queue(), session = new_session(queue, node);
	CHECK_RC(dqlitepy_queue_cancel(queue, 1), DQLITEPY_NOTFOUND);
	exec(queue, 1, session, ENDLESS);
	exec(queue, 2, session, "CREATE TABLE never(a)");
	exec(queue, 3, session, "CREATE TABLE t(a)");
	CHECK_INT(readable(queue, 100), 0);
	CHECK_OK(dqlitepy_queue_cancel(queue, 2));
	expect(queue, 2, DQLITEPY_INTERRUPTED);
	double start = now();
	CHECK_OK(dqlitepy_queue_cancel(queue, 1));
	expect(queue, 1, DQLITEPY_INTERRUPTED);
	expect(queue, 3, DQLITEPY_OK);
	CHECK_WITHIN(start, 5);
	CHECK_RC(dqlitepy_queue_cancel(queue, 3), DQLITEPY_NOTFOUND);
	CHECK_INT(number(queue, session, "SELECT count(*) FROM sqlite_master WHERE name = 'never'"), 0);
	/* In a transaction. */
	exec(queue, 4, session, "BEGIN");
	exec(queue, 5, session, ENDLESS);
	expect(queue, 4, DQLITEPY_OK);
	CHECK_INT(readable(queue, 100), 0);
	CHECK_OK(dqlitepy_queue_cancel(queue, 5));
	expect(queue, 5, DQLITEPY_TRANSACTION_LOST);
	exec(queue, 6, session, "ROLLBACK");
	expect(queue, 6, DQLITEPY_OK);
	/* While a leader is looked for. */
	int nobody = tcp_listen(free_address());
	char list[200];
	snprintf(list, sizeof list, "%s,%s", free_address(), free_address());
	start = now();
	CHECK_OK(dqlitepy_queue_session_open_addresses(queue, 7, list, "test.db"));
	CHECK_INT(readable(queue, 50), 0);
	CHECK_OK(dqlitepy_queue_cancel(queue, 7));
	CHECK(expect(queue, 7, DQLITEPY_INTERRUPTED) == 0);
	CHECK_WITHIN(start, 10);
	close(nobody);
	close_all(queue, session, node);
}

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* How many threads of queues there are; each of them has the host's signals blocked. One that is ending has no masks any more. */
static int queue_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	int count = 0;
	for (struct dirent *entry; (entry = readdir(dir));) {
		char path[300], line[100], name[50] = "";
		unsigned long long blocked = 0;
		int threads = 0; /* of the process; 0: the kernel has taken this one apart */
		snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
		FILE *status = fopen(path, "r");
		while (status && fgets(line, sizeof line, status)) {
			sscanf(line, "Name: %49s", name);
			sscanf(line, "Threads: %d", &threads);
			sscanf(line, "SigBlk: %llx", &blocked);
		}
		if (status)
			fclose(status);
		if (threads > 0 && strcmp(name, "dqlite-queue") == 0) {
			count++;
			CHECK(blocked & 1ULL << (10 - 1)); /* SIGUSR1 */
		}
	}
	closedir(dir);
	return count;
}

/* The engine lets go of a connection when it has stopped the statement on it. */
static int not_more_descriptors(void *than)
{
	return descriptors() <= *(const int *)than;
}

static int no_threads(void *unused)
{
	(void)unused;
	return queue_threads() == 0;
}

static void closed_in_flight(void)
{
	enum { SESSIONS = 8 };
	dqlitepy_handle node = new_node(), sessions[SESSIONS];
	dqlitepy_handle first = new_queue();
	for (int i = 0; i < SESSIONS; i++)
		sessions[i] = new_session(first, node);
	exec(first, 1, sessions[0], "CREATE TABLE t(a)");
	expect(first, 1, DQLITEPY_OK);
	int most = descriptors() + SESSIONS;
	for (int round = 0; round < 10; round++) {
		dqlitepy_handle queue = new_queue();
		for (int i = 0; i < SESSIONS; i++) {
			CHECK_OK(dqlitepy_queue_session_open(queue, 1, node, "test.db"));
			/* Unread, these rows keep from running what is behind them. */
			if (i % 2)
				CHECK_OK(dqlitepy_queue_session_query(queue, 1, sessions[i], MANY, -1, NULL, 0));
			exec(queue, 2, sessions[i], "INSERT INTO t VALUES (1)");
			exec(queue, 3, sessions[i], ENDLESS);
			exec(queue, 4, sessions[i], "INSERT INTO t VALUES (2)");
		}
		CHECK_INT(readable(queue, 5000), 1);
		double start = now();
		CHECK_OK(dqlitepy_queue_close(queue));
		CHECK_WITHIN(start, 5);
		CHECK_RC(dqlitepy_queue_close(queue), DQLITEPY_NOTFOUND);
		CHECK_RC(dqlitepy_queue_cancel(queue, 1), DQLITEPY_NOTFOUND);
	}
	/* The sessions are as they were: nothing is under way on them, nothing was left behind. */
	for (int i = 0; i < SESSIONS; i++)
		CHECK_INT(number(first, sessions[i], "SELECT count(*) FROM t WHERE a = 2"), 0);
	CHECK(queue_threads() > 0);
	WAIT_UNTIL(15, not_more_descriptors, &most);
	WAIT_UNTIL(15, no_threads, NULL);
	/* And they come again. */
	CHECK_INT(number(first, sessions[0], "SELECT 1"), 1);
	for (int i = 1; i < SESSIONS; i++)
		CHECK_OK(dqlitepy_queue_session_close(first, 1, sessions[i]));
	CHECK_OK(dqlitepy_queue_close(first));
	/* What was given to be closed is closed. */
	for (int i = 1; i < SESSIONS; i++)
		CHECK_RC(dqlitepy_session_close(sessions[i]), DQLITEPY_NOTFOUND);
	CHECK_OK(dqlitepy_session_close(sessions[0]));
	dqlitepy_node_destroy(node);
}

static void the_node_ends(void)
{
	enum { SESSIONS = 6, ALL = 3 * SESSIONS + 1 };
	dqlitepy_handle node = new_node(), queue = new_queue(), sessions[SESSIONS];
	for (int i = 0; i < SESSIONS; i++)
		sessions[i] = new_session(queue, node);
	for (int i = 0; i < SESSIONS; i++) {
		exec(queue, 1, sessions[i], ENDLESS);
		exec(queue, 2, sessions[i], "SELECT 1");
		CHECK_OK(dqlitepy_queue_session_query(queue, 3, sessions[i], "SELECT 1", -1, NULL, 0));
	}
	CHECK_INT(readable(queue, 100), 0);
	double start = now();
	dqlitepy_node_destroy(node);
	CHECK_RC(dqlitepy_queue_session_open(queue, 4, node, "test.db"), DQLITEPY_NOTFOUND);
	exec(queue, 5, sessions[0], "SELECT 1");
	for (int i = 0; i < ALL; i++) {
		dqlitepy_completion done = next(queue);
		CHECK_INT(done.code, DQLITEPY_SHUTDOWN);
		dqlitepy_free(done.message);
	}
	CHECK_WITHIN(start, 10);
	/* A session that is closed ends what was submitted on it. */
	for (int i = 0; i < SESSIONS; i++)
		CHECK_OK(dqlitepy_session_close(sessions[i]));
	CHECK_OK(dqlitepy_queue_close(queue));
}

static void wrong_handles_and_arguments(void)
{
	dqlitepy_handle node = new_node(), queue = new_queue(), session = new_session(queue, node), small = 7;
	dqlitepy_completion done[3];
	dqlitepy_value values[2] = { { .type = 77 }, { .type = DQLITEPY_NULL } };
	uint64_t count = 7;
	int fd = 7;
	CHECK_RC(dqlitepy_queue_open(1 << 21, &small), DQLITEPY_INVALID);
	CHECK(small == 0);
	CHECK_RC(dqlitepy_queue_open(UINT64_MAX, &small), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_open(0, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_fd(session, &fd), DQLITEPY_INVALID);
	CHECK_INT(fd, -1);
	CHECK_RC(dqlitepy_queue_fd(0, &fd), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_queue_fd(queue, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_poll(queue, NULL, 1, &count), DQLITEPY_INVALID);
	CHECK_INT(count, 0);
	CHECK_RC(dqlitepy_queue_poll(queue, done, 3, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_poll(queue, done, UINT64_MAX, &count), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_poll(session, done, 3, &count), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_queue_poll(queue, done, 3, &count));
	CHECK_INT(count, 0);
	CHECK_OK(dqlitepy_queue_poll(queue, NULL, 0, &count));
	CHECK_RC(dqlitepy_queue_close(session), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_cancel(session, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(session, 1, session, "SELECT 1", -1, NULL, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, queue, "SELECT 1", -1, NULL, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, 0, "SELECT 1", -1, NULL, 0), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, NULL, -1, NULL, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "\xff", -1, NULL, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "SELECT 1\0", 9, NULL, 0), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "SELECT ?", -1, NULL, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "SELECT ?", -1, values, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "SELECT ?", -1, values, UINT64_MAX), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "SELECT ?; SELECT 1", -1, values + 1, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "COMMIT", -1, values + 1, 1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec(queue, 1, session, "", -1, values + 1, 1), DQLITEPY_INVALID);
	values[0] = (dqlitepy_value){ .type = DQLITEPY_TEXT, .data = "a\0b", .size = 3 };
	CHECK_RC(dqlitepy_queue_session_query(queue, 1, session, "SELECT ?", -1, values, 1), DQLITEPY_INVALID);
	values[0] = (dqlitepy_value){ .type = DQLITEPY_BLOB, .data = "x", .size = 1000000001 };
	CHECK_RC(dqlitepy_queue_session_query(queue, 1, session, "SELECT ?", -1, values, 1), DQLITEPY_SQL + 18);
	CHECK_RC(dqlitepy_queue_session_exec_batch(queue, 1, session, "INSERT INTO t VALUES (1)", -1, NULL, 0, 5), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_exec_batch(queue, 1, session, "INSERT INTO t VALUES (1)", -1, values, UINT64_MAX, UINT64_MAX),
		 DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_prepare(queue, 1, session, NULL, -1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_statement_exec(queue, 1, session), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_statement_query(queue, 1, 99), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_queue_statement_exec_batch(queue, 1, 99), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_queue_rows_more(queue, 1, session), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_rows_close(queue, 1, 99), DQLITEPY_NOTFOUND);
	CHECK_RC(dqlitepy_queue_session_close(queue, 1, node), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_open(queue, 1, session, "a"), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_open(queue, 1, node, NULL), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_open_addresses(queue, 1, "", "a"), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_queue_session_open_addresses(queue, 1, NULL, "a"), DQLITEPY_INVALID);
	CHECK_INT(readable(queue, 0), 0);
	/* What only the call itself can find. */
	CHECK_OK(dqlitepy_queue_session_open(queue, 1, node, "a/b"));
	exec(queue, 2, session, "SELEC");
	CHECK_OK(dqlitepy_queue_session_query(queue, 3, session, "SELECT 1; SELECT 2", -1, NULL, 0));
	for (int i = 0; i < 3; i++) {
		dqlitepy_completion failed = next(queue);
		CHECK_INT(failed.code, failed.token == 1 ? DQLITEPY_INVALID : DQLITEPY_SQL + 1);
		CHECK(failed.handle == 0);
		dqlitepy_free(failed.message);
	}
	/* Backpressure. A session is not lost because its close was refused. */
	CHECK_OK(dqlitepy_queue_open(2, &small));
	exec(small, 1, session, "SELECT 1");
	exec(small, 2, session, "SELECT 1");
	CHECK_RC(dqlitepy_queue_session_exec(small, 3, session, "SELECT 1", -1, NULL, 0), DQLITEPY_FULL);
	CHECK_ERROR_HAS("Poll it");
	CHECK_RC(dqlitepy_queue_session_close(small, 3, session), DQLITEPY_FULL);
	expect(small, 1, DQLITEPY_OK);
	exec(small, 3, session, "SELECT 1");
	expect(small, 2, DQLITEPY_OK);
	expect(small, 3, DQLITEPY_OK);
	CHECK_OK(dqlitepy_queue_close(small));
	close_all(queue, session, node);
}

static void after_a_fork(void)
{
	dqlitepy_handle node = new_node(), queue = new_queue(), session = new_session(queue, node);
	pid_t pid = fork();
	if (pid == 0) {
		dqlitepy_completion done;
		uint64_t count;
		dqlitepy_handle fresh;
		int fd, fine = dqlitepy_queue_session_exec(queue, 1, session, "SELECT 1", -1, NULL, 0) == DQLITEPY_MISUSE;
		fine &= dqlitepy_queue_open(0, &fresh) == DQLITEPY_MISUSE && dqlitepy_queue_fd(queue, &fd) == DQLITEPY_MISUSE;
		fine &= dqlitepy_queue_poll(queue, &done, 1, &count) == DQLITEPY_MISUSE;
		fine &= dqlitepy_queue_cancel(queue, 1) == DQLITEPY_MISUSE && dqlitepy_queue_close(queue) == DQLITEPY_MISUSE;
		fine &= dqlitepy_queue_session_close(queue, 1, session) == DQLITEPY_MISUSE;
		_exit(fine ? 0 : 1);
	}
	CHECK_INT(wait_for_exit(pid, 10), 0);
	CHECK_INT(number(queue, session, "SELECT 5"), 5);
	close_all(queue, session, node);
}

static const struct test tests[] = {
	{ "a_thousand_in_order", a_thousand_in_order, 60 },
	{ "more_writers_than_threads", more_writers_than_threads, 60 },
	{ "rows_stream", rows_stream, 0 },
	{ "statements_and_batches", statements_and_batches, 0 },
	{ "cancelled", cancelled, 0 },
	{ "closed_in_flight", closed_in_flight, 60 },
	{ "the_node_ends", the_node_ends, 0 },
	{ "wrong_handles_and_arguments", wrong_handles_and_arguments, 0 },
	{ "after_a_fork", after_a_fork, 0 },
	{ NULL, NULL, 0 },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests);
}
