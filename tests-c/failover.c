/* Sessions whose leader goes away: what goes on, what breaks and says so, and what a commit in flight was told. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { NODES = 3 };

static dqlitepy_handle nodes[NODES], client;
static const char *addresses[NODES];
static char list[NODES * 40];

/* More than all buffers on the way hold. */
#define LARGE "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT hex(zeroblob(1000)), i FROM n"

static int all_vote(void *data)
{
	char *json = NULL;
	int voters = 0;
	(void)data;
	if (dqlitepy_client_cluster(client, &json) != DQLITEPY_OK)
		return 0;
	for (const char *role = json; (role = strstr(role, "\"role\": 0")) != NULL; role++)
		voters++;
	dqlitepy_free(json);
	return voters == NODES;
}

static void start_cluster(void)
{
	for (int i = 0; i < NODES; i++) {
		addresses[i] = free_address();
		strcat(strcat(list, i ? "," : ""), addresses[i]);
	}
	CHECK_OK(dqlitepy_client_create(list, &client));
	for (int i = 0; i < NODES; i++) {
		char name[20];
		snprintf(name, sizeof name, "node%d", i + 1);
		CHECK_OK(dqlitepy_node_create_with_cluster((unsigned)i + 1, addresses[i], path_in_test_dir(name), list, &nodes[i]));
		CHECK_OK(dqlitepy_node_start(nodes[i]));
	}
	WAIT_UNTIL(20, all_vote, NULL);
}

static void end_cluster(void)
{
	for (int i = 0; i < NODES; i++)
		dqlitepy_node_destroy(nodes[i]);
	CHECK_OK(dqlitepy_client_close(client));
}

static int leader(void)
{
	char *address = NULL;
	int found = -1;
	CHECK_OK(dqlitepy_client_leader(client, &address));
	for (int i = 0; i < NODES; i++)
		found = strcmp(address, addresses[i]) == 0 ? i : found;
	dqlitepy_free(address);
	CHECK(found >= 0);
	return found;
}

static void lose_leader(void)
{
	int gone = leader();
	dqlitepy_node_destroy(nodes[gone]);
	nodes[gone] = 0;
}

static dqlitepy_handle new_session(void)
{
	dqlitepy_handle session = 0;
	CHECK_OK(dqlitepy_session_open_addresses(list, "test.db", &session));
	return session;
}

static int try(dqlitepy_handle session, const char *sql)
{
	return dqlitepy_session_exec(session, sql, -1, NULL, NULL);
}

static void exec(dqlitepy_handle session, const char *sql)
{
	check_rc(__FILE__, __LINE__, sql, try(session, sql), DQLITEPY_OK);
}

static dqlitepy_handle query(dqlitepy_handle session, const char *sql)
{
	dqlitepy_handle rows = 0;
	check_rc(__FILE__, __LINE__, sql, dqlitepy_session_query(session, sql, -1, &rows), DQLITEPY_OK);
	return rows;
}

/* The only value of the only row. */
static long long one(dqlitepy_handle rows)
{
	int64_t value = -1;
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	return value;
}

static long long number(dqlitepy_handle session, const char *sql)
{
	return one(query(session, sql));
}

static int inside(dqlitepy_handle session)
{
	int answer = -1;
	CHECK_OK(dqlitepy_session_in_transaction(session, &answer));
	return answer;
}

static void insert_bound(dqlitepy_handle statement, int64_t value)
{
	int64_t affected = 0;
	CHECK_OK(dqlitepy_statement_bind_int64(statement, 1, value));
	CHECK_OK(dqlitepy_statement_exec(statement, NULL, &affected));
	CHECK_INT(affected, 1);
}

