/* Clusters of nodes of one process: the options that shape them, and the addresses by which they find each other. */
#include "check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 9 };

struct cluster {
	int size;
	const char *addresses[MOST];
	char list[MOST * 40];
	dqlitepy_handle nodes[MOST]; /* node i has the id i + 1; 0 = destroyed */
	dqlitepy_handle client;
};

static struct cluster cluster;

/* A node that does not run yet. */
static dqlitepy_handle made(int i)
{
	char name[20];
	dqlitepy_handle node = 0;
	snprintf(name, sizeof name, "node%d", i + 1);
	CHECK_OK(dqlitepy_node_create_with_cluster((unsigned)i + 1, cluster.addresses[i], path_in_test_dir(name), cluster.list, &node));
	return node;
}

static void start(int i, void (*configure)(dqlitepy_handle node, int i))
{
	cluster.nodes[i] = made(i);
	if (configure)
		configure(cluster.nodes[i], i);
	CHECK_OK(dqlitepy_node_start(cluster.nodes[i]));
}

/* So many members, none of which runs yet. */
static void list_all(int size)
{
	cluster.size = size;
	for (int i = 0; i < size; i++) {
		if (!cluster.addresses[i])
			cluster.addresses[i] = free_address();
		strcat(strcat(cluster.list, i ? "," : ""), cluster.addresses[i]);
	}
	CHECK_OK(dqlitepy_client_create(cluster.list, &cluster.client));
}

static void start_all(int size, void (*configure)(dqlitepy_handle node, int i))
{
	list_all(size);
	for (int i = 0; i < size; i++)
		start(i, configure);
}

static void end_all(void)
{
	for (int i = 0; i < cluster.size; i++)
		dqlitepy_node_destroy(cluster.nodes[i]);
	CHECK_OK(dqlitepy_client_close(cluster.client));
}

/* The role of each node by its number, -1 for no member; 0 if nobody says it. */
static int ask_roles(int roles[MOST])
{
	char *json = NULL;
	if (dqlitepy_client_cluster(cluster.client, &json) != DQLITEPY_OK)
		return 0;
	for (int i = 0; i < MOST; i++) {
		char start[30];
		snprintf(start, sizeof start, "{\"id\": %d,", i + 1);
		const char *member = strstr(json, start);
		const char *role = member ? strstr(member, "\"role\":") : NULL;
		roles[i] = role ? atoi(role + strlen("\"role\":")) : -1;
	}
	dqlitepy_free(json);
	return 1;
}

static int count(const int roles[MOST], int role)
{
	int n = 0;
	for (int i = 0; i < MOST; i++)
		n += roles[i] == role;
	return n;
}

struct mix {
	int voters, standbys, spares;
};

static int is_mixed(void *data)
{
	const struct mix *want = data;
	int roles[MOST];
	return ask_roles(roles) && count(roles, DQLITEPY_VOTER) == want->voters &&
	       count(roles, DQLITEPY_STANDBY) == want->standbys && count(roles, DQLITEPY_SPARE) == want->spares;
}

/* The number of the node that leads. */
static int leader(void)
{
	char *address = NULL;
	CHECK_OK(dqlitepy_client_leader(cluster.client, &address));
	for (int i = 0; i < cluster.size; i++) {
		if (!strcmp(address, cluster.addresses[i])) {
			dqlitepy_free(address);
			return i;
		}
	}
	check_fail(__FILE__, __LINE__, "%s leads and is no node", address);
}

