/* What the host process may rely on: fork, exit, signals, descriptors, silence; and what survives its death. */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROWS "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT n FROM s"
#define LONG_SELECT "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000000) SELECT count(*) FROM s"

/* A forked child runs `body` and ends with _exit; at most 20 seconds. Its exit code, or minus the signal. */
static int in_forked_child(void (*body)(void))
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(20);
		body();
		_exit(0);
	}
	return wait_for_exit(pid, 25);
}

/* ---- fork ---- */

static dqlitepy_handle parent_node, parent_client;
static const char *other_address, *other_dir, *parent_dir, *parent_address;

static void use_handles_of_the_parent(void)
{
	double start = now();
	char *text = NULL;
	dqlitepy_handle out = 77;
	CHECK_EXEC_FAILS(parent_node, "INSERT INTO t VALUES(2)", DQLITEPY_MISUSE, "fork");
	CHECK_QUERY_FAILS(parent_node, "SELECT 1", DQLITEPY_MISUSE, "fork");
	CHECK_RC(dqlitepy_node_open_db(parent_node, "test.db"), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_start(parent_node), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_stop(parent_node), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_handover(parent_node), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_busy_timeout(parent_node, 1), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_client_leader(parent_client, &text), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_client_cluster(parent_client, &text), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_client_add(parent_client, 2, other_address), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_client_remove(parent_client, 2), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_client_close(parent_client), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_create(1, other_address, other_dir, &out), DQLITEPY_MISUSE); /* an engine ran in the parent */
	CHECK_INT(out, 0);
	dqlitepy_node_destroy(parent_node); /* without effect on the parent's node */
	CHECK_WITHIN(start, 1.0);
}

static void fork_while_running(void)
{
	parent_address = free_address(), parent_dir = path_in_test_dir("node");
	other_address = free_address(), other_dir = path_in_test_dir("other");
	parent_node = running_node(parent_dir, parent_address);
	CHECK_OK(dqlitepy_client_create(parent_address, &parent_client));
	CHECK_EXEC(parent_node, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	for (int i = 0; i < 3; i++) {
		CHECK_INT(in_forked_child(use_handles_of_the_parent), 0);
		CHECK_EXEC(parent_node, "INSERT INTO t VALUES(3)"); /* the parent goes on */
	}
	CHECK_JSON(parent_node, "SELECT count(*) AS n FROM t", "[{\"n\":4}]");
	char *leader = NULL;
	CHECK_OK(dqlitepy_client_leader(parent_client, &leader));
	dqlitepy_node_destroy(parent_node);
}

static void begin_in_child(void)
{
	CHECK_EXEC_FAILS(parent_node, "ROLLBACK", DQLITEPY_MISUSE, "fork");
	exit(0); /* with the library's own end in the child: no crash, no wait */
}

static void fork_inside_a_transaction(void)
{
	parent_node = running_node(path_in_test_dir("node"), free_address());
	CHECK_EXEC(parent_node, "CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1)");
	CHECK_INT(in_forked_child(begin_in_child), 0);
	CHECK_EXEC(parent_node, "INSERT INTO t VALUES(2); COMMIT");
	CHECK_JSON(parent_node, "SELECT a FROM t", "[{\"a\":1},{\"a\":2}]");
	dqlitepy_node_destroy(parent_node);
}

/* A child that lives on must not keep the port or the directory of a node that its parent ended. */
static void child_outlives_the_node(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	int until[2];
	char byte;
	dqlitepy_handle node = running_node(dir, address);
	CHECK(pipe2(until, O_CLOEXEC) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(until[1]);
		_exit(read(until[0], &byte, 1) == 0 ? 0 : 1);
	}
	close(until[0]);
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	close(tcp_listen(address)); /* nobody listens there any more */
	node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	dqlitepy_node_destroy(node);
	close(until[1]);
	CHECK_INT(wait_for_exit(pid, 5), 0);
}

static void run_a_node(void)
{
	dqlitepy_handle node = running_node(other_dir, other_address);
	CHECK_EXEC(node, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":1}]");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
}

/* The child of a process that only loaded the library can do everything. */
static void fork_before_the_engine(void)
{
	CHECK(dqlitepy_version_number() > 0);
	other_address = free_address(), other_dir = path_in_test_dir("node");
	CHECK_INT(in_forked_child(run_a_node), 0);
	dqlitepy_handle node = running_node(other_dir, other_address);
	CHECK_JSON(node, "SELECT a FROM t", "[{\"a\":1}]");
	dqlitepy_node_destroy(node);
}

/* ---- exit ---- */

static dqlitepy_handle exiting, exiting_session;
static atomic_int under_way; /* what the call has got done so far */

static void call_in_thread(void *(*call)(void *))
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, call, NULL) == 0);
}

static void *run_long_select(void *unused)
{
	char *json = NULL;
	dqlitepy_node_query(exiting, LONG_SELECT, &json);
	return unused;
}

