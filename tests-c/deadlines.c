/* Time: every call ends by its limit or when it is interrupted, whatever the network, the disk or the engine does. */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENDLESS "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) "
#define ENDLESS_READ ENDLESS "SELECT count(*) FROM s"
#define ENDLESS_WRITE "INSERT INTO t(a) " ENDLESS "SELECT n FROM s WHERE n < 0"

/* A call in a thread of its own. */
struct call {
	int (*run)(struct call *);
	dqlitepy_handle handle;
	const char *text;
	pthread_t thread;
	atomic_int state; /* 1: about to call, 2: it returned */
	int code;
	double took;
	char error[600];
};

static void *run_call(void *argument)
{
	struct call *call = argument;
	double start = now();
	atomic_store(&call->state, 1);
	call->code = call->run(call);
	call->took = now() - start;
	snprintf(call->error, sizeof call->error, "%s", last_error_text());
	atomic_store(&call->state, 2);
	return NULL;
}

static int begun(void *call)
{
	return atomic_load(&((struct call *)call)->state) > 0;
}

static void begin(struct call *call, int (*run)(struct call *), dqlitepy_handle handle, const char *text)
{
	*call = (struct call){ .run = run, .handle = handle, .text = text };
	CHECK(pthread_create(&call->thread, NULL, run_call, call) == 0);
	WAIT_UNTIL(5, begun, call);
}

static void end(struct call *call, int code, double seconds)
{
	CHECK(pthread_join(call->thread, NULL) == 0);
	if (call->code != code || call->took > seconds)
		check_fail(__FILE__, __LINE__, "code %d instead of %d after %.1f s: %s", call->code, code, call->took, call->error);
}

static int run_exec(struct call *call)
{
	return dqlitepy_node_exec(call->handle, call->text, NULL, NULL);
}

static int run_query(struct call *call)
{
	char *json = NULL;
	int rc = dqlitepy_node_query(call->handle, call->text, &json);
	dqlitepy_free(json);
	return rc;
}

static int run_start(struct call *call)
{
	return dqlitepy_node_start(call->handle);
}

static int run_leader(struct call *call)
{
	char *address = NULL;
	int rc = dqlitepy_client_leader(call->handle, &address);
	dqlitepy_free(address);
	return rc;
}

static int run_transfer(struct call *call)
{
	return dqlitepy_client_transfer(call->handle, 2);
}

static int run_handover(struct call *call)
{
	return dqlitepy_node_handover(call->handle);
}

static int run_describe(struct call *call)
{
	return dqlitepy_client_describe(call->handle, call->text, NULL, NULL);
}

static int run_add(struct call *call)
{
	return dqlitepy_client_add(call->handle, 9, call->text);
}

/* Interrupts again and again until the call has returned: it may not have been under way yet. */
static void interrupt(struct call *call, int (*how)(dqlitepy_handle), int code)
{
	double start = now();
	while (atomic_load(&call->state) < 2) {
		CHECK_OK(how(call->handle));
		usleep(1000);
		CHECK_WITHIN(start, 5);
	}
	end(call, code, 10);
}

/* Whether somebody else's write has to wait. */
static int lock_is_taken(void *session)
{
	int rc = dqlitepy_session_exec(*(dqlitepy_handle *)session, "INSERT INTO t(a) VALUES (1)", -1, NULL, NULL);
	CHECK(rc == DQLITEPY_OK || rc == DQLITEPY_SQL + 5);
	return rc != DQLITEPY_OK;
}

static int lock_is_free(void *session)
{
	return !lock_is_taken(session);
}

static dqlitepy_handle node_with_table(void)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_busy_timeout(node, 0));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	return node;
}

static dqlitepy_handle impatient_session(dqlitepy_handle node)
{
	dqlitepy_handle session = 0;
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	CHECK_OK(dqlitepy_session_set_busy_timeout(session, 0));
	return session;
}