/* What the log callback has heard. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char heard[1 << 20];

static void listen_to(void *data, int level, const char *message)
{
	(void)data;
	pthread_mutex_lock(&lock);
	size_t used = strlen(heard);
	snprintf(heard + used, sizeof heard - used, "%d %s\n", level, message);
	pthread_mutex_unlock(&lock);
}

static void forget_heard(void)
{
	pthread_mutex_lock(&lock);
	heard[0] = 0;
	pthread_mutex_unlock(&lock);
}

static int was_heard(void *part)
{
	pthread_mutex_lock(&lock);
	int found = strstr(heard, part) != NULL;
	pthread_mutex_unlock(&lock);
	return found;
}

static void options_are_checked(void)
{
	dqlitepy_handle node = 0, client = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir("node"), &node));
	CHECK_RC(dqlitepy_node_set_voters(node, 0), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("0 voters");
	CHECK_RC(dqlitepy_node_set_snapshot_params(node, 0, 100, DQLITEPY_TRAILING_STATIC), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("every 0 entries");
	CHECK_RC(dqlitepy_node_set_snapshot_params(node, 2, 3, DQLITEPY_TRAILING_STATIC), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("3 entries");
	CHECK_RC(dqlitepy_node_set_snapshot_params(node, 101, 100, DQLITEPY_TRAILING_DYNAMIC), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("101");
	CHECK_RC(dqlitepy_node_set_snapshot_params(node, 10, 100, 2), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("strategy 2");
	static const unsigned sizes[] = { 0, 1, 256, 513, 4095, 524288 };
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char text[30];
		CHECK_RC(dqlitepy_node_set_block_size(node, sizes[i]), DQLITEPY_INVALID);
		snprintf(text, sizeof text, "block size %u ", sizes[i]);
		CHECK_ERROR_HAS(text);
	}
	CHECK_RC(dqlitepy_node_set_bootstrap(node, -1), DQLITEPY_INVALID);
	CHECK_RC(dqlitepy_node_set_bootstrap(node, 3), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("bootstrap mode 3");
	CHECK_OK(dqlitepy_node_set_bootstrap(node, DQLITEPY_BOOTSTRAP_NEVER));
	CHECK_RC(dqlitepy_node_start(node), DQLITEPY_INVALID);
	CHECK_ERROR_HAS("never founds a cluster");
	CHECK_OK(dqlitepy_node_set_bootstrap(node, DQLITEPY_BOOTSTRAP_FORCE));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_RC(dqlitepy_node_set_bootstrap(node, DQLITEPY_BOOTSTRAP_AUTO), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_voters(node, 3), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_standbys(node, 3), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_failure_domain(node, 3), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_weight(node, 3), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_snapshot_params(node, 100, 100, DQLITEPY_TRAILING_STATIC), DQLITEPY_MISUSE);
	CHECK_RC(dqlitepy_node_set_block_size(node, 4096), DQLITEPY_MISUSE);
	CHECK_ERROR_HAS("is running");
	CHECK_RC(dqlitepy_client_set_timeout(node, 100), DQLITEPY_INVALID);
	dqlitepy_node_destroy(node);
	CHECK_OK(dqlitepy_client_create(free_address(), &client));
	CHECK_RC(dqlitepy_node_set_voters(client, 3), DQLITEPY_INVALID);
	CHECK_OK(dqlitepy_client_set_timeout(client, 0));
	CHECK_OK(dqlitepy_client_close(client));
	CHECK_RC(dqlitepy_client_set_timeout(client, 100), DQLITEPY_NOTFOUND);
}

static void client_timeout(void)
{
	const char *address = free_address();
	dqlitepy_handle client = 0;
	char *text = NULL;
	int silent = tcp_listen(address); /* somebody who never answers */
	CHECK(silent >= 0);
	CHECK_OK(dqlitepy_client_create(address, &client));
	CHECK_OK(dqlitepy_client_set_timeout(client, 300));
	double begun = now();
	CHECK_RC(dqlitepy_client_leader(client, &text), DQLITEPY_NOLEADER);
	CHECK_WITHIN(begun, 1.5);
	CHECK_OK(dqlitepy_client_close(client));
}

static int snapshot_is_there(void *data)
{
	char command[600];
	(void)data;
	snprintf(command, sizeof command, "ls %s/snapshot-*-*-*[0-9] > /dev/null 2>&1", path_in_test_dir("node"));
	return system(command) == 0;
}

static void write_rows(dqlitepy_handle node, int n)
{
	for (int i = 0; i < n; i++)
		CHECK_EXEC(node, "INSERT INTO t VALUES(1)");
}

static void snapshot_threshold(void)
{
	dqlitepy_handle node = 0;
	const char *address = free_address();
	CHECK_OK(dqlitepy_node_create(1, address, path_in_test_dir("node"), &node));
	CHECK_OK(dqlitepy_node_set_snapshot_params(node, 100, 200, DQLITEPY_TRAILING_STATIC));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	write_rows(node, 80);
	CHECK(!snapshot_is_there(NULL));
	write_rows(node, 30);
	WAIT_UNTIL(5, snapshot_is_there, NULL);
	dqlitepy_node_destroy(node);
	node = running_node(path_in_test_dir("node"), address); /* read by a node that has other options */
	CHECK_JSON(node, "SELECT count(*) AS n FROM t", "[{\"n\":110}]");
	dqlitepy_node_destroy(node);
}

/* What this process has sent to the disk or written, in bytes. */
static long long written(void)
{
	long long wchar = 0, write_bytes = 0;
	char line[100];
	FILE *f = fopen("/proc/self/io", "r");
	if (!f)
		check_skip("/proc/self/io cannot be read");
	while (fgets(line, sizeof line, f)) {
		sscanf(line, "wchar: %lld", &wchar);
		sscanf(line, "write_bytes: %lld", &write_bytes);
	}
	fclose(f);
	return wchar > write_bytes ? wchar : write_bytes;
}