static void *run_inserts(void *unused)
{
	int64_t id, rows;
	while (dqlitepy_node_exec(exiting, "INSERT INTO t VALUES(1)", &id, &rows) == 0)
		under_way++;
	return unused;
}

static void *run_long_write(void *unused)
{
	dqlitepy_session_exec(exiting_session, "INSERT INTO t " LONG_SELECT, -1, NULL, NULL);
	return unused;
}

static void *ask_a_client(void *address)
{
	dqlitepy_handle client = 0;
	char *text = NULL;
	CHECK_OK(dqlitepy_client_create(address, &client));
	dqlitepy_client_leader(client, &text);
	return NULL;
}

static int tell_and_wait(void *data, uint64_t done, uint64_t total)
{
	(void)data, (void)done, (void)total;
	under_way = 10;
	pause();
	return 0;
}

static void log_and_wait(void *data, int level, const char *message)
{
	tell_and_wait(data, (uint64_t)level, (uint64_t)strlen(message));
}

static void *dump(void *path)
{
	dqlitepy_session_dump(exiting_session, path, tell_and_wait, NULL);
	return NULL;
}

static void *start_and_stop(void *dir)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), dir, &node));
	for (;; under_way += 10)
		if (dqlitepy_node_start(node) != 0 || dqlitepy_node_stop(node) != 0)
			return NULL;
}

static int is_under_way(void *unused)
{
	(void)unused;
	return under_way >= 10;
}

static int is_locked(void *unused)
{
	(void)unused;
	return dqlitepy_node_exec(exiting, "INSERT INTO t VALUES(2)", NULL, NULL) == DQLITEPY_SQL + 5;
}

static int has_connection(void *listener)
{
	return accept4(*(int *)listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) >= 0;
}

/* Returns when the call that `how` names is under way. */
static void get_under_way(const char *how, const char *dir)
{
	char second[4000];
	double before = cpu_seconds();
	dqlitepy_handle rows = 0, queue = 0;
	if (strcmp(how, "transaction") == 0)
		CHECK_EXEC(exiting, "BEGIN; INSERT INTO t VALUES(1)");
	if (strcmp(how, "statement") == 0) {
		call_in_thread(run_long_select);
		WAIT_UNTIL(10, has_computed, &before);
	}
	if (strcmp(how, "inserts") == 0) {
		call_in_thread(run_inserts);
		WAIT_UNTIL(10, is_under_way, NULL);
	}
	if (strcmp(how, "session") == 0) {
		call_in_thread(run_long_write);
		WAIT_UNTIL(10, is_locked, NULL);
	}
	if (strcmp(how, "rows") == 0) {
		CHECK_OK(dqlitepy_session_query(exiting_session, ROWS, -1, &rows));
		for (int i = 0; i < 10; i++)
			CHECK_INT(dqlitepy_rows_step(rows), DQLITEPY_ROW);
	}
	if (strcmp(how, "queue") == 0) {
		CHECK_OK(dqlitepy_queue_open(0, &queue));
		for (uint64_t i = 0; i < 20; i++)
			CHECK_OK(dqlitepy_queue_session_exec(queue, i, exiting_session, LONG_SELECT, -1, NULL, 0));
		WAIT_UNTIL(10, has_computed, &before);
	}
	if (strcmp(how, "client") == 0) {
		const char *silent = free_address();
		pthread_t thread;
		int listener = tcp_listen(silent);
		CHECK(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
		CHECK(pthread_create(&thread, NULL, ask_a_client, (void *)silent) == 0);
		WAIT_UNTIL(10, has_connection, &listener);
	}
	if (strcmp(how, "dump") == 0) {
		pthread_t thread;
		snprintf(second, sizeof second, "%s-%s", dir, how);
		CHECK(pthread_create(&thread, NULL, dump, second) == 0);
		WAIT_UNTIL(10, is_under_way, NULL);
	}
	if (strcmp(how, "start") == 0) {
		pthread_t thread;
		snprintf(second, sizeof second, "%s-%s", dir, how);
		CHECK(pthread_create(&thread, NULL, start_and_stop, second) == 0);
		WAIT_UNTIL(10, is_under_way, NULL);
	}
	if (strcmp(how, "log") == 0) {
		CHECK_OK(dqlitepy_set_log_callback(log_and_wait, NULL));
		snprintf(second, sizeof second, "%s-%s", dir, how);
		running_node(second, free_address());
		WAIT_UNTIL(10, is_under_way, NULL);
	}
	if (strcmp(how, "stopped") == 0)
		CHECK_OK(dqlitepy_node_stop(exiting));
}

static void *exit_here(void *unused)
{
	exit(0);
	return unused;
}

/* The helper: a process that ends, or becomes another program, with a node that runs and a call under way. */
static int end_with_node(const char *how, const char *end, const char *dir, const char *address)
{
	CHECK_OK(dqlitepy_node_create(1, address, dir, &exiting));
	CHECK_OK(dqlitepy_node_set_busy_timeout(exiting, 0));
	CHECK_OK(dqlitepy_node_start(exiting));
	CHECK_OK(dqlitepy_node_open_db(exiting, "test.db"));
	CHECK_EXEC(exiting, "CREATE TABLE IF NOT EXISTS t(a)");
	CHECK_OK(dqlitepy_session_open(exiting, "test.db", &exiting_session));
	get_under_way(how, dir);
	puts("ready");
	fflush(stdout);
	if (strcmp(end, "execve") == 0) { /* itself, with a node of its own at once */
		char *const argv[] = { "helper", "--helper", "end", "idle", "exit", (char *)dir, (char *)address, NULL };
		execv("/proc/self/exe", argv);
		return 3;
	}
	if (strcmp(end, "_exit") == 0)
		_exit(0);
	if (strcmp(end, "thread") == 0) {
		call_in_thread(exit_here);
		for (;;)
			pause();
	}
	exit(0);
}

static void end_is_clean(const char *end)
{
	static const char *const ways[] = { "idle",  "transaction", "statement", "inserts", "session", "rows",
					    "queue", "client",	    "dump",	 "start",   "log",     "stopped" };
	const char *dir = path_in_test_dir("node"), *address = free_address();
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		struct helper helper = start_helper((const char *const[]){ "end", ways[i], end, dir, address, NULL });
		CHECK_TEXT(helper_line(&helper, 20), "ready");
		double start = now();
		if (strcmp(end, "execve") == 0)
			CHECK_TEXT(helper_line(&helper, 10), "ready");
		int code = wait_for_exit(helper.pid, 10);
		if (code != 0)
			check_fail(__FILE__, __LINE__, "%s with a node, %s: code %d", end, ways[i], code);
		CHECK_WITHIN(start, 2.0);
		close(helper.in);
		close(helper.out);
	}
	dqlitepy_node_destroy(running_node(dir, address));
}

