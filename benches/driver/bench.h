/* The pieces of the benchmark driver: the clock and its statistics, a library behind its C ABI, a bare connection. */
#ifndef BENCH_H
#define BENCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- stats.c --- */

/* The calls of one kind of one subject: how long each took, and what all of them together cost. */
struct timing {
	double *seconds;
	size_t count, room;
	double wall, cpu;
};

double now(void);
/* Of all threads of the process. */
double cpu_time(void);
void timing_add(struct timing *timing, double seconds);
/* One line of key=value pairs on stdout, `extra` at its end; the timing is empty afterwards. */
void timing_print(struct timing *timing, const char *name, const char *who, const char *extra);
/* A number of /proc/self/status, such as VmRSS or Threads. */
long process_status(const char *key);
void peak_memory_reset(void);
/* Prints why and ends the process. */
void die(const char *what, const char *why) __attribute__((noreturn));

/* --- library.c: the functions of a libdqlitepy.so that the driver calls --- */

typedef uint64_t handle;

struct library {
	int (*node_create)(uint64_t, const char *, const char *, handle *);
	int (*node_start)(handle);
	int (*node_stop)(handle);
	void (*node_destroy)(handle);
	int (*node_open_db)(handle, const char *);
	int (*node_exec)(handle, const char *, int64_t *, int64_t *);
	int (*node_query)(handle, const char *, char **);
	uint64_t (*generate_node_id)(const char *);
	char *(*last_error)(void);
	void (*free)(void *);
	int (*version_number)(void);
	int (*node_create_with_cluster)(uint64_t, const char *, const char *, const char *, handle *);
	int (*client_create)(const char *, handle *);
	int (*client_add)(handle, uint64_t, const char *);
	int (*client_remove)(handle, uint64_t);
	int (*client_cluster)(handle, char **);
	int (*client_close)(handle);
	/* Not every subject has sessions and limits; NULL then. */
	int (*session_open_addresses)(const char *, const char *, handle *);
	int (*session_query)(handle, const char *, int64_t, handle *);
	int (*rows_step)(handle);
	int (*rows_close)(handle);
	int (*session_close)(handle);
	int (*node_set_start_timeout)(handle, unsigned);
	int (*node_set_stop_timeout)(handle, unsigned);
	int (*node_set_snapshot_params)(handle, unsigned, unsigned, int);
	int (*node_set_snapshot_compression)(handle, int);
};

void library_load(struct library *library, const char *path);
/* Ends the process with the library's message unless rc is 0. */
void must(const struct library *library, const char *what, int rc);
/* A node on 127.0.0.1 that is not started; its address goes to `address`. */
handle node_new(const struct library *library, const char *dir, char address[64]);
/* The same, running, with the database bench.db open. */
handle node_up(const struct library *library, const char *dir, char address[64]);
/* Another one for the cluster of the node at `leader`; not started. */
handle node_beside(const struct library *library, const char *dir, const char *leader, char address[64]);
void run(const struct library *library, handle node, const char *sql);

/* --- wire.c: prebuilt requests on a socket, answers received and not decoded --- */

struct wire {
	int fd;
	char *buffer;
	size_t room;
};

struct request {
	char bytes[1024];
	size_t size;
};

enum { EXEC_SQL = 8, QUERY_SQL = 9 };

/* To the socket on which the engine of this process listens; false if there is none. */
bool wire_connect_local(struct wire *wire);
void wire_connect(struct wire *wire, const char *address);
/* OPEN; waits for the leader if there is none yet. */
void wire_open(struct wire *wire, const char *database);
void wire_request(struct request *request, int type, const char *sql);
void wire_call(struct wire *wire, const struct request *request);
void wire_close(struct wire *wire);

/* --- snapshots.c: how long the engine takes to write its snapshots --- */

struct snapshots {
	pthread_t thread;
	pthread_mutex_t lock;
	atomic_bool ends;
	int fd, count;
	double began, last, longest;
};

void snapshots_watch(struct snapshots *found, const char *dir);
/* One line, `extra` in it, on those since the last such line; `last` is that of the last one there ever was. */
void snapshots_print(struct snapshots *found, const char *extra);
void snapshots_end(struct snapshots *found);

/* --- growth.c --- */

int mode_growth(const struct library *library, const char *dir, int count, char **megabytes);
int mode_connections(const struct library *library, const char *dir, int count, char **numbers);
int mode_cluster(const struct library *library, const char *dir, int count, char **numbers);
int mode_values(const struct library *library, const char *dir, int count, char **bytes);
int mode_results(const struct library *library, const char *dir, int count, char **rows);
/* With one of the settings that bend the curves; see growth.py for what they are called. */
int mode_setting(const struct library *library, const char *dir, int count, char **setting);

#endif