static long long written_for_50_rows(const char *dir, unsigned block_size)
{
	dqlitepy_handle node = 0;
	CHECK_OK(dqlitepy_node_create(1, free_address(), path_in_test_dir(dir), &node));
	CHECK_OK(dqlitepy_node_set_block_size(node, block_size));
	CHECK_OK(dqlitepy_node_start(node));
	CHECK_OK(dqlitepy_node_open_db(node, "test.db"));
	CHECK_EXEC(node, "CREATE TABLE t(a)");
	long long before = written();
	write_rows(node, 50);
	long long after = written();
	dqlitepy_node_destroy(node);
	return after - before;
}

static void block_size(void)
{
	long long small = written_for_50_rows("small", 4096), large = written_for_50_rows("large", 262144);
	if (large < 50 * 262144LL || large < 4 * small)
		check_fail(__FILE__, __LINE__, "50 rows: %lld bytes in blocks of 4096, %lld in blocks of 262144", small, large);
}

static void three_and_one(dqlitepy_handle node, int i)
{
	(void)i;
	CHECK_OK(dqlitepy_node_set_voters(node, 3));
	CHECK_OK(dqlitepy_node_set_standbys(node, 1));
}

static void voters_and_standbys(void)
{
	struct mix want = { 3, 1, 1 };
	start_all(5, three_and_one);
	WAIT_UNTIL(20, is_mixed, &want);
	end_all();
}

static void five_voters(dqlitepy_handle node, int i)
{
	(void)i;
	CHECK_OK(dqlitepy_node_set_voters(node, 5));
	CHECK_OK(dqlitepy_node_set_standbys(node, 0));
}

static void all_vote(void)
{
	struct mix want = { 5, 0, 0 };
	start_all(5, five_voters);
	WAIT_UNTIL(20, is_mixed, &want);
	end_all();
}

static void one_and_one(dqlitepy_handle node, int i)
{
	(void)i;
	CHECK_OK(dqlitepy_node_set_voters(node, 1));
	CHECK_OK(dqlitepy_node_set_standbys(node, 1));
}

static long long applied(int i)
{
	char *json = NULL;
	CHECK_OK(dqlitepy_node_metrics(cluster.nodes[i], DQLITEPY_METRICS_JSON, &json));
	const char *family = strstr(json, "\"dqlitepy_node_applied_index\""), *value = family ? strstr(family, "\"value\":") : NULL;
	CHECK(value != NULL);
	long long index = atoll(value + strlen("\"value\":"));
	dqlitepy_free(json);
	return index;
}

static int second_has_applied(void *index)
{
	return applied(1) >= *(long long *)index;
}

/* A leader with a copy: the second node has the data and no vote. */
static void one_voter_of_two(void)
{
	struct mix want = { 1, 1, 0 };
	start_all(2, one_and_one);
	WAIT_UNTIL(20, is_mixed, &want);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_EXEC(cluster.nodes[0], "CREATE TABLE t(a)");
	write_rows(cluster.nodes[0], 20);
	long long written = applied(0);
	CHECK(written >= 21);
	WAIT_UNTIL(5, second_has_applied, &written);
	CHECK(is_mixed(&want));
	end_all();
}

/* By then the leader has looked whether the roles fit, and found no change. The engine's own management would take the
 * second vote away within a second. */
static int heard_of_two_voters(void *data)
{
	int roles[MOST];
	CHECK(!ask_roles(roles) || (roles[0] == DQLITEPY_VOTER && roles[1] == DQLITEPY_VOTER));
	(void)data;
	return was_heard((void *)"3 the cluster has 2 voters");
}

static void two_voters_stay_and_are_warned_of(void)
{
	struct mix want = { 2, 0, 0 };
	CHECK_OK(dqlitepy_set_log_callback(listen_to, NULL));
	start_all(2, NULL);
	WAIT_UNTIL(10, is_mixed, &want);
	WAIT_UNTIL(15, heard_of_two_voters, NULL);
	end_all();
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
}

/* Without it from now on: the data is there, and every write has its majority. */
static void leave(int i)
{
	dqlitepy_node_destroy(cluster.nodes[i]);
	cluster.nodes[i] = 0;
}