static void exit_is_clean(void) { end_is_clean("exit"); }
static void _exit_is_clean(void) { end_is_clean("_exit"); }
static void exit_of_a_thread_is_clean(void) { end_is_clean("thread"); }
static void execve_is_clean(void) { end_is_clean("execve"); }

/* ---- signals ---- */

static volatile sig_atomic_t handled;

static void count_signal(int number)
{
	(void)number;
	handled++;
}

static const int watched[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD, SIGPIPE, SIGALRM, SIGPROF, SIGURG, SIGSEGV, SIGABRT };
enum { WATCHED = sizeof watched / sizeof *watched };

static void read_signals(struct sigaction *actions, sigset_t *mask)
{
	for (int i = 0; i < WATCHED; i++)
		CHECK(sigaction(watched[i], NULL, &actions[i]) == 0);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, mask) == 0);
}

static void check_signals_as_before(const struct sigaction *before, const sigset_t *mask_before)
{
	struct sigaction actions[WATCHED];
	sigset_t mask;
	read_signals(actions, &mask);
	for (int i = 0; i < WATCHED; i++)
		if (actions[i].sa_handler != before[i].sa_handler || actions[i].sa_flags != before[i].sa_flags)
			check_fail(__FILE__, __LINE__, "the action of signal %d was changed", watched[i]);
	for (int i = 1; i < 65; i++)
		if (sigismember(&mask, i) != sigismember(mask_before, i))
			check_fail(__FILE__, __LINE__, "signal %d in the mask of this thread was changed", i);
}

static void signals_stay(void)
{
	struct sigaction before[WATCHED], action = { .sa_handler = count_signal, .sa_flags = SA_RESTART };
	sigset_t mask;
	CHECK(sigaction(SIGTERM, &action, NULL) == 0 && sigaction(SIGUSR2, &action, NULL) == 0);
	sigemptyset(&mask);
	sigaddset(&mask, SIGHUP);
	CHECK(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
	read_signals(before, &mask);
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	check_signals_as_before(before, &mask);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_EXEC_FAILS(node, "NONSENSE", 1001, "syntax");
	check_signals_as_before(before, &mask);
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	check_signals_as_before(before, &mask);
	CHECK(raise(SIGTERM) == 0);
	CHECK_INT(handled, 1);
}

/* No thread of the library takes a signal that the host's threads hold back. */
static void host_signals_do_not_run_in_our_threads(void)
{
	struct sigaction action = { .sa_handler = count_signal };
	const struct timespec second = { .tv_sec = 1 };
	const int numbers[] = { SIGUSR1, SIGTERM, SIGINT, SIGCHLD, SIGHUP };
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a)"); /* pools and sessions have their threads by now */
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":0}]");
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		sigset_t mask;
		sigemptyset(&mask);
		sigaddset(&mask, numbers[i]);
		CHECK(sigaction(numbers[i], &action, NULL) == 0);
		CHECK(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
		handled = 0;
		CHECK(kill(getpid(), numbers[i]) == 0);
		CHECK_INT(sigtimedwait(&mask, NULL, &second), numbers[i]); /* it is still there for us */
		CHECK_INT(handled, 0);
	}
	dqlitepy_node_destroy(node);
}

