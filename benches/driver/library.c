#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"

static void *symbol(void *object, const char *name, bool needed)
{
	void *found = dlsym(object, name);
	if (found == NULL && needed) {
		die("dlsym", dlerror());
	}
	return found;
}

void library_load(struct library *library, const char *path)
{
	void *object = dlopen(path, RTLD_NOW);
	if (object == NULL) {
		die("dlopen", dlerror());
	}
#define FIND(name, needed) *(void **)&library->name = symbol(object, "dqlitepy_" #name, needed)
	FIND(node_create, true);
	FIND(node_start, true);
	FIND(node_stop, true);
	FIND(node_destroy, true);
	FIND(node_open_db, true);
	FIND(node_exec, true);
	FIND(node_query, true);
	FIND(generate_node_id, true);
	FIND(last_error, true);
	FIND(free, true);
	FIND(version_number, true);
	FIND(node_create_with_cluster, true);
	FIND(client_create, true);
	FIND(client_add, true);
	FIND(client_remove, true);
	FIND(client_cluster, true);
	FIND(client_close, true);
	FIND(session_open_addresses, false);
	FIND(session_query, false);
	FIND(rows_step, false);
	FIND(rows_close, false);
	FIND(session_close, false);
	FIND(node_set_start_timeout, false);
	FIND(node_set_stop_timeout, false);
	FIND(node_set_snapshot_params, false);
	FIND(node_set_snapshot_compression, false);
#undef FIND
}

void must(const struct library *library, const char *what, int rc)
{
	if (rc != 0) {
		char *message = library->last_error();
		fprintf(stderr, "driver: code %d\n", rc);
		die(what, message != NULL ? message : "no message");
	}
}

/* Not every subject takes port 0. */
static int free_port(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
		die("free_port", "no port is left on 127.0.0.1");
	}
	close(fd);
	return ntohs(address.sin_port);
}

handle node_new(const struct library *library, const char *dir, char address[64])
{
	handle node;
	mkdir(dir, 0755);
	snprintf(address, 64, "127.0.0.1:%d", free_port());
	must(library, "create", library->node_create(library->generate_node_id(address), address, dir, &node));
	return node;
}

handle node_up(const struct library *library, const char *dir, char address[64])
{
	handle node = node_new(library, dir, address);
	must(library, "start", library->node_start(node));
	must(library, "open_db", library->node_open_db(node, "bench.db"));
	return node;
}

handle node_beside(const struct library *library, const char *dir, const char *leader, char address[64])
{
	handle node;
	char members[160];
	mkdir(dir, 0755);
	snprintf(address, 64, "127.0.0.1:%d", free_port());
	snprintf(members, sizeof members, "%s,%s", leader, address);
	must(library, "create",
	     library->node_create_with_cluster(library->generate_node_id(address), address, dir, members, &node));
	return node;
}

void run(const struct library *library, handle node, const char *sql)
{
	int64_t id, changed;
	must(library, sql, library->node_exec(node, sql, &id, &changed));
}