/* The lead and the vote go to others: a stand-by votes, and whoever leaves is a spare until the next leader looks. */
static void handover_to_a_standby(void)
{
	struct mix want = { 3, 1, 0 };
	int before[MOST], after[MOST], heir = 0;
	start_all(4, three_and_one);
	WAIT_UNTIL(20, is_mixed, &want);
	CHECK(ask_roles(before));
	while (before[heir] != DQLITEPY_STANDBY)
		heir++;
	int leaves = leader();
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[heir], "test.db"));
	CHECK_EXEC(cluster.nodes[heir], "CREATE TABLE t(a); INSERT INTO t VALUES('before')");
	CHECK_OK(dqlitepy_node_handover(cluster.nodes[leaves]));
	CHECK(leader() != leaves);
	CHECK(ask_roles(after));
	CHECK_INT(after[heir], DQLITEPY_VOTER);
	CHECK(after[leaves] == DQLITEPY_SPARE || after[leaves] == DQLITEPY_STANDBY);
	CHECK_INT(count(after, DQLITEPY_VOTER), 3);
	leave(leaves);
	CHECK_EXEC(cluster.nodes[heir], "INSERT INTO t VALUES('after')");
	/* Of the three that vote now one more may go, so the stand-by has it all. */
	for (int i = 0, gone = 0; i < 4 && !gone; i++)
		if ((gone = i != heir && i != leaves))
			leave(i);
	CHECK_JSON(cluster.nodes[heir], "SELECT a FROM t ORDER BY rowid", "[{\"a\":\"before\"},{\"a\":\"after\"}]");
	end_all();
}

/* Of two voters the one that stays goes on alone, whoever led. */
static void handover_of_one_of_two(int by_leader)
{
	struct mix want = { 2, 0, 0 };
	int roles[MOST];
	start_all(2, NULL);
	WAIT_UNTIL(20, is_mixed, &want);
	int leaves = by_leader ? leader() : 1 - leader(), stays = 1 - leaves;
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[stays], "test.db"));
	CHECK_EXEC(cluster.nodes[stays], "CREATE TABLE t(a)");
	CHECK_OK(dqlitepy_node_handover(cluster.nodes[leaves]));
	CHECK_INT(leader(), stays);
	CHECK(ask_roles(roles));
	CHECK_INT(roles[leaves], DQLITEPY_SPARE);
	leave(leaves);
	CHECK_EXEC(cluster.nodes[stays], "INSERT INTO t VALUES(1)");
	CHECK_INT(leader(), stays);
	end_all();
}

static void handover_of_the_leader_of_two(void)
{
	handover_of_one_of_two(1);
}

static void handover_of_the_follower_of_two(void)
{
	handover_of_one_of_two(0);
}

/* The first three in one place, the others in two further ones; of the first three the last is the lightest. */
static const unsigned long long domains[] = { 1, 1, 1, 7, 18446744073709551615ULL };

static void in_domains(dqlitepy_handle node, int i)
{
	CHECK_OK(dqlitepy_node_set_failure_domain(node, domains[i]));
	CHECK_OK(dqlitepy_node_set_weight(node, (unsigned)(10 - i)));
	CHECK_OK(dqlitepy_node_set_standbys(node, 0));
}

static int is_spread(void *data)
{
	int roles[MOST];
	(void)data;
	return ask_roles(roles) && count(roles, DQLITEPY_VOTER) == 3 && roles[3] == DQLITEPY_VOTER && roles[4] == DQLITEPY_VOTER;
}

static void failure_domains(void)
{
	start_all(5, in_domains);
	for (int i = 0; i < 5; i++) {
		unsigned long long domain = 0, weight = 0;
		CHECK_OK(dqlitepy_client_describe(cluster.client, cluster.addresses[i], &domain, &weight));
		CHECK(domain == domains[i] && weight == (unsigned)(10 - i));
	}
	WAIT_UNTIL(25, is_spread, NULL);
	end_all();
}

static void weighted(dqlitepy_handle node, int i)
{
	static const unsigned weights[] = { 0, 0, 0, 9, 5 };
	CHECK_OK(dqlitepy_node_set_weight(node, weights[i]));
	CHECK_OK(dqlitepy_node_set_standbys(node, 0));
}

static int fifth_votes(void *data)
{
	int roles[MOST];
	(void)data;
	return ask_roles(roles) && roles[4] == DQLITEPY_VOTER && count(roles, DQLITEPY_VOTER) == 3;
}

/* When a voter is gone, the lighter one of the others takes its place. */
static void weights(void)
{
	struct mix want = { 3, 0, 2 };
	int roles[MOST];
	start_all(5, weighted);
	WAIT_UNTIL(20, is_mixed, &want);
	CHECK(ask_roles(roles) && roles[3] == DQLITEPY_SPARE && roles[4] == DQLITEPY_SPARE);
	int gone = leader() == 1 ? 2 : 1;
	dqlitepy_node_destroy(cluster.nodes[gone]);
	cluster.nodes[gone] = 0;
	WAIT_UNTIL(25, fifth_votes, NULL);
	end_all();
}