/* A signal that interrupts system calls of the calling thread changes no result. */
static void *send_signals(void *target)
{
	for (int i = 0; i < 2000; i++) {
		pthread_kill(*(pthread_t *)target, SIGUSR1);
		sched_yield();
	}
	return NULL;
}

static void interrupted_calls(void)
{
	struct sigaction action = { .sa_handler = count_signal }; /* without SA_RESTART */
	pthread_t self = pthread_self(), sender;
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(pthread_create(&sender, NULL, send_signals, &self) == 0);
	for (int i = 0; i < 100; i++) {
		CHECK_EXEC(node, "INSERT INTO t VALUES(1)");
		CHECK_JSON(node, "SELECT 1 AS a", "[{\"a\":1}]");
	}
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK(pthread_join(sender, NULL) == 0);
	CHECK(handled > 0);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":100}]");
	dqlitepy_node_destroy(node);
}

static void send_bytes(int fd, const char *bytes, size_t n)
{
	CHECK_INT(send(fd, bytes, n, MSG_NOSIGNAL), (long long)n);
}

#define WORD(...) (const char[8]){ __VA_ARGS__ }, 8

/* A client asks for many rows and vanishes, with SIGPIPE at its default: the process lives. */
static void sigpipe(void)
{
	const char *address = free_address();
	CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address);
	for (int i = 0; i < 60; i++) {
		struct linger at_once = { .l_onoff = 1 };
		char answer[16];
		int fd = tcp_connect(address);
		send_bytes(fd, WORD(1)); /* the version, OPEN "test.db", and a query of 20,000 rows */
		send_bytes(fd, "\4\0\0\0\3\0\0\0test.db\0\0\0\0\0\0\0\0\0volatile\0\0\0\0\0\0\0\0", 40);
		CHECK_INT(recv(fd, answer, 16, MSG_WAITALL), 16);
		CHECK_INT(answer[4], 4); /* DB */
		static const char sql[] = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n<20000) SELECT n FROM s;   ";
		send_bytes(fd, WORD(14, 0, 0, 0, 9));
		send_bytes(fd, WORD(0));
		CHECK_INT(sizeof sql, 96);
		send_bytes(fd, sql, sizeof sql);
		send_bytes(fd, WORD(0)); /* no parameters */
		if (i % 2)
			CHECK_INT(recv(fd, answer, 16, MSG_WAITALL), 16);
		if (i % 3)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		close(fd);
	}
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
}

/* ---- descriptors and output ---- */

static fd_set inherited; /* what the test runner left open */

static int count_descriptors(int must_close_on_exec)
{
	int n = 0;
	DIR *dir = opendir("/proc/self/fd");
	CHECK(dir != NULL);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		int fd = atoi(entry->d_name);
		if (entry->d_name[0] == '.' || fd <= 2 || fd == dirfd(dir))
			continue;
		n++;
		if (must_close_on_exec && !(fd < FD_SETSIZE && FD_ISSET(fd, &inherited)) && !(fcntl(fd, F_GETFD) & FD_CLOEXEC)) {
			char path[60], target[200] = "";
			snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
			if (readlink(path, target, sizeof target - 1) < 0)
				target[0] = 0;
			check_fail(__FILE__, __LINE__, "descriptor %d (%s) would be inherited by an exec", fd, target);
		}
	}
	closedir(dir);
	return n;
}

static int no_more_descriptors(void *most)
{
	return count_descriptors(0) <= *(int *)most;
}

static void descriptors(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle client = 0;
	int before = count_descriptors(0), first = 0;
	for (int fd = 0; fd < FD_SETSIZE; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			FD_SET(fd, &inherited);
	for (int i = 0; i < 10; i++) {
		dqlitepy_handle node = running_node(dir, address);
		CHECK_OK(dqlitepy_client_create(address, &client));
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)");
		int fd = tcp_connect(address);
		count_descriptors(1);
		close(fd);
		CHECK_OK(dqlitepy_client_close(client));
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
		if (i == 0)
			first = count_descriptors(0); /* what the library keeps for good, if anything */
	}
	CHECK(first - before <= 4);
	WAIT_UNTIL(5, no_more_descriptors, &first); /* and no more with each node */
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

static int no_more_threads(void *most)
{
	return status_number("Threads:") <= *(long *)most;
}

/* Forty lives of a node leave neither threads nor memory behind. */
static void nothing_accumulates(void)
{
	const char *address = free_address();
	long threads = 0, kilobytes = 0;
	for (int i = 0; i < 40; i++) {
		char name[20], *text = NULL;
		snprintf(name, sizeof name, "node%d", i); /* a new one each time: a growing log would take memory, too */
		dqlitepy_handle node = running_node(path_in_test_dir(name), address), client = 0;
		CHECK_OK(dqlitepy_client_create(address, &client));
		CHECK_OK(dqlitepy_client_leader(client, &text));
		dqlitepy_free(text);
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); DELETE FROM t; INSERT INTO t VALUES(zeroblob(100000))");
		CHECK_OK(dqlitepy_node_query(node, "SELECT a FROM t", &text));
		dqlitepy_free(text);
		CHECK_EXEC_FAILS(node, "NONSENSE", 1001, "syntax");
		CHECK_OK(dqlitepy_client_close(client));
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
		if (i == 19) {
			threads = status_number("Threads:");
			kilobytes = status_number("VmRSS:");
		}
	}
	WAIT_UNTIL(5, no_more_threads, &threads);
#ifdef __SANITIZE_ADDRESS__ /* it holds back freed memory */
	return;
#endif
	CHECK(status_number("VmRSS:") <= kilobytes + 4096);
	/* Handles that never become a node cost next to nothing. */
	kilobytes = status_number("VmRSS:");
	for (int i = 0; i < 5000; i++) {
		dqlitepy_handle node = 0;
		CHECK_OK(dqlitepy_node_create(1, address, test_dir(), &node));
		dqlitepy_node_destroy(node);
	}
	CHECK(status_number("VmRSS:") <= kilobytes + 1024);
}