static void interrupt_a_node(void)
{
	dqlitepy_handle node = node_with_table(), other = impatient_session(node);
	struct call write, read, waiting[3];
	CHECK_OK(dqlitepy_node_interrupt(node)); /* nothing is under way */
	begin(&write, run_exec, node, ENDLESS_WRITE);
	WAIT_UNTIL(10, lock_is_taken, &other);
	begin(&read, run_query, node, ENDLESS_READ);
	/* They wait for their turn on the handle; none of them may run afterwards. */
	for (int i = 0; i < 3; i++)
		begin(&waiting[i], run_exec, node, i ? "INSERT INTO t(a) VALUES ('never')" : "DELETE FROM t; SELECT 1");
	usleep(100000);
	/* It is known only of the write that it may have been applied. */
	interrupt(&write, dqlitepy_node_interrupt, DQLITEPY_UNKNOWN);
	WAIT_UNTIL(1, lock_is_free, &other);
	interrupt(&read, dqlitepy_node_interrupt, DQLITEPY_INTERRUPTED);
	for (int i = 0; i < 3; i++)
		end(&waiting[i], DQLITEPY_INTERRUPTED, 10);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t WHERE a = 'never'", "[{\"n\":0}]");
	CHECK_EXEC(node, "INSERT INTO t(a) VALUES (3)");
	dqlitepy_node_destroy(node);
}

/* What no call is under way on keeps its connection: a transaction in another database, a session. */
static void interrupt_leaves_the_others_alone(void)
{
	dqlitepy_handle node = node_with_table(), session = impatient_session(node);
	struct call read;
	CHECK_EXEC(node, "BEGIN; INSERT INTO t(a) VALUES (7)");
	CHECK_OK(dqlitepy_node_open_db(node, "other.db"));
	begin(&read, run_query, node, ENDLESS_READ);
	interrupt(&read, dqlitepy_node_interrupt, DQLITEPY_INTERRUPTED);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "COMMIT");
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":7}]");
	CHECK_OK(dqlitepy_session_exec(session, "CREATE TEMP TABLE u(a)", -1, NULL, NULL));
	begin(&read, run_query, node, ENDLESS_READ);
	interrupt(&read, dqlitepy_node_interrupt, DQLITEPY_INTERRUPTED);
	CHECK_OK(dqlitepy_session_exec(session, "INSERT INTO u VALUES (1)", -1, NULL, NULL));
	/* A transaction that is under way itself is gone. */
	CHECK_EXEC(node, "BEGIN; INSERT INTO t(a) VALUES (8)");
	begin(&read, run_query, node, ENDLESS_READ);
	interrupt(&read, dqlitepy_node_interrupt, DQLITEPY_TRANSACTION_LOST);
	CHECK_EXEC_FAILS(node, "COMMIT", DQLITEPY_TRANSACTION_LOST, "ROLLBACK");
	CHECK_EXEC(node, "ROLLBACK");
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":7}]");
	WAIT_UNTIL(1, lock_is_free, &session);
	/* So are temporary tables; that is said once. */
	CHECK_EXEC(node, "CREATE TEMP TABLE u(a)");
	begin(&read, run_query, node, ENDLESS_READ);
	interrupt(&read, dqlitepy_node_interrupt, DQLITEPY_INTERRUPTED);
	CHECK_EXEC_FAILS(node, "INSERT INTO t(a) VALUES (9)", DQLITEPY_SETTINGS_LOST, "again");
	CHECK_EXEC_FAILS(node, "INSERT INTO u(a) VALUES (9)", DQLITEPY_SQL + 1, "no such table");
	CHECK_JSON(node, "SELECT a FROM t WHERE a <> 1", "[{\"a\":7}]");
	dqlitepy_node_destroy(node);
}