static void often(dqlitepy_handle node, int i)
{
	(void)i;
	CHECK_OK(dqlitepy_node_set_snapshot_params(node, 20, 30, DQLITEPY_TRAILING_STATIC));
}

static int third_leads(void *data)
{
	(void)data;
	/* It may still have to become a voter, and the lead may move on by itself. */
	return dqlitepy_client_transfer(cluster.client, 3) == DQLITEPY_OK && leader() == 2;
}

/* 6 MB, of which the log holds the end only: a member that comes is sent a snapshot, and says how far it is. */
static void snapshot_for_a_member(void)
{
	CHECK_OK(dqlitepy_set_log_callback(listen_to, NULL));
	list_all(3);
	start(0, often);
	start(1, often);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_EXEC(cluster.nodes[0], "CREATE TABLE t(a)");
	for (int i = 0; i < 90; i++)
		CHECK_EXEC(cluster.nodes[0], i < 10 ? "INSERT INTO t VALUES(randomblob(600000))" : "INSERT INTO t VALUES('x')");
	CHECK(!was_heard((void *)"atching up"));
	start(2, often);
	WAIT_UNTIL(10, was_heard, (void *)"catching up: received 0 of 6 MB of a snapshot");
	WAIT_UNTIL(10, was_heard, (void *)"catching up: received 6 of 6 MB of a snapshot");
	WAIT_UNTIL(10, was_heard, (void *)"node 3 catches up: it has all of a snapshot and installs it (6 of 6 MB)");
	WAIT_UNTIL(10, was_heard, (void *)"node 3 has caught up");
	WAIT_UNTIL(10, was_heard, (void *)"a snapshot of 6 MB is installed");
	WAIT_UNTIL(20, third_leads, NULL);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[2], "test.db"));
	CHECK_JSON(cluster.nodes[2], "SELECT count(*) AS n, sum(length(a)) AS bytes FROM t", "[{\"n\":90,\"bytes\":6000080}]");
	end_all();
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
}

static int starts(void *node)
{
	int rc = dqlitepy_node_start(*(dqlitepy_handle *)node);
	return rc == DQLITEPY_OK || rc == DQLITEPY_MISUSE; /* it runs already */
}

/* A cluster of three works: the third has what the first wrote, which shows when it leads. */
static void check_cluster(void)
{
	struct mix want = { 3, 0, 0 };
	WAIT_UNTIL(20, is_mixed, &want);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_EXEC(cluster.nodes[0], "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES('from 1')");
	WAIT_UNTIL(20, third_leads, NULL);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[2], "test.db"));
	CHECK_JSON(cluster.nodes[2], "SELECT DISTINCT a FROM t", "[{\"a\":\"from 1\"}]");
	CHECK_EXEC(cluster.nodes[0], "INSERT INTO t VALUES('from 1')"); /* forwarded to the third */
}

/* A free port at an address of the loopback network where other tests listen too. */
static int free_port(int family)
{
	struct sockaddr_storage any = { .ss_family = (sa_family_t)family };
	socklen_t length = family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (family == AF_INET6)
		((struct sockaddr_in6 *)&any)->sin6_addr = in6addr_loopback;
	else
		((struct sockaddr_in *)&any)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&any, length) != 0)
		check_skip("no port at the loopback address of family %d: %s", family, strerror(errno));
	CHECK(getsockname(fd, (struct sockaddr *)&any, &length) == 0);
	close(fd);
	return ntohs(family == AF_INET6 ? ((struct sockaddr_in6 *)&any)->sin6_port : ((struct sockaddr_in *)&any)->sin_port);
}

static const char *text_of(const char *format, const char *host, int port)
{
	char *text = malloc(60);
	snprintf(text, 60, format, host, port);
	return text;
}

static void localhost(void)
{
	for (int i = 0; i < 3; i++)
		cluster.addresses[i] = text_of("%s:%d", "localhost", free_port(AF_INET));
	start_all(3, NULL);
	check_cluster();
	end_all();
}

static void ipv6(void)
{
	for (int i = 0; i < 3; i++)
		cluster.addresses[i] = text_of("[%s]:%d", "::1", free_port(AF_INET6));
	start_all(3, NULL);
	check_cluster();
	end_all();
}

static void write_hosts(const char *path, const char *first, const char *third)
{
	FILE *f = fopen(path, "w");
	CHECK(f != NULL);
	fprintf(f, "%s one.test two.test\n%s three.test\n", first, third);
	fclose(f);
}