static void damage(const char *dir, const char *name)
{
	char path[4000];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	for (int i = 0; i < 64; i++)
		CHECK_INT(write(fd, "\xff", 1), 1);
	close(fd);
}

/* Starts that fail early and late in the engine keep nothing, and spoil nothing for the next node. */
static void failed_starts_leave_nothing(void)
{
	/* The first is read when the engine's object is made, the second when it starts. */
	static const char *const files[] = { "metadata1", "0000000000000001-0000000000000001" };
	for (int i = 0; i < 2; i++) {
		const char *dir = path_in_test_dir(i == 0 ? "early" : "late"), *address = free_address();
		dqlitepy_handle node = running_node(dir, address);
		CHECK_EXEC(node, "CREATE TABLE t(a)");
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
		damage(dir, files[i]);
		CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
		CHECK_OK(dqlitepy_node_set_auto_recovery(node, 0));
		int before = count_descriptors(0);
		for (int round = 0; round < 20; round++) {
			CHECK(dqlitepy_node_start(node) != 0);
			CHECK_ERROR_HAS(i == 0 ? "metadata" : files[i]);
		}
		CHECK_INT(count_descriptors(0), before);
		dqlitepy_node_destroy(node);
		node = running_node(path_in_test_dir(i == 0 ? "after early" : "after late"), address);
		CHECK_EXEC(node, "CREATE TABLE t(a)");
		dqlitepy_node_destroy(node);
	}
}

/* A process that runs out of descriptors at any point of a start: it fails with a message, keeps none, and a later one
 * works. */
static void starts_without_descriptors(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	struct rlimit old, few;
	dqlitepy_handle node = 0;
	int failures = 0, rc;
	dqlitepy_node_destroy(running_node(path_in_test_dir("first"), address)); /* libuv keeps a pipe for good */
	int before = count_descriptors(0);
	CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
	few = old;
	for (few.rlim_cur = (rlim_t)before + 4; failures < 100; few.rlim_cur++, failures++) {
		CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
		rc = dqlitepy_node_start(node);
		CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
		if (rc == 0)
			break;
		CHECK(last_error_text()[0] != 0);
		CHECK(count_descriptors(0) <= before);
	}
	CHECK(failures > 5);
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	node = running_node(dir, address);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":0}]");
	dqlitepy_node_destroy(node);
}

/* What was acknowledged is there, and nothing twice. */
static void check_numbers(dqlitepy_handle node, const unsigned char *done, int n)
{
	char sql[100];
	for (int i = 0; i < n; i++) {
		snprintf(sql, sizeof sql, "SELECT count(*) = 1 AS ok FROM t WHERE a = %d", i);
		if (done[i])
			CHECK_JSON(node, sql, "[{\"ok\":1}]");
	}
	CHECK_JSON(node, "SELECT count(*) - count(DISTINCT a) AS twice FROM t", "[{\"twice\":0}]");
}

static int can_write(void *node)
{
	return dqlitepy_node_exec(*(dqlitepy_handle *)node, "INSERT INTO t VALUES(-1, NULL); DELETE FROM t WHERE a = -1", NULL, NULL) == 0;
}

/* A node that runs, in a process that has no descriptor left: it writes beyond the end of its log's segments, snapshots are due,
 * and whoever wants a descriptor is told that there is none. Then there are some again. */
