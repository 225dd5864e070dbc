/*
 * The write lock is free a second after whoever had it is gone or was interrupted, in whatever way: a client that closes or resets
 * its connection, over TCP or past it, between two statements, in one, or in the middle of rows; a session or a queue whose
 * call is ended; and later, but not for ever, where a host vanishes.
 */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDLESS "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s) "
#define ENDLESS_WRITE "INSERT INTO t(a) " ENDLESS "SELECT n FROM s WHERE n < 0"
#define ENDLESS_ROWS ENDLESS "SELECT n FROM s"

static dqlitepy_handle node, other;
static const char *address;

static int lock_is_taken(void *unused)
{
	(void)unused;
	int rc = dqlitepy_session_exec(other, "INSERT INTO t(a) VALUES (1)", -1, NULL, NULL);
	CHECK(rc == DQLITEPY_OK || rc == DQLITEPY_SQL + 5);
	return rc != DQLITEPY_OK;
}

static int lock_is_free(void *unused)
{
	return !lock_is_taken(unused);
}

static void make_node(void)
{
	CHECK_OK(dqlitepy_node_create(1, address, path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_busy_timeout(node, 0));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_session_open(node, "test.db", &other));
	CHECK_OK(dqlitepy_session_set_busy_timeout(other, 0));
}

static void end_node(void)
{
	CHECK_JSON(node, "SELECT count(*) AS n FROM t WHERE a = 7", "[{\"n\":0}]");
	dqlitepy_node_destroy(node);
}

/* ---- a client of the wire protocol ---- */

enum { OPEN = 3, EXEC_SQL = 8, QUERY_SQL = 9, DB = 4, RESULT = 6, ROWS = 7 };

static void send_request(int fd, int type, const char *sql)
{
	char message[600] = { 0 };
	size_t before = type == OPEN ? 8 : 16, words = strlen(sql) / 8 + 1;
	memcpy(message + before, sql, strlen(sql));
	size_t size = before + words * 8;
	if (type == OPEN) {
		memcpy(message + size + 8, "volatile", 8);
		size += 24;
	}
	message[0] = (char)((size - 8) / 8), message[4] = (char)type;
	CHECK_INT(send(fd, message, size, MSG_NOSIGNAL), (long long)size);
}

static void expect(int fd, int type)
{
	unsigned char header[8], body[4096];
	CHECK_INT(recv(fd, header, 8, MSG_WAITALL), 8);
	CHECK_INT(header[4], type);
	size_t left = ((size_t)header[0] | (size_t)header[1] << 8) * 8;
	for (ssize_t got; left > 0; left -= (size_t)got)
		CHECK((got = recv(fd, body, left < sizeof body ? left : sizeof body, 0)) > 0);
}

static void begin_transaction(int fd)
{
	CHECK_INT(send(fd, "\1\0\0\0\0\0\0", 8, MSG_NOSIGNAL), 8);
	send_request(fd, OPEN, "test.db");
	expect(fd, DB);
	send_request(fd, EXEC_SQL, "BEGIN IMMEDIATE");
	expect(fd, RESULT);
	send_request(fd, EXEC_SQL, "INSERT INTO t(a) VALUES (7)");
	expect(fd, RESULT);
}

/* The socket beside the port (docs/adr/0010). */
static int neighbour_connect(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "dqlitepy/%s", address);
	CHECK(connect(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) == 0);
	return fd;
}

static void vanish(int fd, int by_reset)
{
	struct linger at_once = { .l_onoff = 1 };
	if (by_reset)
		CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
	close(fd);
}

static void clients_that_vanish(int (*dial)(void))
{
	address = free_address();
	make_node();
	for (int by_reset = 0; by_reset < 2; by_reset++) {
		for (int inside = 0; inside < 3; inside++) {
			int fd = dial();
			begin_transaction(fd);
			CHECK(lock_is_taken(NULL));
			if (inside == 1) {
				double before = cpu_seconds();
				send_request(fd, EXEC_SQL, ENDLESS_WRITE);
				WAIT_UNTIL(10, has_computed, &before);
			}
			if (inside == 2) {
				send_request(fd, QUERY_SQL, ENDLESS_ROWS);
				expect(fd, ROWS);
				expect(fd, ROWS);
			}
			CHECK(lock_is_taken(NULL));
			vanish(fd, by_reset);
			WAIT_UNTIL(1, lock_is_free, NULL);
		}
	}
	end_node();
}

static int over_tcp(void)
{
	return tcp_connect(address);
}

static void a_client_over_tcp(void) { clients_that_vanish(over_tcp); }
static void a_client_beside_it(void) { clients_that_vanish(neighbour_connect); }

/* ---- calls that are ended ---- */

static dqlitepy_handle session, queue;
static atomic_int result;

static void *write_for_ever(void *sql)
{
	result = dqlitepy_session_exec(session, sql, -1, NULL, NULL);
	return NULL;
}

static int cancel_of(dqlitepy_handle handle)
{
	return dqlitepy_queue_cancel(handle, 5);
}