/* Members are known by name; one moves to another host, and the others find it there. */
static void a_name_moves(void)
{
	static const char *const names[] = { "one.test", "two.test", "three.test" };
	const char *hosts = path_in_test_dir("hosts"), *address = free_address();
	char host[40], other[40];
	snprintf(host, sizeof host, "%.*s", (int)(strchr(address, ':') - address), address);
	snprintf(other, sizeof other, "127.63%s", strchr(strchr(host, '.') + 1, '.'));
	write_hosts(hosts, host, host);
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount(hosts, "/etc/hosts", NULL, MS_BIND, NULL) != 0)
		check_skip("no mount namespace here: %s", strerror(errno));
	for (int i = 0; i < 3; i++)
		cluster.addresses[i] = text_of("%s:%d", names[i], atoi(strchr(free_address(), ':') + 1));
	start_all(3, NULL);
	check_cluster();

	dqlitepy_node_destroy(cluster.nodes[2]);
	write_hosts(hosts, host, other);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_EXEC(cluster.nodes[0], "INSERT INTO t VALUES('from 1')");
	start(2, NULL);
	close(tcp_connect(text_of("%s:%d", other, atoi(strchr(cluster.addresses[2], ':') + 1))));
	check_cluster();
	end_all();
}

static void on_all_interfaces(dqlitepy_handle node, int i)
{
	(void)i;
	CHECK_OK(dqlitepy_node_set_bind_address(node, "0.0.0.0:0")); /* with the address's port */
}

static void bind_address_of_members(void)
{
	const char *address = free_address();
	char host[40];
	snprintf(host, sizeof host, "%.*s", (int)(strchr(address, ':') - address), address);
	for (int i = 0; i < 3; i++)
		cluster.addresses[i] = text_of("%s:%d", host, free_port(AF_INET)); /* free at every address */
	start_all(3, on_all_interfaces);
	for (int i = 0; i < 3; i++)
		close(tcp_connect(text_of("%s%d", "127.0.0.1:", atoi(strchr(cluster.addresses[i], ':') + 1))));
	check_cluster();
	end_all();
}

/* The third member's port is the kernel's choice, and stays. The others learn of it when it joins. */
static void port_zero_joins(void)
{
	char listed[60];
	list_all(2);
	const char *address = free_address();
	snprintf(listed, sizeof listed, "%.*s:0", (int)(strchr(address, ':') - address), address);
	start(0, NULL);
	start(1, NULL);
	for (int round = 0; round < 2; round++) {
		char *json = NULL;
		cluster.addresses[2] = listed;
		start(2, NULL);
		CHECK_OK(dqlitepy_client_cluster(cluster.client, &json));
		char *member = strstr(json, "{\"id\": 3, \"address\": \"");
		CHECK(member != NULL);
		char *real = member + strlen("{\"id\": 3, \"address\": \"");
		*strchr(real, '"') = 0;
		CHECK(strstr(real, ":0") == NULL && (round == 0 || atoi(strchr(real, ':') + 1) == atoi(strchr(address, ':') + 1)));
		close(tcp_connect(real));
		cluster.addresses[2] = address = strdup(real);
		cluster.size = 3;
		dqlitepy_free(json);
		check_cluster();
		dqlitepy_node_destroy(cluster.nodes[2]);
		cluster.nodes[2] = 0;
	}
	end_all();
}

/* The third writes no snapshots: one that comes meanwhile would be sent again half a minute later. */
static void keeps_all(dqlitepy_handle node, int i)
{
	if (i < 2)
		CHECK_OK(dqlitepy_node_set_snapshot_params(node, 4, 200, DQLITEPY_TRAILING_STATIC));
}

static void keeps_what_weighs_less(dqlitepy_handle node, int i)
{
	if (i < 2)
		CHECK_OK(dqlitepy_node_set_snapshot_params(node, 4, 200, DQLITEPY_TRAILING_DYNAMIC));
}

static int third_has_applied(void *index)
{
	return applied(2) >= *(long long *)index;
}

/* Two snapshots of the first hold that entry: when the second one began, the log behind the first was dropped. Each look
 * writes once more, as only that begins a snapshot. */
static int snapshots_have(void *index)
{
	int found = 0;
	DIR *dir = opendir(path_in_test_dir("node1"));
	CHECK(dir != NULL);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		long long term, last;
		const char *end = strrchr(entry->d_name, '.');
		found += end && !strcmp(end, ".meta") && sscanf(entry->d_name, "snapshot-%lld-%lld-", &term, &last) == 2 &&
			 last >= *(long long *)index;
	}
	closedir(dir);
	if (found < 2)
		CHECK_EXEC(cluster.nodes[0], "UPDATE t SET a = randomblob(600000)");
	return found >= 2;
}

/* The third is away while the same 600 KB are written 30 times over and more, with a snapshot after each four.
 * In memory that is the database and a WAL of up to 4 MB. Returns when it has them. */