static void runs_without_descriptors(void)
{
	enum { ROWS_WRITTEN = 60 };
	const char *dir = path_in_test_dir("node"), *address = free_address();
	static unsigned char done[ROWS_WRITTEN];
	struct rlimit old, few;
	dqlitepy_handle node = 0, session = 0, out = 0;
	char sql[100], *text = NULL;
	int last = -1, written = 0, fd;
	CHECK_OK(dqlitepy_node_create(1, address, dir, &node));
	CHECK_OK(dqlitepy_node_set_snapshot_params(node, 16, 16, DQLITEPY_TRAILING_STATIC));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a, filling)");
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	CHECK_OK(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL));
	CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	few = old;
	while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0 && fd < 200)
		last = fd;
	few.rlim_cur = (rlim_t)last + 1;
	close(fd);
	CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
	for (int i = 0; i < ROWS_WRITTEN; i++) { /* 42 MB */
		snprintf(sql, sizeof sql, "INSERT INTO t VALUES(%d, randomblob(700000))", i);
		double start = now();
		int rc = dqlitepy_session_exec(session, sql, -1, NULL, NULL);
		CHECK_WITHIN(start, 10.0);
		if (rc != DQLITEPY_OK && rc != DQLITEPY_UNKNOWN)
			check_fail(__FILE__, __LINE__, "%s: %d, %s", sql, rc, last_error_text());
		done[i] = rc == DQLITEPY_OK;
		written += rc == DQLITEPY_OK;
	}
	/* Those that the node gives back it gets again. */
	CHECK(written > ROWS_WRITTEN / 2);
	while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
		;
	CHECK_RC(dqlitepy_queue_open(0, &out), DQLITEPY_INTERNAL);
	CHECK_ERROR_HAS("descriptor");
	CHECK(dqlitepy_session_dump(session, path_in_test_dir("dump"), NULL, NULL) != DQLITEPY_OK);
	CHECK_ERROR_HAS("Too many open files");
	CHECK_OK(dqlitepy_client_create(address, &out));
	CHECK_OK(dqlitepy_client_set_timeout(out, 500));
	CHECK_RC(dqlitepy_client_leader(out, &text), DQLITEPY_NOLEADER);
	CHECK_JSON(node, "SELECT 1 AS a", "[{\"a\":1}]");
	CHECK_OK(dqlitepy_metrics(DQLITEPY_METRICS_JSON, &text));
	dqlitepy_free(text);
	CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
	WAIT_UNTIL(20, can_write, &node);
	check_numbers(node, done, ROWS_WRITTEN);
	CHECK_OK(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL));
	CHECK_OK(dqlitepy_session_dump(session, path_in_test_dir("dump"), NULL, NULL));
	CHECK_OK(dqlitepy_session_close(session));
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	check_numbers(node, done, ROWS_WRITTEN);
	dqlitepy_node_destroy(node);
}

/* Ours come before libc's, also for the library: while some are left, what opens a segment to give it its final name is refused
 * for want of a descriptor, and then the same thread once more when it opens the directory. */
static atomic_int refusals;
static __thread int more_refusals;

static int open_unless_refused(const char *path, int flags, mode_t mode)
{
	const char *name = strrchr(path, '/');
	int is_segment = name && strncmp(name, "/open-", 6) == 0 && !(flags & O_CREAT);
	if (is_segment && refusals > 0) {
		more_refusals = --refusals == 0;
	} else if (!(more_refusals && (flags & O_DIRECTORY))) {
		return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	} else {
		more_refusals = 0;
	}
	errno = EMFILE;
	return -1;
}

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		return open_unless_refused(path, flags, mode); \
	}

OPEN(open)
OPEN(open64)

static int was_refused_all(void *unused)
{
	(void)unused;
	return refusals == 0;
}

static void a_segment_waits_for_a_descriptor(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t(a, filling)");
	refusals = 30;
	for (int i = 0; i < 30; i++) /* 21 MB, in segments of 8 MB */
		CHECK_EXEC(node, "INSERT INTO t VALUES(1, randomblob(700000))");
	WAIT_UNTIL(10, was_refused_all, NULL);
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	node = running_node(dir, address);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":30}]");
	dqlitepy_node_destroy(node);
}

/* ---- a node that is lost ---- */

/* Every descriptor of an epoll: one or more of each node's threads wait on theirs. */
static fd_set epolls(void)
{
	fd_set found;
	FD_ZERO(&found);
	for (int fd = 3; fd < FD_SETSIZE; fd++) {
		char path[60], target[60] = "";
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		if (readlink(path, target, sizeof target - 1) > 0 && strcmp(target, "anon_inode:[eventpoll]") == 0)
			FD_SET(fd, &found);
	}
	return found;
}

/* Takes the epolls of the node that started since from under it: libuv meets an assertion. */
static void break_loop(const fd_set *before)
{
	fd_set after = epolls();
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int fd = 3; fd < FD_SETSIZE; fd++)
		if (FD_ISSET(fd, &after) && !FD_ISSET(fd, before))
			CHECK(dup3(null, fd, O_CLOEXEC) == fd);
	close(null);
}

static int is_lost(void *node)
{
	return dqlitepy_node_exec(*(dqlitepy_handle *)node, "INSERT INTO t VALUES(2)", NULL, NULL) == DQLITEPY_INTERNAL;
}