static void sessions_go_on(void)
{
	start_cluster();
	/* One without any node, one by way of the first node that follows. */
	dqlitepy_handle sessions[2] = { new_session() }, insert[2], select[2], rows = 0;
	CHECK_OK(dqlitepy_session_open(nodes[(leader() + 1) % NODES], "test.db", &sessions[1]));
	exec(sessions[0], "CREATE TABLE t(a)");
	for (int i = 0; i < 2; i++) {
		CHECK_OK(dqlitepy_session_prepare(sessions[i], "INSERT INTO t VALUES (?)", -1, &insert[i], NULL));
		CHECK_OK(dqlitepy_session_prepare(sessions[i], "SELECT count(*) FROM t WHERE a >= ?", -1, &select[i], NULL));
		insert_bound(insert[i], i);
	}
	dqlitepy_handle few = query(sessions[1], "SELECT count(*) FROM t");
	lose_leader();
	CHECK_INT(one(few), 2); /* they were all here */
	for (int i = 0; i < 2; i++) {
		exec(sessions[i], "INSERT INTO t VALUES (10)");
		insert_bound(insert[i], 11);
		for (int n = 0; n < 3; n++)
			CHECK_OK(dqlitepy_statement_add_batch(insert[i]));
		CHECK_OK(dqlitepy_statement_exec_batch(insert[i], NULL));
		CHECK_OK(dqlitepy_statement_bind_int64(select[i], 1, 0));
		CHECK_OK(dqlitepy_statement_query(select[i], &rows));
		CHECK_INT(one(rows), 2 + 5 * (i + 1));
		exec(sessions[i], "BEGIN; DELETE FROM t WHERE a = 99; COMMIT");
		CHECK_OK(dqlitepy_statement_finalize(insert[i]));
		CHECK_OK(dqlitepy_statement_finalize(select[i]));
		CHECK_OK(dqlitepy_session_close(sessions[i]));
	}
	end_cluster();
}

static void a_transaction_is_lost_loudly(void)
{
	start_cluster();
	dqlitepy_handle session = new_session(), reader = new_session(), insert = 0;
	exec(session, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_session_prepare(session, "INSERT INTO t VALUES (?)", -1, &insert, NULL));
	CHECK_OK(dqlitepy_session_begin(session, DQLITEPY_IMMEDIATE));
	insert_bound(insert, 1);
	CHECK_OK(dqlitepy_session_begin(reader, DQLITEPY_DEFERRED));
	CHECK_INT(number(reader, "SELECT count(*) FROM t"), 0);
	lose_leader();
	/* Nothing of it goes on by itself, whatever is asked. */
	for (int i = 0; i < 2; i++) {
		CHECK_RC(dqlitepy_statement_exec(insert, NULL, NULL), DQLITEPY_TRANSACTION_LOST);
		CHECK_RC(dqlitepy_statement_exec_batch(insert, NULL), i ? DQLITEPY_TRANSACTION_LOST : DQLITEPY_OK);
		CHECK_RC(try(session, "INSERT INTO t VALUES (2)"), DQLITEPY_TRANSACTION_LOST);
		CHECK_RC(try(session, "COMMIT"), DQLITEPY_TRANSACTION_LOST);
		CHECK_INT(inside(session), 1);
		CHECK_OK(dqlitepy_statement_add_batch(insert));
	}
	CHECK_RC(try(reader, "SELECT 1"), DQLITEPY_TRANSACTION_LOST);
	CHECK_OK(dqlitepy_session_rollback(session));
	CHECK_OK(dqlitepy_session_rollback(reader));
	CHECK_INT(inside(session), 0);
	CHECK_INT(number(reader, "SELECT count(*) FROM t"), 0);
	CHECK_OK(dqlitepy_session_begin(session, DQLITEPY_IMMEDIATE));
	insert_bound(insert, 3);
	CHECK_OK(dqlitepy_session_commit(session));
	CHECK_INT(number(reader, "SELECT sum(a) FROM t"), 3);
	CHECK_OK(dqlitepy_session_close(session));
	CHECK_OK(dqlitepy_session_close(reader));
	end_cluster();
}

