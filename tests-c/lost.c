/*
 * Assertions of the engine wherever they strike: inside a step of SQLite's with its mutexes held, where the log is written, in
 * a start, in a stop. One node is lost, its calls and the log say why, it stops, its directory starts again, and another
 * node of the process never notices. What threads of the disk meet is in node::engine_tests, a caller's thread in turn.c.
 *
 * The assertions are real ones, met because a system call fails that the engine takes for granted.
 */
#include "check.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum place { NOWHERE, STEP, WRITE, STOP };

static _Atomic enum place place;
static atomic_int struck;

/* Once, on a thread of that name; any if it is NULL. */
static bool strikes(enum place here, const char *thread)
{
	char name[16] = "";
	enum place wanted = here;
	prctl(PR_GET_NAME, name);
	if ((thread != NULL && strcmp(name, thread) != 0) || !atomic_compare_exchange_strong(&place, &wanted, NOWHERE))
		return false;
	atomic_fetch_add(&struck, 1);
	return true;
}

/* These come before libc's, for the library, too. */

/* A write transaction begins, in a step that a thread of the pool runs. */
void *mremap(void *old, size_t had, size_t size, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	void *to = va_arg(rest, void *);
	va_end(rest);
	if (strikes(STEP, "dqlite-sql")) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mremap, old, had, size, flags, to);
}

/* A connection is closed, and with it its view of the index. */
int munmap(void *address, size_t size)
{
	if (size == 32768 && strikes(STOP, NULL)) {
		errno = EINVAL;
		return -1;
	}
	return (int)syscall(SYS_munmap, address, size);
}

/* The log is written; in a start the engine tries how. */
long syscall(long number, ...)
{
	static long (*_Atomic real)(long, ...);
	long a[6];
	va_list rest;
	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(rest, long);
	va_end(rest);
	if (atomic_load(&real) == NULL)
		atomic_store(&real, (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"));
	if (number == SYS_io_submit && strikes(WRITE, NULL))
		return 0;
	return atomic_load(&real)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- what must hold ---- */

static atomic_int logged;

static void listen_to_losses(void *data, int level, const char *message)
{
	(void)data;
	if (level == DQLITEPY_LOG_ERROR && strstr(message, "is lost") != NULL && strstr(message, "assertion") != NULL)
		atomic_fetch_add(&logged, 1);
}

static int was_logged(void *count)
{
	return atomic_load(&logged) >= *(int *)count;
}

static dqlitepy_handle other;
static const char *third_address;

static void begin(void)
{
	CHECK_OK(dqlitepy_set_log_callback(listen_to_losses, NULL));
	third_address = free_address();
	other = running_node(path_in_test_dir("other"), free_address());
	CHECK_EXEC(other, "CREATE TABLE t(a)");
}

/* Behind each strike, of which there were so many. The other one opens a database, writes, stops: it needs all that is shared. */
static void others_live(int count)
{
	CHECK_INT(atomic_load(&struck), count);
	WAIT_UNTIL(5, was_logged, &count);
	dqlitepy_handle third = running_node(path_in_test_dir("third"), third_address);
	CHECK_EXEC(third, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(zeroblob(10000000)); DELETE FROM t");
	dqlitepy_node_destroy(third);
	for (int i = 0; i < 20; i++)
		CHECK_EXEC(other, "INSERT INTO t VALUES(1)");
}

static void stops_soon(dqlitepy_handle node)
{
	double start = now();
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	CHECK_WITHIN(start, 5.0);
}

static void end(void)
{
	dqlitepy_node_destroy(other);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
}

#define LONG "INSERT INTO t WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000) SELECT 7 FROM s"

static void in_a_running_node(enum place where, const char *sql)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	begin();
	for (int i = 1; i <= 3; i++) {
		dqlitepy_handle node = running_node(dir, address);
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)");
		atomic_store(&place, where);
		CHECK_EXEC_FAILS(node, sql, DQLITEPY_UNKNOWN, "is lost"); /* it was under way */
		CHECK_ERROR_HAS("assertion");
		CHECK_QUERY_FAILS(node, "SELECT 1", DQLITEPY_INTERNAL, "is lost");
		others_live(i);
		stops_soon(node);
	}
	dqlitepy_handle node = running_node(dir, address);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t WHERE a = 1", "[{\"n\":3}]");
	CHECK_EXEC(node, LONG);
	dqlitepy_node_destroy(node);
	end();
}

static void in_a_step(void)
{
	in_a_running_node(STEP, LONG);
}

static void where_the_log_is_written(void)
{
	in_a_running_node(WRITE, "INSERT INTO t VALUES(8)");
}

static void in_a_start(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	begin();
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	for (int i = 1; i <= 3; i++) {
		CHECK_OK(dqlitepy_node_stop(node));
		atomic_store(&place, WRITE);
		double start = now();
		CHECK_RC(dqlitepy_node_start(node), DQLITEPY_INTERNAL);
		CHECK_ERROR_HAS("assertion");
		CHECK_WITHIN(start, 5.0);
		others_live(i);
		CHECK_OK(dqlitepy_node_start(node));
	}
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":1}]");
	dqlitepy_node_destroy(node);
	end();
}

/* A destroy stops it first, so every second time it is that. */
static void in_a_stop(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	begin();
	for (int i = 1; i <= 4; i++) {
		dqlitepy_handle node = running_node(dir, address);
		CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)");
		atomic_store(&place, STOP);
		double start = now();
		if (i % 2)
			CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
		CHECK_WITHIN(start, 5.0);
		others_live(i);
	}
	dqlitepy_handle node = running_node(dir, address);
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":4}]");
	dqlitepy_node_destroy(node);
	end();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "in_a_step", in_a_step, 60 },
		{ "where_the_log_is_written", where_the_log_is_written, 60 },
		{ "in_a_start", in_a_start, 60 },
		{ "in_a_stop", in_a_stop, 60 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