static void catch_up(void (*configure)(dqlitepy_handle node, int i))
{
	struct mix want = { 3, 0, 0 };
	start_all(3, configure);
	WAIT_UNTIL(20, is_mixed, &want);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_EXEC(cluster.nodes[0], "CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(600000))");
	long long index = applied(0) + 30;
	CHECK_OK(dqlitepy_node_stop(cluster.nodes[2]));
	WAIT_UNTIL(20, snapshots_have, &index);
	forget_heard();
	CHECK_OK(dqlitepy_node_start(cluster.nodes[2]));
	index = applied(0);
	WAIT_UNTIL(40, third_has_applied, &index); /* a snapshot that is lost on the way is sent again after half a minute */
	end_all();
	memset(&cluster, 0, sizeof cluster);
}

/* Entries that outweigh the snapshot: 200 of them are kept, and sent to who comes back, or next to none, and the snapshot is. */
static void trailing_strategies(void)
{
	char command[600];
	snprintf(command, sizeof command, "rm -rf '%s'?", path_in_test_dir("node"));
	CHECK_OK(dqlitepy_set_log_callback(listen_to, NULL));
	catch_up(keeps_all);
	CHECK(!was_heard((void *)"of a snapshot"));
	CHECK(system(command) == 0);
	catch_up(keeps_what_weighs_less);
	WAIT_UNTIL(5, was_heard, (void *)"of a snapshot");
	CHECK_OK(dqlitepy_set_log_callback(NULL, NULL));
}

static void found_last(dqlitepy_handle node, int i)
{
	CHECK_OK(dqlitepy_node_set_bootstrap(node, i == 2 ? DQLITEPY_BOOTSTRAP_FORCE : DQLITEPY_BOOTSTRAP_NEVER));
	CHECK_OK(dqlitepy_node_set_network_latency_ms(node, 20));
	CHECK_OK(dqlitepy_node_set_start_timeout(node, 500));
}

/* The first of the list waits for the last, which founds the cluster; and when it has lost its data, and nobody is there. */
static void bootstrap_modes(void)
{
	char command[600];
	list_all(3);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 3; i++) {
			cluster.nodes[i] = made(i);
			found_last(cluster.nodes[i], i);
		}
		CHECK_RC(dqlitepy_node_start(cluster.nodes[0]), DQLITEPY_NOLEADER);
		CHECK_ERROR_HAS("not joined yet");
		CHECK_RC(dqlitepy_node_start(cluster.nodes[1]), round == 0 ? DQLITEPY_NOLEADER : DQLITEPY_OK);
		for (int i = 2; i >= 0; i--)
			WAIT_UNTIL(10, starts, &cluster.nodes[i]);
		check_cluster();
		CHECK_JSON(cluster.nodes[2], "SELECT count(*) AS n FROM t", round == 0 ? "[{\"n\":2}]" : "[{\"n\":4}]");
		for (int i = 0; i < 3; i++)
			dqlitepy_node_destroy(cluster.nodes[i]);
		snprintf(command, sizeof command, "rm -rf '%s'", path_in_test_dir("node1"));
		CHECK(system(command) == 0);
	}
	CHECK_OK(dqlitepy_client_close(cluster.client));
}

static void quickly(dqlitepy_handle node, int i)
{
	(void)i;
	CHECK_OK(dqlitepy_node_set_network_latency_ms(node, 20));
	CHECK_OK(dqlitepy_node_set_timeout(node, 2000));
}

/* The wiped first says so; the one that joined it, which lacks a majority without it, at least does not write. */
static int newer_has_stopped(void *data)
{
	int first = dqlitepy_node_exec(cluster.nodes[0], "INSERT INTO t VALUES('newer')", NULL, NULL);
	(void)data;
	if (first != DQLITEPY_MISUSE)
		return 0;
	CHECK_ERROR_HAS("there are two clusters of the listed nodes");
	for (int i = 0; i < 4; i++)
		CHECK_ERROR_HAS(cluster.addresses[i]);
	int fourth = dqlitepy_node_exec(cluster.nodes[3], "INSERT INTO t VALUES('newer')", NULL, NULL);
	return fourth == DQLITEPY_MISUSE || fourth == DQLITEPY_NOLEADER;
}