/* The endless write of a session is ended by `end`; inside a transaction as well as by itself. */
static void ended(int (*end)(dqlitepy_handle), int by_queue, int ends_queue, int code_alone, int code_inside)
{
	for (int inside = 0; inside < 2; inside++) {
		pthread_t thread;
		dqlitepy_completion done = { 0 };
		uint64_t count = 0;
		result = -1;
		CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
		CHECK_OK(dqlitepy_queue_open(0, &queue));
		if (inside)
			CHECK_OK(dqlitepy_session_exec(session, "BEGIN; INSERT INTO t(a) VALUES (7)", -1, NULL, NULL));
		double before = cpu_seconds();
		if (by_queue)
			CHECK_OK(dqlitepy_queue_session_exec(queue, 5, session, ENDLESS_WRITE, -1, NULL, 0));
		else
			CHECK(pthread_create(&thread, NULL, write_for_ever, (void *)ENDLESS_WRITE) == 0);
		WAIT_UNTIL(10, has_computed, &before);
		WAIT_UNTIL(10, lock_is_taken, NULL);
		CHECK_OK(end(ends_queue ? queue : session));
		WAIT_UNTIL(1, lock_is_free, NULL);
		if (!by_queue) {
			CHECK(pthread_join(thread, NULL) == 0);
			CHECK_INT(result, inside ? code_inside : code_alone);
		} else if (end != dqlitepy_queue_close) {
			while (count == 0)
				CHECK_OK(dqlitepy_queue_poll(queue, &done, 1, &count));
			CHECK_INT(done.code, inside ? code_inside : code_alone);
			dqlitepy_free(done.message);
		}
		dqlitepy_queue_close(queue);
		dqlitepy_session_close(session);
	}
}

static void calls_that_are_ended(void)
{
	address = free_address();
	make_node();
	ended(dqlitepy_session_interrupt, 0, 0, DQLITEPY_UNKNOWN, DQLITEPY_TRANSACTION_LOST);
	ended(dqlitepy_session_close, 0, 0, DQLITEPY_SHUTDOWN, DQLITEPY_SHUTDOWN);
	ended(cancel_of, 1, 1, DQLITEPY_UNKNOWN, DQLITEPY_TRANSACTION_LOST);
	ended(dqlitepy_session_interrupt, 1, 0, DQLITEPY_UNKNOWN, DQLITEPY_TRANSACTION_LOST);
	ended(dqlitepy_session_close, 1, 0, DQLITEPY_SHUTDOWN, DQLITEPY_SHUTDOWN);
	ended(dqlitepy_queue_close, 1, 1, 0, 0);
	end_node();
}

/* ---- a host that vanishes ---- */

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...)
{
	char command[400];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(command, sizeof command, format, arguments);
	va_end(arguments);
	if (system(command) != 0)
		check_skip("cannot: %s", command);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		check_skip("%s: %s", path, strerror(errno));
	close(fd);
}

/* The other host: it takes the lock and then says nothing for ever. */
static void be_the_other_host(int ready, int go)
{
	char byte = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CHECK(unshare(CLONE_NEWNET) == 0);
	CHECK(write(ready, &byte, 1) == 1 && read(go, &byte, 1) == 1);
	run("ip address add 10.98.7.2/24 dev away && ip link set away up");
	begin_transaction(tcp_connect(address));
	CHECK(write(ready, &byte, 1) == 1 && read(go, &byte, 1) == 1);
	run("ip link set away down");
	CHECK(write(ready, &byte, 1) == 1);
	for (;;)
		pause();
}

/* The node's end of the connection: its number, or -1. */
static int accepted_from(const char *host)
{
	struct sockaddr_in peer;
	char text[20];
	for (int fd = 3; fd < 1000; fd++) {
		socklen_t size = sizeof peer;
		if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sin_family == AF_INET &&
		    strcmp(inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text), host) == 0)
			return fd;
	}
	return -1;
}

static int number_of(int fd, int level, int option)
{
	int value = -1;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, level, option, &value, &size) == 0);
	return value;
}

/* Only then is it for the kernel's probes to find out. */
static int is_acknowledged(void *fd)
{
	struct tcp_info info;
	socklen_t size = sizeof info;
	CHECK(getsockopt(*(int *)fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
	return info.tcpi_unacked == 0;
}

/* That a vanished host is noticed at all, after as long as the kernel is told to be patient. LOCKS=long waits so long. */
static void a_host_that_vanishes(void)
{
	char map[40], byte = 0;
	int ready[2], go[2];
	snprintf(map, sizeof map, "0 %u 1", (unsigned)getuid());
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		check_skip("no namespaces here: %s", strerror(errno));
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", map);
	CHECK(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
	address = "10.98.7.1:9001";
	pid_t host = fork();
	if (host == 0)
		be_the_other_host(ready[1], go[0]);
	CHECK(read(ready[0], &byte, 1) == 1);
	run("ip link set lo up && ip link add home type veth peer name away netns %d && ip address add 10.98.7.1/24 dev home && "
	    "ip link set home up",
	    (int)host);
	make_node();
	CHECK(write(go[1], &byte, 1) == 1 && read(ready[0], &byte, 1) == 1);
	CHECK(lock_is_taken(NULL));
	int fd = accepted_from("10.98.7.2"), patience = number_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT);
	CHECK_INT(patience, 30000);
	WAIT_UNTIL(5, is_acknowledged, &fd);
	CHECK_INT(number_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	if (getenv("LOCKS") == NULL) {
		patience = 4000;
		CHECK(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience) == 0);
	}
	CHECK(write(go[1], &byte, 1) == 1 && read(ready[0], &byte, 1) == 1);
	CHECK(lock_is_taken(NULL));
	/* The kernel looks every three seconds. */
	WAIT_UNTIL(patience / 1000 + 8, lock_is_free, NULL);
	kill(host, SIGKILL);
	CHECK_INT(wait_for_exit(host, 10), -SIGKILL);
	end_node();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "a_host_that_vanishes", a_host_that_vanishes, 60 },
		{ "a_client_over_tcp", a_client_over_tcp, 0 },
		{ "a_client_beside_it", a_client_beside_it, 0 },
		{ "calls_that_are_ended", calls_that_are_ended, 60 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