static void expiry_frees_the_lock(void)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_timeout(node, 700));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_handle other = impatient_session(node);
	double start = now();
	CHECK_EXEC_FAILS(node, ENDLESS_WRITE, DQLITEPY_UNKNOWN, "deadline");
	CHECK_WITHIN(start, 2);
	WAIT_UNTIL(1, lock_is_free, &other);
	/* The same for a session. */
	CHECK_OK(dqlitepy_session_set_timeout(other, 300));
	start = now();
	CHECK_RC(dqlitepy_session_exec(other, ENDLESS_WRITE, -1, NULL, NULL), DQLITEPY_UNKNOWN);
	CHECK_WITHIN(start, 2);
	other = impatient_session(node);
	WAIT_UNTIL(1, lock_is_free, &other);
	dqlitepy_node_destroy(node);
}

/* A host that accepts and never answers, and one that does not even accept. */
static void interrupt_a_client(void)
{
	const char *silent = free_address();
	int listener = tcp_listen(silent);
	dqlitepy_handle client = 0;
	struct call call;
	CHECK_OK(dqlitepy_client_create(silent, &client));
	CHECK_OK(dqlitepy_client_interrupt(client)); /* nothing is under way */
	begin(&call, run_leader, client, NULL);
	interrupt(&call, dqlitepy_client_interrupt, DQLITEPY_INTERRUPTED);
	begin(&call, run_describe, client, silent);
	interrupt(&call, dqlitepy_client_interrupt, DQLITEPY_INTERRUPTED);
	/* Packets to there are dropped, or it is refused at once. */
	begin(&call, run_describe, client, "192.0.2.1:9001");
	while (atomic_load(&call.state) < 2) {
		CHECK_OK(dqlitepy_client_interrupt(client));
		usleep(1000);
	}
	CHECK(pthread_join(call.thread, NULL) == 0);
	CHECK(call.code == DQLITEPY_INTERRUPTED || call.code == DQLITEPY_RETRY);
	CHECK(call.took < 5);
	/* A change that the leader was asked for may have been made, or not. */
	const char *address = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address), other = 0;
	CHECK_OK(dqlitepy_client_create(address, &other));
	begin(&call, run_add, other, silent);
	while (atomic_load(&call.state) < 2) {
		CHECK_OK(dqlitepy_client_interrupt(other));
		usleep(1000);
	}
	CHECK(pthread_join(call.thread, NULL) == 0);
	CHECK(call.took < 5);
	CHECK(call.code == DQLITEPY_INTERRUPTED || call.code == DQLITEPY_UNKNOWN || call.code == DQLITEPY_OK);
	begin(&call, run_leader, other, NULL);
	end(&call, DQLITEPY_OK, 10);
	CHECK_RC(dqlitepy_client_interrupt(node), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_node_interrupt(client), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_node_interrupt(12345), DQLITEPY_NOTFOUND);
	close(listener);
	dqlitepy_node_destroy(node);
}

static void defaults_of_the_process(void)
{
	const char *silent = free_address();
	int listener = tcp_listen(silent);
	dqlitepy_handle client = 0, session = 0, node = node_with_table();
	CHECK_RC(dqlitepy_set_default_timeout(0, 100), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_set_default_timeout(5, 100), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_client_create(silent, &client));
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CLIENTS, 300));
	struct call call;
	begin(&call, run_leader, client, NULL);
	end(&call, DQLITEPY_NOLEADER, 3);
	/* A handle's own wins, and 0 gives it up. */
	CHECK_OK(dqlitepy_client_set_timeout(client, 5000));
	begin(&call, run_leader, client, NULL);
	usleep(1000000);
	CHECK_INT(atomic_load(&call.state), 1);
	interrupt(&call, dqlitepy_client_interrupt, DQLITEPY_INTERRUPTED);
	CHECK_OK(dqlitepy_client_set_timeout(client, 0));
	begin(&call, run_leader, client, NULL);
	end(&call, DQLITEPY_NOLEADER, 3);
	/* Nodes and sessions that exist, and a session without a node. */
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CALLS, 400));
	begin(&call, run_query, node, ENDLESS_READ);
	end(&call, DQLITEPY_TIMEOUT, 3);
	double start = now();
	CHECK_RC(dqlitepy_session_open_addresses(silent, "test.db", &session), DQLITEPY_NOLEADER);
	CHECK_WITHIN(start, 3);
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	start = now();
	CHECK_RC(dqlitepy_session_exec(session, ENDLESS_READ, -1, NULL, NULL), DQLITEPY_TIMEOUT);
	CHECK_WITHIN(start, 3);
	/* As it came. */
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CALLS, 0));
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CLIENTS, 0));
	begin(&call, run_query, node, ENDLESS_READ);
	usleep(1000000);
	CHECK_INT(atomic_load(&call.state), 1);
	interrupt(&call, dqlitepy_node_interrupt, DQLITEPY_INTERRUPTED);
	close(listener);
	dqlitepy_node_destroy(node);
}