/* The first founds another cluster while the others are down, as it has lost its data, and a fourth joins it before they return. */
static void two_clusters(void)
{
	char command[600];
	struct mix three = { 3, 0, 0 }, two = { 2, 0, 0 };
	start_all(3, quickly);
	WAIT_UNTIL(20, is_mixed, &three);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_EXEC(cluster.nodes[0], "CREATE TABLE t(a); INSERT INTO t VALUES('older')");
	for (int i = 0; i < 3; i++)
		dqlitepy_node_destroy(cluster.nodes[i]);
	snprintf(command, sizeof command, "rm -rf '%s'", path_in_test_dir("node1"));
	CHECK(system(command) == 0);
	start(0, quickly);
	cluster.addresses[3] = free_address();
	cluster.size = 4;
	start(3, quickly);
	WAIT_UNTIL(10, is_mixed, &two);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[0], "test.db"));
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[3], "test.db"));
	CHECK_EXEC(cluster.nodes[3], "CREATE TABLE t(a); INSERT INTO t VALUES('newer')");
	start(1, quickly);
	start(2, quickly);
	CHECK_OK(dqlitepy_node_open_db(cluster.nodes[1], "test.db"));
	WAIT_UNTIL(20, newer_has_stopped, NULL);
	CHECK_EXEC(cluster.nodes[1], "INSERT INTO t VALUES('older')");
	CHECK_JSON(cluster.nodes[1], "SELECT DISTINCT a FROM t", "[{\"a\":\"older\"}]");
	end_all();
}

/* How many rows there are, as that member says; -1 = it cannot say now. */
static int rows_of(dqlitepy_handle node)
{
	char *json = NULL;
	if (dqlitepy_node_open_db(node, "test.db") != DQLITEPY_OK ||
	    dqlitepy_node_query(node, "SELECT count(*) AS n FROM t", &json) != DQLITEPY_OK)
		return -1;
	int n = atoi(strchr(json, ':') + 1);
	dqlitepy_free(json);
	return n;
}

static int serves(void *node)
{
	return rows_of(*(dqlitepy_handle *)node) >= 0;
}

/* Another member votes instead of this one. */
static int is_replaced(void *gone)
{
	int roles[MOST];
	struct mix all = { 3, 3, 3 };
	return ask_roles(roles) && roles[*(int *)gone] == DQLITEPY_SPARE && is_mixed(&all);
}

/* Nine members, of which the leader is lost twice: the roles settle anew, and every row is there. */
static void nine(void)
{
	struct mix all = { 3, 3, 3 };
	int rows = 0;
	start_all(9, NULL);
	WAIT_UNTIL(40, is_mixed, &all);
	for (int i = 6; i < 9; i++)
		CHECK_OK(dqlitepy_node_open_db(cluster.nodes[i], "test.db"));
	CHECK_EXEC(cluster.nodes[8], "CREATE TABLE t(a)");
	for (int lost = 0; lost < 2; lost++) {
		for (int i = 0; i < 20; i++, rows++)
			CHECK_EXEC(cluster.nodes[8 - i % 3], "INSERT INTO t VALUES(1)");
		int gone = leader();
		CHECK(gone < 6); /* those that write are spares */
		dqlitepy_node_destroy(cluster.nodes[gone]);
		cluster.nodes[gone] = 0;
		for (int i = 6; i < 9; i++) {
			WAIT_UNTIL(20, serves, &cluster.nodes[i]);
			CHECK_INT(rows_of(cluster.nodes[i]), rows);
		}
		WAIT_UNTIL(40, is_replaced, &gone);
	}
	end_all();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "options_are_checked", options_are_checked, 0 },
		{ "client_timeout", client_timeout, 0 },
		{ "trailing_strategies", trailing_strategies, 100 },
		{ "bootstrap_modes", bootstrap_modes, 60 },
		{ "two_clusters", two_clusters, 60 },
		{ "snapshot_threshold", snapshot_threshold, 0 },
		{ "block_size", block_size, 0 },
		{ "voters_and_standbys", voters_and_standbys, 60 },
		{ "all_vote", all_vote, 60 },
		{ "one_voter_of_two", one_voter_of_two, 60 },
		{ "two_voters_stay_and_are_warned_of", two_voters_stay_and_are_warned_of, 60 },
		{ "handover_to_a_standby", handover_to_a_standby, 60 },
		{ "handover_of_the_leader_of_two", handover_of_the_leader_of_two, 60 },
		{ "handover_of_the_follower_of_two", handover_of_the_follower_of_two, 60 },
		{ "failure_domains", failure_domains, 60 },
		{ "weights", weights, 60 },
		{ "snapshot_for_a_member", snapshot_for_a_member, 60 },
		{ "localhost", localhost, 60 },
		{ "ipv6", ipv6, 60 },
		{ "a_name_moves", a_name_moves, 60 },
		{ "bind_address_of_members", bind_address_of_members, 60 },
		{ "port_zero_joins", port_zero_joins, 60 },
		{ "nine", nine, 100 },
		{ NULL, NULL, 0 },
	};
	return check_main(argc, argv, tests);
}