/* An assertion of libuv ends one node and nothing else. */
static void a_lost_node_is_alone(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	dqlitepy_handle other = running_node(path_in_test_dir("other"), free_address());
	fd_set before = epolls();
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(other, "CREATE TABLE t(a)");
	CHECK_EXEC(node, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	break_loop(&before);
	WAIT_UNTIL(10, is_lost, &node);
	CHECK_ERROR_HAS("is lost");
	CHECK_EXEC(other, "INSERT INTO t VALUES(1)");
	double start = now();
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	CHECK_WITHIN(start, 5.0);
	node = running_node(dir, address);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t WHERE a = 1", "[{\"n\":1}]");
	dqlitepy_node_destroy(node);
	dqlitepy_node_destroy(other);
}

enum { ENDLESS_ONES = 64 };

/* Threads that run statements of nodes. */
static int are_all_running(void *unused)
{
	int running = 0;
	DIR *tasks = opendir("/proc/self/task");
	CHECK(tasks != NULL);
	(void)unused;
	for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
		char path[300], name[20] = "";
		snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
		FILE *file = fopen(path, "r");
		running += file && fgets(name, sizeof name, file) && strcmp(name, "dqlite-sql\n") == 0;
		if (file)
			fclose(file);
	}
	closedir(tasks);
	return running >= ENDLESS_ONES;
}

/* As many statements as a queue has threads, none of which ends, leave the processor and the threads of another node to it. */
static void endless_statements_of_another_node(void)
{
	dqlitepy_handle busy = running_node(path_in_test_dir("busy"), free_address()), queue = 0;
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address()), sessions[ENDLESS_ONES];
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_queue_open(0, &queue));
	for (int i = 0; i < ENDLESS_ONES; i++)
		CHECK_OK(dqlitepy_session_open(busy, "test.db", &sessions[i]));
	for (int i = 0; i < ENDLESS_ONES; i++)
		CHECK_OK(dqlitepy_queue_session_exec(queue, (uint64_t)i, sessions[i], LONG_SELECT, -1, NULL, 0));
	WAIT_UNTIL(60, are_all_running, NULL);
	for (int i = 0; i < 3; i++) {
		CHECK_EXEC(node, "INSERT INTO t VALUES(1)");
		CHECK(are_all_running(NULL));
	}
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":3}]");
	CHECK_OK(dqlitepy_queue_close(queue)); /* and with it they end */
	for (int i = 0; i < ENDLESS_ONES; i++)
		CHECK_OK(dqlitepy_session_close(sessions[i]));
	CHECK_EXEC(node, "INSERT INTO t VALUES(1)");
	dqlitepy_node_destroy(busy);
	dqlitepy_node_destroy(node);
}

/* The helper: its node is lost. */
static int lose_a_node(const char *dir, const char *address)
{
	fd_set before = epolls();
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	break_loop(&before);
	WAIT_UNTIL(10, is_lost, &node);
	return 0;
}

/* DQLITEPY_ASSERT=abort brings back what a developer wants: the end of the process where it happened. */
static void assertions_abort_if_asked(void)
{
	const struct rlimit no_core = { 0, 0 };
	CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0);
	for (int asked = 0; asked < 2; asked++) {
		CHECK(setenv("DQLITEPY_ASSERT", asked ? "abort" : "abor", 1) == 0);
		struct helper helper = start_helper((const char *const[]){ "lose", path_in_test_dir(asked ? "a" : "b"), free_address(), NULL });
		CHECK_INT(wait_for_exit(helper.pid, 15), asked ? -SIGABRT : 0);
	}
}

/* What would make the engine write to stderr, which is the host's. A test's process must write nothing. */
static void trace_variables_of_the_engine(void)
{
	CHECK(setenv("LIBDQLITE_TRACE", "1", 1) == 0 && setenv("LIBRAFT_TRACE", "1", 1) == 0);
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
}

/* How often the byte stands three times in a row in the files of this directory. */
static int count_runs(const char *dir, int byte)
{
	int found = 0, files = 0;
	DIR *entries = opendir(dir);
	CHECK(entries != NULL);
	for (struct dirent *entry; (entry = readdir(entries));) {
		char path[4000];
		snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
		FILE *file = entry->d_type == DT_REG ? fopen(path, "rb") : NULL;
		if (!file)
			continue;
		for (int c, run = 0; (c = fgetc(file)) != EOF;) {
			run = c == byte ? run + 1 : 0;
			found += run == 3;
		}
		fclose(file);
		files++;
	}
	closedir(entries);
	CHECK(files > 2);
	return found;
}

/* A process whose memory the allocator fills with a byte, and with another one when it is freed. */
/* One with which at least three bytes of a word are left behind the list of members. Its length is the process id's doing, so
 * nets beside the one that the tests use stand by; they are as much this process's own. */
static const char *address_that_leaves_room(void)
{
	static const char *const nets[] = { "64", "4", "164" };
	static char fits[48];
	const char *address = free_address();
	for (size_t i = 0; i < 3000; i++) {
		snprintf(fits, sizeof fits, "127.%s%s", nets[i % 3], strchr(address + 4, '.'));
		size_t left = (19 + strlen(fits)) % 8;
		if (left >= 1 && left <= 5)
			return fits;
		if (i % 3 == 2)
			address = free_address();
	}
	CHECK(!"no such address");
	return NULL;
}