/* ---- a disk that does not answer: a pipe that nobody opens at the other end stands in for a file ---- */

static const char *node_dir;

static const char *in_dir(const char *name)
{
	char *path = malloc(strlen(node_dir) + strlen(name) + 2);
	sprintf(path, "%s/%s", node_dir, name);
	return path;
}

/* A snapshot's description whose data is there, too: it is written first, and a stop takes it away if the data is not. */
static int is_meta(const char *name)
{
	const char *end = strstr(name, ".meta");
	char data[300];
	if (strncmp(name, "snapshot-", 9) != 0 || end == NULL)
		return 0;
	snprintf(data, sizeof data, "%.*s", (int)(end - name), name);
	return access(in_dir(data), F_OK) == 0;
}

/* The name of a snapshot's description, or NULL. */
static const char *snapshot_meta(void)
{
	DIR *dir = opendir(node_dir);
	const char *found = NULL;
	CHECK(dir != NULL);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		if (is_meta(entry->d_name))
			found = in_dir(entry->d_name);
	closedir(dir);
	return found;
}

static int has_snapshot(void *node)
{
	CHECK_EXEC(*(dqlitepy_handle *)node, "INSERT INTO t(a) VALUES (1)");
	return snapshot_meta() != NULL;
}

/* A stopped node whose next start reads a snapshot, which blocks: the description is a pipe now, and kept elsewhere. */
static dqlitepy_handle node_that_blocks(const char **pipe, const char **kept)
{
	dqlitepy_handle node = 0;
	node_dir = path_in_test_dir("node");
	CHECK_OK(dqlitepy_node_create(1, free_address(), node_dir, &node));
	CHECK_OK(dqlitepy_node_set_snapshot_params(node, 8, 8, DQLITEPY_TRAILING_STATIC));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	WAIT_UNTIL(20, has_snapshot, &node);
	CHECK_OK(dqlitepy_node_stop(node));
	*kept = path_in_test_dir("kept");
	for (const char *meta; (meta = snapshot_meta()) != NULL; *pipe = meta)
		CHECK(rename(meta, *kept) == 0);
	CHECK(mkfifo(*pipe, 0600) == 0);
	return node;
}

/* The disk answers: with what was there, or with nothing. */
static void answer(const char *pipe, const char *with)
{
	char bytes[4096];
	int to = -1;
	double start = now();
	while ((to = open(pipe, O_WRONLY | O_NONBLOCK)) < 0) {
		usleep(1000);
		CHECK_WITHIN(start, 10);
	}
	if (with != NULL) {
		int from = open(with, O_RDONLY);
		ssize_t size = read(from, bytes, sizeof bytes);
		CHECK(size > 0 && write(to, bytes, (size_t)size) == size);
		close(from);
	}
	close(to);
}

static void check_start_is_late(dqlitepy_handle node)
{
	double start = now();
	CHECK_OK(dqlitepy_node_set_start_timeout(node, 500));
	CHECK_RC(dqlitepy_node_start(node), DQLITEPY_TIMEOUT);
	CHECK_ERROR_HAS("background");
	CHECK_ERROR_HAS(node_dir);
	CHECK_WITHIN(start, 3);
	CHECK_OK(dqlitepy_node_set_start_timeout(node, 0));
}

