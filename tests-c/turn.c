/*
 * Short statements run on the thread that calls: it looks after the engine meanwhile, and nobody but the clock notices. Here:
 * that they do; and what must hold on such a thread as it does on the engine's own: an assertion ends the node and not the
 * caller, a thread with little stack is spared, signals and their mask stay the host's, the engine does not wait for its turn.
 */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fenv.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { MANY = 1000, SMALL_STACK = 512 << 10 };

/* ---- what happens where ---- */

/* How often the engine's threads of that name got or lost a processor. */
static long switches(const char *name)
{
	long count = 0;
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;
	CHECK(tasks != NULL);
	while ((task = readdir(tasks)) != NULL) {
		char path[300], line[100] = "";
		long n;
		snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
		FILE *file = fopen(path, "r");
		if (file == NULL)
			continue;
		bool is_it = fgets(line, sizeof line, file) != NULL && strncmp(line, name, strlen(name)) == 0;
		fclose(file);
		snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
		file = is_it ? fopen(path, "r") : NULL;
		while (file != NULL && fgets(line, sizeof line, file) != NULL)
			if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
				count += n;
		if (file != NULL)
			fclose(file);
	}
	closedir(tasks);
	return count;
}

/* A directory in memory, where the end of a write is not waited for. The test removes it; one that failed leaves it to be looked at. */
static const char *memory_dir(void)
{
	static char dir[] = "/dev/shm/dqlitepy-turn-XXXXXX";
	struct statfs fs;
	if (statfs("/dev/shm", &fs) != 0 || fs.f_type != TMPFS_MAGIC || mkdtemp(dir) == NULL)
		check_skip("no file system in memory at /dev/shm");
	return dir;
}

static void remove_dir(const char *dir)
{
	char command[200];
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	CHECK_INT(system(command), 0);
}

static void many(dqlitepy_handle node, const char *sql, int count)
{
	for (int i = 0; i < count; i++) {
		char *json = NULL;
		if (sql[0] == 'S')
			CHECK_OK(dqlitepy_node_query(node, sql, &json));
		else
			CHECK_EXEC(node, sql);
		dqlitepy_free(json);
	}
}

/* The loop wakes for itself twice a second and for what the caller leaves to it, so the best of some attempts counts. */
static void check_stays_here(dqlitepy_handle node, const char *sql)
{
	long best = MANY;
	many(node, sql, 100);
	for (int i = 0; i < 10 && best >= MANY / 10; i++) {
		long before = switches("dqlite-loop");
		many(node, sql, MANY);
		long woken = switches("dqlite-loop") - before;
		best = woken < best ? woken : best;
	}
	if (best >= MANY / 10)
		check_fail(__FILE__, __LINE__, "%d times %s woke the engine's thread %ld times", MANY, sql, best);
}