static void nothing_of_our_memory_goes_to_the_disk(void)
{
	const char *dir = path_in_test_dir("node"), *address = address_that_leaves_room();
	CHECK(setenv("GLIBC_TUNABLES", "glibc.malloc.perturb=165", 1) == 0);
	struct helper helper = start_helper((const char *const[]){ "end", "stopped", "exit", dir, address, NULL });
	CHECK_TEXT(helper_line(&helper, 10), "ready");
	CHECK_INT(wait_for_exit(helper.pid, 10), 0);
	CHECK_INT(count_runs(dir, 165) + count_runs(dir, 165 ^ 0xff), 0);
}

/* A host with stdin, stdout and stderr closed: the library must not write into what got their numbers. */
static void without_stdio(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	close(0), close(1), close(2);
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_EXEC_FAILS(node, "NONSENSE", 1001, "syntax");
	CHECK_OK(dqlitepy_node_stop(node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT name FROM sqlite_master", "[{\"name\":\"t\"}]");
	dqlitepy_node_destroy(node);
}

/* ---- killed ---- */

/* The helper: insert one row after the other and say which ones are acknowledged. */
static int insert_for_ever(const char *dir, const char *address)
{
	dqlitepy_handle node = running_node(dir, address);
	int64_t id, rows;
	CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a)");
	while (dqlitepy_node_exec(node, "INSERT INTO t(a) VALUES('x')", &id, &rows) == 0) {
		printf("%lld\n", (long long)id);
		fflush(stdout);
	}
	return 1;
}

static void killed(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	long long last = 0;
	for (int round = 0; round < 5; round++) {
		struct helper helper = start_helper((const char *const[]){ "insert", dir, address, NULL });
		char sql[100];
		for (int i = 0; i < 50 + 13 * round; i++)
			last = atoll(helper_line(&helper, 10));
		kill(helper.pid, SIGKILL);
		/* Acknowledgements that were still in the pipe count too. */
		FILE *rest = fdopen(helper.out, "r");
		for (char line[40]; fgets(line, sizeof line, rest) && strchr(line, '\n');)
			last = atoll(line);
		fclose(rest);
		close(helper.in);
		CHECK_INT(wait_for_exit(helper.pid, 10), -SIGKILL);
		/* All of them are there, and at most one that was written but not acknowledged. */
		dqlitepy_handle node = running_node(dir, address);
		snprintf(sql, sizeof sql, "SELECT count(*) = max(id) AS whole, max(id) - %lld IN (0, 1) AS ok FROM t", last);
		CHECK_JSON(node, sql, "[{\"whole\":1,\"ok\":1}]");
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
	}
}

static int run_helper(int argc, char **argv)
{
	if (argc == 7 && strcmp(argv[2], "end") == 0)
		return end_with_node(argv[3], argv[4], argv[5], argv[6]);
	if (argc == 5 && strcmp(argv[2], "insert") == 0)
		return insert_for_ever(argv[3], argv[4]);
	if (argc == 5 && strcmp(argv[2], "lose") == 0)
		return lose_a_node(argv[3], argv[4]);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "fork_while_running", fork_while_running, 0 },
		{ "fork_inside_a_transaction", fork_inside_a_transaction, 0 },
		{ "child_outlives_the_node", child_outlives_the_node, 0 },
		{ "fork_before_the_engine", fork_before_the_engine, 0 },
		{ "exit_is_clean", exit_is_clean, 60 },
		{ "_exit_is_clean", _exit_is_clean, 60 },
		{ "exit_of_a_thread_is_clean", exit_of_a_thread_is_clean, 60 },
		{ "execve_is_clean", execve_is_clean, 60 },
		{ "signals_stay", signals_stay, 0 },
		{ "host_signals_do_not_run_in_our_threads", host_signals_do_not_run_in_our_threads, 0 },
		{ "interrupted_calls", interrupted_calls, 0 },
		{ "sigpipe", sigpipe, 0 },
		{ "descriptors", descriptors, 0 },
		{ "nothing_accumulates", nothing_accumulates, 60 },
		{ "failed_starts_leave_nothing", failed_starts_leave_nothing, 0 },
		{ "starts_without_descriptors", starts_without_descriptors, 0 },
		{ "runs_without_descriptors", runs_without_descriptors, 60 },
		{ "a_segment_waits_for_a_descriptor", a_segment_waits_for_a_descriptor, 0 },
		{ "a_lost_node_is_alone", a_lost_node_is_alone, 0 },
		{ "endless_statements_of_another_node", endless_statements_of_another_node, 100 },
		{ "assertions_abort_if_asked", assertions_abort_if_asked, 60 },
		{ "trace_variables_of_the_engine", trace_variables_of_the_engine, 0 },
		{ "nothing_of_our_memory_goes_to_the_disk", nothing_of_our_memory_goes_to_the_disk, 0 },
		{ "without_stdio", without_stdio, 0 },
		{ "killed", killed, 60 },
		{ NULL, NULL, 0 },
	};
	if (argc > 2 && strcmp(argv[1], "--helper") == 0)
		return run_helper(argc, argv);
	return check_main(argc, argv, tests);
}