static void a_start_that_blocks_goes_on(void)
{
	const char *pipe = NULL, *kept = NULL;
	dqlitepy_handle node = node_that_blocks(&pipe, &kept);
	struct call call;
	check_start_is_late(node);
	/* Calls meanwhile, and options; other nodes are not concerned. */
	CHECK_RC(dqlitepy_node_open_db(node, "test.db"), DQLITEPY_MISUSE);
	CHECK_ERROR_HAS("still starting");
	CHECK_RC(dqlitepy_node_set_busy_timeout(node, 1), DQLITEPY_MISUSE);
	dqlitepy_node_destroy(running_node(path_in_test_dir("another"), free_address()));
	/* The process's limit, and an interrupt. */
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_START, 300));
	begin(&call, run_start, node, NULL);
	end(&call, DQLITEPY_TIMEOUT, 3);
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_START, 0));
	begin(&call, run_start, node, NULL);
	interrupt(&call, dqlitepy_node_interrupt, DQLITEPY_INTERRUPTED);
	/* The next start waits for the same one. */
	begin(&call, run_start, node, NULL);
	answer(pipe, kept);
	end(&call, DQLITEPY_OK, 20);
	CHECK(rename(kept, pipe) == 0);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT count(*) > 0 AS ok FROM t", "[{\"ok\":1}]");
	CHECK_RC(dqlitepy_node_start(node), DQLITEPY_MISUSE);
	dqlitepy_node_destroy(node);
}

static void a_start_that_blocks_can_be_stopped(void)
{
	const char *pipe = NULL, *kept = NULL;
	dqlitepy_handle node = node_that_blocks(&pipe, &kept);
	struct call call;
	check_start_is_late(node);
	CHECK_OK(dqlitepy_node_set_stop_timeout(node, 400));
	double start = now();
	CHECK_RC(dqlitepy_node_stop(node), DQLITEPY_TIMEOUT);
	CHECK_ERROR_HAS("still starting");
	CHECK_WITHIN(start, 3);
	CHECK_RC(dqlitepy_node_stop(node), DQLITEPY_STOPPED);
	/* Another start waits for its turn; then the disk answers, the first one stops, and the second one starts. */
	begin(&call, run_start, node, NULL);
	answer(pipe, kept);
	CHECK(rename(kept, pipe) == 0);
	end(&call, DQLITEPY_OK, 30);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	dqlitepy_node_destroy(node);
}

static int is_starting(void *node)
{
	CHECK_RC(dqlitepy_node_open_db(*(dqlitepy_handle *)node, "test.db"), DQLITEPY_MISUSE);
	return strstr(last_error_text(), "still starting") != NULL;
}

static void a_start_that_blocks_can_be_destroyed(void)
{
	const char *pipe = NULL, *kept = NULL;
	dqlitepy_handle node = node_that_blocks(&pipe, &kept), again = 0;
	struct call call;
	CHECK_OK(dqlitepy_node_set_stop_timeout(node, 400));
	begin(&call, run_start, node, NULL);
	WAIT_UNTIL(10, is_starting, &node);
	double start = now();
	dqlitepy_node_destroy(node);
	CHECK_WITHIN(start, 3);
	CHECK_RC(dqlitepy_node_start(node), DQLITEPY_NOTFOUND);
	/* It fails: half a description is none. */
	answer(pipe, NULL);
	CHECK(pthread_join(call.thread, NULL) == 0);
	CHECK(call.code != DQLITEPY_OK);
	CHECK(rename(kept, pipe) == 0);
	CHECK_OK(dqlitepy_node_create(1, free_address(), node_dir, &again));
	/* The directory says where it lived. */
	CHECK_RC(dqlitepy_node_start(again), DQLITEPY_INVALID);
	dqlitepy_node_destroy(again);
}

/* Ours comes before libc's, also for the library. The engine's socket, the only one that is not of the Internet, fails. */
static atomic_bool no_engine_socket;