static void rows_break(void)
{
	start_cluster();
	dqlitepy_handle session = new_session(), rows = query(session, LARGE);
	int seen = 0, rc;
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	lose_leader();
	while ((rc = dqlitepy_rows_step(rows)) == DQLITEPY_ROW)
		seen++;
	CHECK_INT(rc, DQLITEPY_RETRY);
	CHECK(seen < 19999);
	CHECK_OK(dqlitepy_rows_close(rows));
	CHECK_INT(number(session, "SELECT 5"), 5);
	CHECK_OK(dqlitepy_session_close(session));
	end_cluster();
}

/* The next result has this token and code; its handle. */
static dqlitepy_handle expect(dqlitepy_handle queue, uint64_t token, int code)
{
	struct pollfd entry = { .events = POLLIN };
	dqlitepy_completion done;
	uint64_t count = 0;
	CHECK_OK(dqlitepy_queue_fd(queue, &entry.fd));
	CHECK_INT(poll(&entry, 1, 20000), 1);
	CHECK_OK(dqlitepy_queue_poll(queue, &done, 1, &count));
	if (count != 1 || done.token != token || done.code != code)
		check_fail(__FILE__, __LINE__, "token %llu code %d (%s), expected %llu code %d", (unsigned long long)done.token, done.code,
			   done.message ? done.message : "", (unsigned long long)token, code);
	dqlitepy_free(done.message);
	return done.handle;
}

static void submit(dqlitepy_handle queue, uint64_t token, dqlitepy_handle session, const char *sql)
{
	CHECK_OK(dqlitepy_queue_session_exec(queue, token, session, sql, -1, NULL, 0));
}

static void queues_go_on(void)
{
	start_cluster();
	dqlitepy_handle queue = 0, plain, inner;
	CHECK_OK(dqlitepy_queue_open(0, &queue));
	CHECK_OK(dqlitepy_queue_session_open_addresses(queue, 1, list, "test.db"));
	plain = expect(queue, 1, DQLITEPY_OK);
	CHECK_OK(dqlitepy_queue_session_open_addresses(queue, 2, list, "test.db"));
	inner = expect(queue, 2, DQLITEPY_OK);
	submit(queue, 3, plain, "CREATE TABLE t(a)");
	expect(queue, 3, DQLITEPY_OK);
	submit(queue, 4, inner, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)");
	expect(queue, 4, DQLITEPY_OK);
	lose_leader();
	submit(queue, 5, inner, "INSERT INTO t VALUES (2)");
	submit(queue, 6, inner, "COMMIT");
	submit(queue, 7, inner, "ROLLBACK");
	submit(queue, 8, inner, "INSERT INTO t VALUES (3)");
	expect(queue, 5, DQLITEPY_TRANSACTION_LOST);
	expect(queue, 6, DQLITEPY_TRANSACTION_LOST);
	expect(queue, 7, DQLITEPY_OK);
	expect(queue, 8, DQLITEPY_OK);
	submit(queue, 9, plain, "INSERT INTO t VALUES (4)");
	expect(queue, 9, DQLITEPY_OK);
	CHECK_OK(dqlitepy_queue_session_query(queue, 10, plain, "SELECT sum(a) FROM t", -1, NULL, 0));
	CHECK_INT(one(expect(queue, 10, DQLITEPY_OK)), 7);
	CHECK_OK(dqlitepy_session_close(plain));
	CHECK_OK(dqlitepy_session_close(inner));
	CHECK_OK(dqlitepy_queue_close(queue));
	end_cluster();
}

/* Writers that never stop; of every number it is known what they were told. */
enum { WRITERS = 4, MOST = 20000, NOT_TOLD = 0, APPLIED = 1, NOT_APPLIED = 2, UNKNOWN = 3 };

static atomic_bool enough;
static atomic_int acknowledged;
static char told[WRITERS][MOST];

