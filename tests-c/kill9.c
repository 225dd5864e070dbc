/*
 * A node is killed with SIGKILL again and again, while it writes and while it starts, always from the state that the
 * last kill left. At every start it is counted what is there: everything acknowledged, once, and transactions whole.
 *   KILL9="ROUNDS SEED" kill9      every fourth round strikes during the start; the report goes to the file KILL9_REPORT
 */
#include "check.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WRITERS = 3 }; /* the last one writes two rows in each transaction */

static const char *node_dir, *node_address;

/* One write, so that a line is whole or not there. */
static void say(const char *what, int writer, long long number, long long count)
{
	char line[100];
	int n = snprintf(line, sizeof line, "%s %d %lld %lld\n", what, writer, number, count);
	if (write(1, line, (size_t)n) != n)
		_exit(3);
}

/* ---- the one that is killed ---- */

/* What the writer has in the table: the highest number, and how many rows. */
static void count_rows(dqlitepy_handle node, int writer, long long *highest, long long *count)
{
	char sql[100], *json = NULL;
	snprintf(sql, sizeof sql, "SELECT ifnull(max(number), 0) AS m, count(*) AS n FROM t WHERE writer = %d", writer);
	CHECK_OK(dqlitepy_node_query(node, sql, &json));
	CHECK_INT(sscanf(json, "[{\"m\":%lld,\"n\":%lld}]", highest, count), 2);
	dqlitepy_free(json);
}

static void *write_for_ever(void *argument)
{
	int writer = (int)(intptr_t)argument;
	long long number = 0, count = 0;
	char sql[300];
	dqlitepy_handle node = 0;
	/* A handle of its own is a session of its own: the writers do not take turns. */
	CHECK_OK(dqlitepy_node_create(1, node_address, node_dir, &node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	count_rows(node, writer, &number, &count);
	for (;;) {
		number++;
		if (writer < WRITERS - 1)
			snprintf(sql, sizeof sql, "INSERT INTO t VALUES(%d, %lld, zeroblob(%lld))", writer, number, number % 400);
		else
			snprintf(sql, sizeof sql, "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d, %lld, 1); INSERT INTO t VALUES(%d, -%lld, 2); COMMIT", writer,
				 number, writer, number);
		/* The engine refuses while it makes a checkpoint; within a transaction nobody repeats that for us. */
		int rc;
		while ((rc = dqlitepy_node_exec(node, sql, NULL, NULL)) == 1005)
			dqlitepy_node_exec(node, "ROLLBACK", NULL, NULL);
		CHECK_RC(rc, 0);
		say("wrote", writer, number, 0);
	}
	return NULL;
}

static int run_victim(const char *dir, const char *address)
{
	pthread_t thread;
	node_dir = dir, node_address = address;
	say("starting", 0, 0, 0);
	dqlitepy_handle node = running_node(dir, address);
	CHECK_EXEC(node, "CREATE TABLE IF NOT EXISTS t(writer, number, filler, UNIQUE(writer, number))");
	for (int writer = 0; writer < WRITERS; writer++) {
		long long highest, count;
		count_rows(node, writer, &highest, &count);
		say("has", writer, highest, count);
	}
	for (intptr_t writer = 0; writer < WRITERS; writer++)
		CHECK(pthread_create(&thread, NULL, write_for_ever, (void *)writer) == 0);
	pause();
	return 0;
}

/* ---- the one that kills ---- */

static long long acknowledged[WRITERS];
static uint64_t state;

static long long random_below(long long limit)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (long long)(state % (uint64_t)limit);
}

/* Takes one line of the victim into account; true if it says that the start is over. */
static int take_in(const char *line)
{
	char what[20];
	int writer;
	long long number, count;
	CHECK_INT(sscanf(line, "%19s %d %lld %lld", what, &writer, &number, &count), 4);
	if (strcmp(what, "wrote") == 0) {
		CHECK_INT(number, acknowledged[writer] + 1);
		acknowledged[writer] = number;
	}
	if (strcmp(what, "has") == 0) {
		/* One more may have been written that nobody was told of. */
		if (number != acknowledged[writer] && number != acknowledged[writer] + 1)
			check_fail(__FILE__, __LINE__, "writer %d has %lld, but %lld were acknowledged", writer, number, acknowledged[writer]);
		CHECK_INT(count, writer < WRITERS - 1 ? number : 2 * number);
		acknowledged[writer] = number;
		return writer == WRITERS - 1;
	}
	return 0;
}

static void pause_for(long long microseconds)
{
	struct timespec time = { .tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000 };
	nanosleep(&time, NULL);
}

/* Kills once; true if that was during the start. `longest` is what a start may take, in seconds. */
static int round_of(const char *dir, const char *address, int during_start, double *longest)
{
	struct helper victim = start_helper((const char *const[]){ "victim", dir, address, NULL });
	int started = 0;
	take_in(helper_line(&victim, 20));
	double began = now();
	if (!during_start) {
		while (!started)
			started = take_in(helper_line(&victim, 20));
		if (now() - began > *longest)
			*longest = now() - began;
		for (long long lines = random_below(150); lines > 0; lines--)
			take_in(helper_line(&victim, 20));
	}
	pause_for(random_below(during_start ? 20000 : 3000));
	kill(victim.pid, SIGKILL);
	/* What is still in the pipe was said, too. */
	FILE *rest = fdopen(victim.out, "r");
	for (char line[200]; fgets(line, sizeof line, rest) && strchr(line, '\n');)
		started |= take_in(line);
	fclose(rest);
	close(victim.in);
	CHECK_INT(wait_for_exit(victim.pid, 20), -SIGKILL);
	return !started;
}

static int rounds_wanted = 10;
static unsigned long seed = 1;

static void kill_again_and_again(void)
{
	const char *dir = path_in_test_dir("node"), *address = free_address();
	int starting = 0;
	double began = now(), longest = 0;
	long long writes = 0;
	state = seed * 0x9e3779b97f4a7c15 + 1;
	for (int round = 0; round < rounds_wanted; round++)
		starting += round_of(dir, address, round % 4 == 3, &longest);
	/* And a last look. */
	double lasts = 0;
	rounds_wanted++;
	round_of(dir, address, 0, &lasts);
	for (int writer = 0; writer < WRITERS; writer++)
		writes += acknowledged[writer] * (writer < WRITERS - 1 ? 1 : 2);
	FILE *report = fopen(getenv("KILL9_REPORT") ? getenv("KILL9_REPORT") : "/dev/null", "w");
	fprintf(report, "kill9: %d kills, %d of them during the start; %lld rows acknowledged: none lost, doubled or torn; longest start %.0f ms; seed %lu, %.0f s\n",
		rounds_wanted, starting, writes, longest * 1000, seed, now() - began);
	fclose(report);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = { { "kill_again_and_again", kill_again_and_again, 36000 }, { NULL, NULL, 0 } };
	if (argc == 5 && strcmp(argv[1], "--helper") == 0)
		return run_victim(argv[3], argv[4]);
	if (getenv("KILL9"))
		sscanf(getenv("KILL9"), "%d %lu", &rounds_wanted, &seed);
	return check_main(argc, argv, tests);
}