int listen(int fd, int backlog)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof address;
	if (atomic_load(&no_engine_socket) && getsockname(fd, (struct sockaddr *)&address, &size) == 0 &&
	    address.ss_family == AF_UNIX) {
		errno = EADDRINUSE;
		return -1;
	}
	return (int)syscall(SYS_listen, fd, backlog);
}

/* The engine's thread ends before it has said that it runs, or that it does not. */
static void a_start_that_fails_early(void)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_start_timeout(node, 5000));
	atomic_store(&no_engine_socket, true);
	for (int i = 0; i < 3; i++)
		CHECK_RC(dqlitepy_node_start(node), DQLITEPY_INTERNAL);
	atomic_store(&no_engine_socket, false);
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	dqlitepy_node_destroy(node);
}

static int can_start(void *node)
{
	return dqlitepy_node_start(*(dqlitepy_handle *)node) == DQLITEPY_OK;
}

/* Two nodes, of which the first leads and has the database open. */
static struct {
	dqlitepy_handle nodes[2], client;
	char list[200];
	const char *names[2], *kept[2];
	int had[2];
} pair;

static void make_pair(void)
{
	const char *addresses[2] = { free_address(), free_address() };
	node_dir = path_in_test_dir("node0");
	snprintf(pair.list, sizeof pair.list, "%s,%s", addresses[0], addresses[1]);
	for (int i = 0; i < 2; i++) {
		const char *dir = i ? path_in_test_dir("node1") : node_dir;
		CHECK_OK(dqlitepy_node_create_with_cluster((dqlitepy_node_id)i + 1, addresses[i], dir, pair.list, &pair.nodes[i]));
		CHECK_OK(dqlitepy_node_set_timeout(pair.nodes[i], 1000));
		CHECK_OK(dqlitepy_node_start(pair.nodes[i]));
	}
	CHECK_OK(dqlitepy_client_create(pair.list, &pair.client));
	CHECK_OK(dqlitepy_client_transfer(pair.client, 1));
	CHECK_OK(dqlitepy_node_open_db(pair.nodes[0], "test.db"));
}

/* The engine's loop writes down a new term to a disk that does not answer. */
static void block_the_first(void)
{
	for (int i = 0; i < 2; i++) {
		pair.names[i] = in_dir(i ? "metadata2" : "metadata1");
		pair.kept[i] = path_in_test_dir(i ? "kept2" : "kept1");
		pair.had[i] = rename(pair.names[i], pair.kept[i]) == 0;
		CHECK(mkfifo(pair.names[i], 0600) == 0);
	}
	CHECK_OK(dqlitepy_client_set_timeout(pair.client, 1000));
	CHECK(dqlitepy_client_transfer(pair.client, 2) != DQLITEPY_NOTFOUND);
}

/* The disk answers; the stop comes to its end, and the node starts again. */
static void unblock_the_first(void)
{
	int readers[2];
	for (int i = 0; i < 2; i++) {
		readers[i] = open(pair.names[i], O_RDONLY | O_NONBLOCK);
		CHECK(readers[i] >= 0);
		CHECK(unlink(pair.names[i]) == 0);
		CHECK(!pair.had[i] || rename(pair.kept[i], pair.names[i]) == 0);
	}
	WAIT_UNTIL(20, can_start, &pair.nodes[0]);
	for (int i = 0; i < 2; i++) {
		close(readers[i]);
		dqlitepy_node_destroy(pair.nodes[i]);
	}
}

static void a_stop_that_blocks(void)
{
	make_pair();
	block_the_first();
	/* Calls on it end by their deadline, and so does stop. */
	double start = now();
	CHECK(dqlitepy_node_exec(pair.nodes[0], "CREATE TABLE t(a)", NULL, NULL) != DQLITEPY_OK);
	CHECK_WITHIN(start, 3);
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_STOP, 500));
	start = now();
	CHECK_RC(dqlitepy_node_stop(pair.nodes[0]), DQLITEPY_TIMEOUT);
	CHECK_ERROR_HAS("background");
	CHECK_WITHIN(start, 3);
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_STOP, 0));
	CHECK_RC(dqlitepy_node_start(pair.nodes[0]), DQLITEPY_INTERNAL);
	CHECK_ERROR_HAS("in use");
	unblock_the_first();
}

