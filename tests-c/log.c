/* The log callback: what it is told, and that it is not called once it was removed. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What a callback has heard. */
struct heard {
	atomic_int calls;
	atomic_int inside;
	atomic_int closed; /* no call may come any more */
	atomic_int faults;
	char all[20000]; /* one line a message: its level and its text */
};

static void listen_to(void *data, int level, const char *message)
{
	struct heard *heard = data;
	size_t used = strlen(heard->all);
	if (atomic_fetch_add(&heard->inside, 1) != 0 || atomic_load(&heard->closed))
		atomic_fetch_add(&heard->faults, 1);
	snprintf(heard->all + used, sizeof heard->all - used, "%d %s\n", level, message);
	atomic_fetch_add(&heard->calls, 1);
	atomic_fetch_sub(&heard->inside, 1);
}

static int was_called(void *heard)
{
	return atomic_load(&((struct heard *)heard)->calls) > 0;
}

static dqlitepy_handle started(const char *name)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir(name), &node));
	CHECK_OK(dqlitepy_node_start(node));
	return node;
}

static void life_of_a_node(void)
{
	static struct heard heard;
	CHECK_OK(dqlitepy_set_log_callback(listen_to, &heard));
	dqlitepy_handle node = started("told");
	CHECK_OK(dqlitepy_node_stop(node));
	dqlitepy_node_destroy(node);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL)); /* what was logged until here has been told */
	atomic_store(&heard.closed, 1);
	CHECK_HAS(heard.all, "2 node 1 at ");
	CHECK_HAS(heard.all, "started");
	CHECK_HAS(heard.all, "stop");
	CHECK_HAS(heard.all, path_in_test_dir("told"));
	int calls = atomic_load(&heard.calls);
	dqlitepy_node_destroy(started("not told"));
	CHECK_INT(atomic_load(&heard.calls), calls);
	CHECK_INT(atomic_load(&heard.faults), 0);
}

static void remove_without_a_callback(void)
{
	for (int i = 0; i < 3; i++)
		CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
}

static void another_one_takes_its_place(void)
{
	static struct heard first, second;
	CHECK_OK(dqlitepy_set_log_callback(listen_to, &first));
	CHECK_OK(dqlitepy_set_log_callback(listen_to, &second));
	atomic_store(&first.closed, 1);
	dqlitepy_handle node = started("node");
	WAIT_UNTIL(5, was_called, &second);
	dqlitepy_node_destroy(node);
	CHECK_OK(dqlitepy_set_log_callback(NULL, &second));
	CHECK_INT(atomic_load(&first.calls), 0);
	CHECK_INT(atomic_load(&second.faults), 0);
}

static void removes_itself(void *data, int level, const char *message)
{
	listen_to(data, level, message);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	atomic_store(&((struct heard *)data)->closed, 1);
}

static void removal_from_inside(void)
{
	static struct heard heard;
	CHECK_OK(dqlitepy_set_log_callback(removes_itself, &heard));
	dqlitepy_handle node = started("node");
	WAIT_UNTIL(5, was_called, &heard);
	dqlitepy_node_destroy(node);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	CHECK_INT(atomic_load(&heard.calls), 1);
	CHECK_INT(atomic_load(&heard.faults), 0);
}

static atomic_int slow_is_inside;
static atomic_int slow_has_left;

static void slow(void *data, int level, const char *message)
{
	(void)data, (void)level, (void)message;
	atomic_store(&slow_is_inside, 1);
	usleep(300000);
	atomic_store(&slow_has_left, 1);
}

static int is_set(void *flag)
{
	return atomic_load((atomic_int *)flag);
}

/* A slow callback holds up the removal and nothing else. */
static void removal_waits_for_the_call_in_progress(void)
{
	CHECK_OK(dqlitepy_set_log_callback(slow, NULL));
	dqlitepy_handle node = started("node");
	WAIT_UNTIL(5, is_set, &slow_is_inside);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	CHECK(atomic_load(&slow_has_left));
	dqlitepy_node_destroy(node);
}

static atomic_int called_back;

static void calls_the_library(void *data, int level, const char *message)
{
	dqlitepy_handle node = *(dqlitepy_handle *)data;
	char *json = NULL;
	(void)level, (void)message;
	if (node && atomic_exchange(&called_back, 1) == 0) {
		CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
		CHECK_OK(dqlitepy_node_query(node, "SELECT 1", &json));
		dqlitepy_free(json);
		CHECK_RC(dqlitepy_node_start(node), DQLITEPY_MISUSE);
	}
}

static void the_callback_may_call_the_library(void)
{
	static dqlitepy_handle node;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_set_log_callback(calls_the_library, &node));
	dqlitepy_node_destroy(started("other")); /* something to tell */
	WAIT_UNTIL(5, is_set, &called_back);
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	dqlitepy_node_destroy(node);
}

static atomic_int stop_setting;

static void *keep_setting(void *heard)
{
	while (!atomic_load(&stop_setting)) {
		CHECK_OK(dqlitepy_set_log_callback(listen_to, heard));
		CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
	}
	return NULL;
}

static void set_and_removed_by_threads_while_nodes_live(void)
{
	enum { THREADS = 4 };
	static struct heard heard[THREADS];
	pthread_t threads[THREADS];
	char name[20];
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, keep_setting, &heard[i]) == 0);
	for (int i = 0; i < 5; i++) {
		snprintf(name, sizeof name, "node%d", i);
		dqlitepy_node_destroy(started(name));
	}
	atomic_store(&stop_setting, 1);
	for (int i = 0; i < THREADS; i++) {
		CHECK(pthread_join(threads[i], NULL) == 0);
		CHECK_INT(atomic_load(&heard[i].faults), 0);
	}
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "life_of_a_node", life_of_a_node, 0 },
		{ "remove_without_a_callback", remove_without_a_callback, 0 },
		{ "another_one_takes_its_place", another_one_takes_its_place, 0 },
		{ "removal_from_inside", removal_from_inside, 0 },
		{ "removal_waits_for_the_call_in_progress", removal_waits_for_the_call_in_progress, 0 },
		{ "the_callback_may_call_the_library", the_callback_may_call_the_library, 0 },
		{ "set_and_removed_by_threads_while_nodes_live", set_and_removed_by_threads_while_nodes_live, 0 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