static void nobody_is_woken(void)
{
	const char *dir = memory_dir();
	dqlitepy_handle node = running_node(dir, free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	check_stays_here(node, "SELECT 1");
	/* Under a tool that slows everything down no INSERT is quick. */
	if (!getenv("CHECK_UNDER"))
		check_stays_here(node, "INSERT INTO t VALUES (1)");
	dqlitepy_node_destroy(node);
	remove_dir(dir);
}

/* The threads of queues are the library's own, and do it the same way. */
static void nor_by_queues(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address()), queue = 0, session = 0;
	CHECK_OK(dqlitepy_queue_open(0, &queue));
	CHECK_OK(dqlitepy_session_open(node, "test.db", &session));
	many(node, "SELECT 1", 100);
	long best = MANY;
	for (int i = 0; i < 10 && best >= MANY / 10; i++) {
		long before = switches("dqlite-loop");
		for (uint64_t token = 0; token < MANY; token++)
			CHECK_OK(dqlitepy_queue_session_exec(queue, token, session, "SELECT 1", -1, NULL, 0));
		for (uint64_t token = 0, count = 0; token < MANY; token += count) {
			dqlitepy_completion completion;
			CHECK_OK(dqlitepy_queue_poll(queue, &completion, 1, &count));
			if (count > 0 && (completion.code != DQLITEPY_OK || completion.token != token))
				check_fail(__FILE__, __LINE__, "%llu: %d", (unsigned long long)completion.token, completion.code);
			if (count == 0) {
				struct pollfd entry = { .events = POLLIN };
				CHECK_OK(dqlitepy_queue_fd(queue, &entry.fd));
				CHECK_INT(poll(&entry, 1, 20000), 1);
			}
		}
		long woken = switches("dqlite-loop") - before;
		best = woken < best ? woken : best;
	}
	CHECK(best < MANY / 10);
	CHECK_OK(dqlitepy_queue_close(queue));
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

/* ---- stack ---- */

struct job {
	dqlitepy_handle node;
	const char *sql, *want;
	int times;
	long woken;
};

static void *run_job(void *arg)
{
	struct job *job = arg;
	long before = switches("dqlite-loop");
	for (int i = 0; i < job->times; i++)
		CHECK_JSON(job->node, job->sql, job->want);
	job->woken = switches("dqlite-loop") - before;
	return NULL;
}

static void on_small_stack(struct job *job)
{
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	CHECK_INT(pthread_attr_setstacksize(&attr, SMALL_STACK), 0);
	CHECK_INT(pthread_create(&thread, &attr, run_job, job), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	pthread_attr_destroy(&attr);
}

/* SQLite goes one call deeper for each wildcard: three megabytes. */
#define LIKE(wildcards) \
	"SELECT replace(hex(zeroblob(" wildcards ")), '00', 'a') || 'b' LIKE replace(hex(zeroblob(" wildcards ")), '00', '%a') || 'c' AS n"

static void small_stacks_are_spared(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	struct job plain = { .node = node, .sql = "SELECT 1 AS n", .want = "[{\"n\":1}]", .times = MANY };
	struct job deep = { .node = node, .sql = LIKE("24000"), .want = "[{\"n\":0}]", .times = 10 };
	many(node, plain.sql, 100);
	/* Alike, and quick: the deep one is begun where these are. */
	many(node, LIKE("3"), 100);
	on_small_stack(&deep);
	on_small_stack(&plain);
	/* It may find the next one before it sleeps. */
	CHECK(plain.woken > MANY / 20);
	CHECK_JSON(node, deep.sql, deep.want);
	dqlitepy_node_destroy(node);
}

/* ---- threads that the engine must not wait for ---- */

static void *run_job_nicely(void *arg)
{
	CHECK_INT(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19), 0);
	return run_job(arg);
}

static void nice_threads_are_spared(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	struct job plain = { .node = node, .sql = "SELECT 1 AS n", .want = "[{\"n\":1}]", .times = MANY };
	pthread_t thread;
	many(node, plain.sql, 100);
	CHECK_INT(pthread_create(&thread, NULL, run_job_nicely, &plain), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK(plain.woken > MANY / 20);
	dqlitepy_node_destroy(node);
}

/* ---- arithmetic ---- */

/* A host that rounds upwards and wants to be stopped where a result is infinite: SQL knows nothing of it. */
static void arithmetic_is_the_engines(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	many(node, "SELECT 1.0 / 3.0 AS third, 1e308 * 10 AS much", 100);
	feclearexcept(FE_ALL_EXCEPT);
	CHECK_INT(fesetround(FE_UPWARD), 0);
	CHECK(feenableexcept(FE_DIVBYZERO | FE_OVERFLOW) >= 0);
	for (int i = 0; i < 100; i++)
		CHECK_JSON(node, "SELECT 1.0 / 3.0 AS third, 1e308 * 10 AS much", "[{\"third\":0.3333333333333333,\"much\":9e999}]");
	CHECK_INT(fegetround(), FE_UPWARD);
	CHECK_INT(fegetexcept(), FE_DIVBYZERO | FE_OVERFLOW);
	fedisableexcept(FE_ALL_EXCEPT);
	dqlitepy_node_destroy(node);
}

/* ---- an assertion ---- */

static atomic_bool no_shared_memory;
static atomic_int refused_on;

/* Ours comes before libc's, for the library, too: the index of the log cannot be mapped again, which the engine does not expect. */
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
	if (atomic_load(&no_shared_memory) && (flags & MAP_SHARED) && size == 32768) {
		atomic_store(&refused_on, (int)syscall(SYS_gettid));
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

static void an_assertion_spares_the_caller(void)
{
	const char *dir = memory_dir(), *address = free_address();
	dqlitepy_handle node = running_node(dir, address);
	dqlitepy_handle other = running_node(path_in_test_dir("other"), free_address());
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_EXEC(other, "CREATE TABLE t(a)");
	/* Not every call finds the engine's thread asleep; so there are some attempts, each with a node of its own. */
	bool here = false;
	for (int i = 0; i < 20 && !here; i++) {
		many(node, "INSERT INTO t VALUES (1)", 100);
		atomic_store(&no_shared_memory, true);
		CHECK_EXEC_FAILS(node, "INSERT INTO t VALUES (2)", DQLITEPY_UNKNOWN, "first_region_shared");
		atomic_store(&no_shared_memory, false);
		here = atomic_load(&refused_on) == (int)syscall(SYS_gettid);
		CHECK_EXEC_FAILS(node, "INSERT INTO t VALUES (2)", DQLITEPY_INTERNAL, "is lost");
		CHECK_EXEC(other, "INSERT INTO t VALUES (1)");
		double start = now();
		CHECK_OK(dqlitepy_node_stop(node));
		dqlitepy_node_destroy(node);
		CHECK_WITHIN(start, 5.0);
		node = running_node(dir, address);
		/* What was being applied is in the log, so it is there. */
		char want[60];
		snprintf(want, sizeof want, "[{\"n\":%d}]", i + 1);
		CHECK_JSON(node, "SELECT count(*) AS n FROM t WHERE a = 2", want);
	}
	CHECK(here || getenv("CHECK_UNDER"));
	many(other, "INSERT INTO t VALUES (1)", 100);
	dqlitepy_node_destroy(node);
	dqlitepy_node_destroy(other);
	remove_dir(dir);
}

/* ---- signals ---- */

static atomic_int handled, handled_elsewhere;
static pthread_t host;

static void note(int number)
{
	(void)number;
	atomic_fetch_add(pthread_equal(pthread_self(), host) ? &handled : &handled_elsewhere, 1);
}

static void *send_signals(void *stop)
{
	while (!atomic_load((atomic_bool *)stop)) {
		pthread_kill(host, SIGUSR1);
		usleep(50);
	}
	return NULL;
}

/* None is lost, none runs in a thread of ours, and the mask is the host's again after each call. */
static void signals_stay_the_hosts(void)
{
	dqlitepy_handle node = running_node(path_in_test_dir("node"), free_address());
	struct sigaction action = { .sa_handler = note, .sa_flags = SA_RESTART };
	atomic_bool stop = false;
	sigset_t mask, expected;
	pthread_t sender;
	host = pthread_self();
	sigemptyset(&expected);
	sigaddset(&expected, SIGUSR2);
	CHECK(pthread_sigmask(SIG_SETMASK, &expected, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK_INT(pthread_create(&sender, NULL, send_signals, &stop), 0);
	many(node, "SELECT 1", 20 * MANY);
	atomic_store(&stop, true);
	pthread_join(sender, NULL);
	CHECK(atomic_load(&handled) > 0);
	CHECK_INT(atomic_load(&handled_elsewhere), 0);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (int number = 1; number < 32; number++)
		CHECK_INT(sigismember(&mask, number), number == SIGUSR2);
	dqlitepy_node_destroy(node);
}

/* A member goes while this thread sends it entries. SIGPIPE would end the test. */
static void links_break_in_silence(void)
{
	const char *first = free_address(), *second = free_address(), *dir = memory_dir();
	char other_dir[100];
	snprintf(other_dir, sizeof other_dir, "%s/other", dir);
	dqlitepy_handle node = running_node(dir, first), other = 0, client = 0;
	CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_client_create(first, &client));
	for (int round = 0; round < 5; round++) {
		CHECK_OK(dqlitepy_node_create_with_cluster((dqlitepy_node_id)(2 + round), second, other_dir, first, &other));
		CHECK_OK(dqlitepy_node_start(other));
		many(node, "INSERT INTO t VALUES (1)", 100);
		CHECK_OK(dqlitepy_client_remove(client, (dqlitepy_node_id)(2 + round)));
		many(node, "INSERT INTO t VALUES (1)", 100);
		dqlitepy_node_destroy(other);
		many(node, "INSERT INTO t VALUES (1)", 100);
		remove_dir(other_dir);
	}
	sigset_t pending;
	CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGPIPE));
	dqlitepy_client_close(client);
	dqlitepy_node_destroy(node);
	remove_dir(dir);
}

/* A write beyond the limit for files raises SIGXFSZ in the thread that writes. It would end the test. */
static void limits_break_in_silence(void)
{
	const char *dir = memory_dir();
	dqlitepy_handle node = running_node(dir, free_address());
	struct rlimit before, small;
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	many(node, "INSERT INTO t VALUES (1)", 100);
	CHECK_INT(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = (struct rlimit){ .rlim_cur = 1 << 16, .rlim_max = before.rlim_max };
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &small), 0);
	int rc = DQLITEPY_OK;
	for (int i = 0; i < MANY && rc == DQLITEPY_OK; i++)
		rc = dqlitepy_node_exec(node, "INSERT INTO t VALUES (1)", NULL, NULL);
	CHECK(rc != DQLITEPY_OK);
	CHECK_INT(setrlimit(RLIMIT_FSIZE, &before), 0);
	dqlitepy_node_destroy(node);
	remove_dir(dir);
}

/* ---- the engine's own turn ---- */

struct hammer {
	dqlitepy_handle node;
	atomic_bool *stop;
	const char *sql;
	long calls;
};

static void *hammer(void *arg)
{
	struct hammer *hammer = arg;
	while (!atomic_load(hammer->stop)) {
		many(hammer->node, hammer->sql, 10);
		hammer->calls += 10;
	}
	return NULL;
}

/* Many callers take turns, and yet who comes from outside is served, and heartbeats are. */
static void callers_do_not_keep_the_engine_waiting(void)
{
	enum { THREADS = 8, REMOTE = 200 };
	const char *address = free_address();
	dqlitepy_handle node = running_node(path_in_test_dir("node"), address), session = 0;
	struct hammer hammers[THREADS];
	pthread_t threads[THREADS];
	atomic_bool stop = false;
	CHECK_OK(dqlitepy_session_open_addresses(address, "test.db", &session));
	for (int i = 0; i < THREADS; i++) {
		hammers[i] = (struct hammer){ node, &stop, "SELECT 1", 0 };
		CHECK_INT(pthread_create(&threads[i], NULL, hammer, &hammers[i]), 0);
	}
	double worst = 0;
	for (int i = 0; i < REMOTE; i++) {
		double start = now();
		CHECK_OK(dqlitepy_session_exec(session, "SELECT 1", -1, NULL, NULL));
		worst = now() - start > worst ? now() - start : worst;
	}
	atomic_store(&stop, true);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		CHECK(hammers[i].calls > 0);
	}
	/* A heartbeat may take a second before it is missed. */
	CHECK(worst < 1.0);
	CHECK_OK(dqlitepy_session_close(session));
	dqlitepy_node_destroy(node);
}