static dqlitepy_handle session_of_the_first(const char *sql)
{
	dqlitepy_handle session = 0;
	CHECK_OK(dqlitepy_session_open(pair.nodes[0], "test.db", &session));
	CHECK_OK(dqlitepy_session_exec(session, sql, -1, NULL, NULL));
	CHECK_OK(dqlitepy_session_set_timeout(session, 200));
	return session;
}

/* Everything that a session can be asked for, each with a session of its own that was well before. */
static void every_call_on_a_loop_that_blocks(void)
{
	enum { PREPARE, EXECUTE, COMMIT, ROLLBACK, STEP, CLOSE_ROWS, DUMP, LOAD, BATCH, OPEN, CALLS };
	static const int codes[CALLS] = {
		[PREPARE] = DQLITEPY_TIMEOUT,	  [EXECUTE] = DQLITEPY_UNKNOWN,	  [COMMIT] = DQLITEPY_UNKNOWN,
		[ROLLBACK] = DQLITEPY_TRANSACTION_LOST, [STEP] = DQLITEPY_TIMEOUT, [CLOSE_ROWS] = DQLITEPY_TIMEOUT,
		[DUMP] = DQLITEPY_NOLEADER,	  [LOAD] = DQLITEPY_NOLEADER,	  [BATCH] = DQLITEPY_UNKNOWN,
		[OPEN] = DQLITEPY_NOLEADER,
	};
	dqlitepy_handle sessions[CALLS], statement = 0, rows[2] = { 0 }, out = 0;
	make_pair();
	CHECK_EXEC(pair.nodes[0], "CREATE TABLE t(a)");
	for (int i = 0; i < CALLS; i++)
		sessions[i] = session_of_the_first(i == COMMIT ? "BEGIN; INSERT INTO t VALUES (1)" : i == ROLLBACK ? "BEGIN" : "SELECT 1");
	CHECK_OK(dqlitepy_session_prepare(sessions[EXECUTE], "INSERT INTO t VALUES (2)", -1, &statement, NULL));
	for (int i = 0; i < 2; i++)
		CHECK_OK(dqlitepy_session_query(sessions[STEP + i], ENDLESS "SELECT n, 'some filling' FROM s", -1, &rows[i]));
	block_the_first();
	for (int call = 0; call < CALLS; call++) {
		dqlitepy_handle session = sessions[call];
		int rc = -1;
		double start = now();
		switch (call) {
		case PREPARE: rc = dqlitepy_session_prepare(session, "SELECT 2", -1, &out, NULL); break;
		case EXECUTE: rc = dqlitepy_statement_exec(statement, NULL, NULL); break;
		case COMMIT: rc = dqlitepy_session_commit(session); break;
		case ROLLBACK: rc = dqlitepy_session_rollback(session); break;
		case STEP:
			while ((rc = dqlitepy_rows_step(rows[0])) == DQLITEPY_ROW)
				;
			break;
		case CLOSE_ROWS: rc = dqlitepy_rows_close(rows[1]); break;
		case DUMP: rc = dqlitepy_session_dump(session, path_in_test_dir("dump"), NULL, NULL); break;
		case LOAD: rc = dqlitepy_session_load_script(session, "CREATE TABLE u(a);", -1, NULL, NULL); break;
		case BATCH:
			rc = dqlitepy_session_exec(session, "INSERT INTO t VALUES (3); INSERT INTO t VALUES (4)", -1, NULL, NULL);
			break;
		case OPEN: rc = dqlitepy_session_open(pair.nodes[0], "test.db", &out); break;
		}
		CHECK_WITHIN(start, 2);
		CHECK_RC(rc, codes[call]);
	}
	for (int call = 0; call < CALLS; call++) {
		double start = now();
		CHECK_OK(dqlitepy_session_close(sessions[call]));
		CHECK_WITHIN(start, 2);
	}
	CHECK_OK(dqlitepy_node_set_stop_timeout(pair.nodes[0], 300));
	CHECK_RC(dqlitepy_node_stop(pair.nodes[0]), DQLITEPY_TIMEOUT);
	unblock_the_first();
}