static int meaning(int rc)
{
	switch (rc) {
	case DQLITEPY_OK:
		return APPLIED;
	case DQLITEPY_UNKNOWN:
		return UNKNOWN;
	case DQLITEPY_RETRY:
	case DQLITEPY_NOLEADER:
	case DQLITEPY_TRANSACTION_LOST:
	case DQLITEPY_SQL + 5: /* busy */
		return NOT_APPLIED;
	default:
		check_fail(__FILE__, __LINE__, "a write failed with %d: %s", rc, last_error_text());
	}
}

/* Alone, or as two rows of a transaction whose COMMIT decides. */
static int write_number(dqlitepy_handle session, int64_t number, int alone)
{
	char sql[80];
	snprintf(sql, sizeof sql, "INSERT INTO t VALUES (%lld)", (long long)number);
	if (alone)
		return try(session, sql);
	int rc = try(session, "BEGIN IMMEDIATE");
	if (rc == DQLITEPY_OK)
		rc = try(session, sql);
	if (rc == DQLITEPY_OK)
		rc = try(session, sql);
	if (rc == DQLITEPY_OK)
		rc = dqlitepy_session_commit(session);
	if (inside(session))
		CHECK_OK(dqlitepy_session_rollback(session));
	return rc;
}

static void *write_numbers(void *data)
{
	int me = (int)(intptr_t)data;
	dqlitepy_handle session = new_session();
	for (int i = 0; i < MOST && !atomic_load(&enough); i++) {
		told[me][i] = (char)meaning(write_number(session, (int64_t)me * MOST + i, me % 2));
		atomic_fetch_add(&acknowledged, told[me][i] == APPLIED);
	}
	CHECK_OK(dqlitepy_session_close(session));
	return NULL;
}

static int so_many(void *count)
{
	return atomic_load(&acknowledged) >= *(int *)count;
}

static void nothing_acknowledged_is_lost_or_doubled(void)
{
	static int rows_of[WRITERS][MOST];
	pthread_t threads[WRITERS];
	int target = 100, outcomes[4] = { 0 };
	start_cluster();
	dqlitepy_handle session = new_session();
	exec(session, "CREATE TABLE t(a)");
	for (int i = 0; i < WRITERS; i++)
		CHECK(pthread_create(&threads[i], NULL, write_numbers, (void *)(intptr_t)i) == 0);
	WAIT_UNTIL(20, so_many, &target);
	lose_leader();
	target = atomic_load(&acknowledged) + 100;
	WAIT_UNTIL(20, so_many, &target);
	atomic_store(&enough, 1);
	for (int i = 0; i < WRITERS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	dqlitepy_handle rows = query(session, "SELECT a FROM t");
	while (dqlitepy_rows_step(rows) == DQLITEPY_ROW) {
		int64_t value = -1;
		CHECK_OK(dqlitepy_rows_column_int64(rows, 0, &value));
		CHECK(value >= 0 && value < WRITERS * MOST);
		rows_of[value / MOST][value % MOST]++;
	}
	CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_DONE);
	CHECK_OK(dqlitepy_rows_close(rows));
	for (int me = 0; me < WRITERS; me++) {
		for (int i = 0; i < MOST; i++) {
			int whole = me % 2 ? 1 : 2, there = rows_of[me][i], outcome = told[me][i];
			outcomes[outcome]++;
			if (outcome == APPLIED ? there != whole : outcome == UNKNOWN ? there != 0 && there != whole : there != 0)
				check_fail(__FILE__, __LINE__, "writer %d, number %d: %d rows, told %d", me, i, there, outcome);
		}
	}
	CHECK(outcomes[APPLIED] >= target);
	CHECK_OK(dqlitepy_session_close(session));
	end_cluster();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "sessions_go_on", sessions_go_on, 60 },
		{ "a_transaction_is_lost_loudly", a_transaction_is_lost_loudly, 60 },
		{ "rows_break", rows_break, 60 },
		{ "queues_go_on", queues_go_on, 60 },
		{ "nothing_acknowledged_is_lost_or_doubled", nothing_acknowledged_is_lost_or_doubled, 60 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