/* The node goes while threads are at it: they get errors, and nothing is touched that is not there any more. */
static void stops_under_callers(void)
{
	const char *address = free_address();
	for (int round = 0; round < 20; round++) {
		dqlitepy_handle node = running_node(path_in_test_dir("node"), address);
		pthread_t threads[4];
		for (size_t i = 0; i < 4; i++) {
			extern void *call_until_it_fails(void *);
			CHECK_INT(pthread_create(&threads[i], NULL, call_until_it_fails, &node), 0);
		}
		usleep((useconds_t)(1000 * (round % 5)));
		CHECK_OK(dqlitepy_node_stop(node));
		for (size_t i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
		dqlitepy_node_destroy(node);
	}
}

void *call_until_it_fails(void *node);
void *call_until_it_fails(void *node)
{
	int rc;
	do {
		char *json = NULL;
		rc = dqlitepy_node_query(*(dqlitepy_handle *)node, "SELECT 1", &json);
		dqlitepy_free(json);
	} while (rc == DQLITEPY_OK);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "nobody_is_woken", nobody_is_woken, 0 },
		{ "nor_by_queues", nor_by_queues, 0 },
		{ "small_stacks_are_spared", small_stacks_are_spared, 0 },
		{ "nice_threads_are_spared", nice_threads_are_spared, 0 },
		{ "arithmetic_is_the_engines", arithmetic_is_the_engines, 0 },
		{ "an_assertion_spares_the_caller", an_assertion_spares_the_caller, 60 },
		{ "signals_stay_the_hosts", signals_stay_the_hosts, 0 },
		{ "links_break_in_silence", links_break_in_silence, 60 },
		{ "limits_break_in_silence", limits_break_in_silence, 60 },
		{ "callers_do_not_keep_the_engine_waiting", callers_do_not_keep_the_engine_waiting, 0 },
		{ "stops_under_callers", stops_under_callers, 60 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