/* The helper: a member that runs until its end is closed. */
static int be_a_member(const char *dir, const char *address, const char *list)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create_with_cluster(2, address, dir, list, &node));
	CHECK_OK(dqlitepy_node_start(node));
	puts("ready");
	fflush(stdout);
	getchar();
	return 0;
}

/* Who is to lead next does not answer. */
static void silent_heir(int by_client)
{
	char list[200];
	dqlitepy_handle node = 0, client = 0;
	struct call call;
	const char *addresses[2] = { free_address(), free_address() };
	snprintf(list, sizeof list, "%s,%s", addresses[0], addresses[1]);
	CHECK_OK(dqlitepy_node_create_with_cluster(1, addresses[0], path_in_test_dir("node0"), list, &node));
	CHECK_OK(dqlitepy_node_start(node));
	struct helper helper = start_helper((const char *const[]){ "member", path_in_test_dir("node1"), addresses[1], list, NULL });
	CHECK_TEXT(helper_line(&helper, 20), "ready");
	CHECK_OK(dqlitepy_client_create(addresses[0], &client));
	CHECK_OK(dqlitepy_client_transfer(client, 1));
	CHECK(kill(helper.pid, SIGSTOP) == 0);
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CALLS, 500));
	CHECK_OK(dqlitepy_set_default_timeout(DQLITEPY_FOR_CLIENTS, 500));
	if (by_client)
		begin(&call, run_transfer, client, NULL);
	else
		begin(&call, run_handover, node, NULL);
	CHECK(pthread_join(call.thread, NULL) == 0);
	if (call.code != (by_client ? DQLITEPY_UNKNOWN : DQLITEPY_RETRY) || call.took > 2)
		check_fail(__FILE__, __LINE__, "code %d after %.1f s: %s", call.code, call.took, call.error);
	CHECK(kill(helper.pid, SIGCONT) == 0);
	dqlitepy_node_destroy(node);
	close(helper.in);
	CHECK_INT(wait_for_exit(helper.pid, 20), 0);
}

static void a_silent_heir_of_a_handover(void) { silent_heir(0); }
static void a_silent_heir_of_a_transfer(void) { silent_heir(1); }

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "interrupt_a_node", interrupt_a_node, 60 },
		{ "interrupt_leaves_the_others_alone", interrupt_leaves_the_others_alone, 60 },
		{ "expiry_frees_the_lock", expiry_frees_the_lock, 0 },
		{ "interrupt_a_client", interrupt_a_client, 60 },
		{ "defaults_of_the_process", defaults_of_the_process, 60 },
		{ "a_start_that_blocks_goes_on", a_start_that_blocks_goes_on, 60 },
		{ "a_start_that_blocks_can_be_stopped", a_start_that_blocks_can_be_stopped, 60 },
		{ "a_start_that_blocks_can_be_destroyed", a_start_that_blocks_can_be_destroyed, 60 },
		{ "a_start_that_fails_early", a_start_that_fails_early, 0 },
		{ "a_stop_that_blocks", a_stop_that_blocks, 60 },
		{ "every_call_on_a_loop_that_blocks", every_call_on_a_loop_that_blocks, 60 },
		{ "a_silent_heir_of_a_handover", a_silent_heir_of_a_handover, 60 },
		{ "a_silent_heir_of_a_transfer", a_silent_heir_of_a_transfer, 60 },
		{ NULL, NULL, 0 },
	};
	if (argc == 6 && strcmp(argv[1], "--helper") == 0)
		return be_a_member(argv[3], argv[4], argv[5]);
	return check_main(argc, argv, tests);
}
