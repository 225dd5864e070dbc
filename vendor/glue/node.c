/* One node's life: create, configure, lock, prepare, start; later stop and free. Each step on a thread with a guard. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

#include "../include/dqlite.h"
#include "conn.h"
#include "fsm.h"
#include "protocol.h"
#include "raft.h"
#include "server.h"
#include "transport.h"

struct glue_node {
	struct glue_options options;
	struct dqlite_node *engine;
	struct glue_pool *pool;
	struct glue_loop *loop;
	struct glue_transfers *transfers;
	struct glue_visits *visits;
	struct glue_turn turn;
	struct glue_opened opened;
	atomic_bool losing; /* somebody tells the owner */
	atomic_bool lost;
	atomic_bool stopping;
	bool started; /* the engine's thread exists */
	pthread_t thread;
	char reason[GLUE_ERRMSG_SIZE];
};

/* The engine has no field for its owner; the argument of the connect function is the one pointer of ours that it keeps. */
static struct glue_node *owner_of(struct dqlite_node *engine)
{
	return engine->connect_func_arg;
}

struct glue_pool *glue_pool_of(uv_loop_t *loop)
{
	struct dqlite_node *engine = (struct dqlite_node *)((char *)loop - offsetof(struct dqlite_node, loop));
	return owner_of(engine)->pool;
}

bool glue_is_stopping(uv_loop_t *loop)
{
	struct dqlite_node *engine = (struct dqlite_node *)((char *)loop - offsetof(struct dqlite_node, loop));
	return atomic_load(&owner_of(engine)->stopping);
}

struct glue_loop *glue_loop_of(struct glue_node *node)
{
	return node->loop;
}

struct glue_turn *glue_turn_of(struct glue_node *node)
{
	return &node->turn;
}

struct glue_loop *glue_loop_of_raft(struct raft *raft)
{
	struct dqlite_node *engine = (struct dqlite_node *)((char *)raft - offsetof(struct dqlite_node, raft));
	return owner_of(engine)->loop;
}

const struct glue_options *glue_options_of(struct raft *raft)
{
	struct dqlite_node *engine = (struct dqlite_node *)((char *)raft - offsetof(struct dqlite_node, raft));
	return &owner_of(engine)->options;
}

struct raft *glue_raft_here(void)
{
	return &glue_guard_top->node->engine->raft;
}

struct registry *glue_registry_here(void)
{
	return &glue_guard_top->node->engine->registry;
}

struct glue_loop *glue_loop_here(void)
{
	return glue_guard_top->node->loop;
}

struct glue_opened *glue_opened_here(void)
{
	return &glue_guard_top->node->opened;
}

struct glue_visits *glue_visits_here(void)
{
	return glue_guard_top->node->visits;
}

struct glue_transfers *glue_transfers_here(void)
{
	return glue_guard_top->node->transfers;
}

bool glue_is_lost(struct glue_node *node)
{
	return atomic_load(&node->lost);
}

/* Whoever knows that the node is lost may end it, so the owner knows first. */
void glue_mark_lost(struct glue_node *node, const char *reason)
{
	if (!atomic_exchange(&node->losing, true)) {
		snprintf(node->reason, sizeof node->reason, "%s", reason);
		node->options.lost(node->options.data, reason);
		atomic_store(&node->lost, true);
	}
	while (!glue_is_lost(node)) {
		sched_yield();
	}
}

void glue_mask_signals(sigset_t *old)
{
	/* Those that a thread causes by its own fault stay open: blocking them would only hide where it happened. */
	static const int own_fault[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS };
	sigset_t mask;
	sigfillset(&mask);
	for (size_t i = 0; i < sizeof own_fault / sizeof *own_fault; i++) {
		sigdelset(&mask, own_fault[i]);
	}
	if (!CURE_SIGNALS) {
		sigemptyset(&mask);
	}
	pthread_sigmask(SIG_BLOCK, &mask, old);
}

uint64_t glue_digest(const char *text, uint64_t salt)
{
	return raft_digest(text, salt);
}

static int connect_peer(void *arg, const char *address, int *fd)
{
	struct glue_node *node = arg;
	enum glue_reach reach = node->options.connect(node->options.data, address, fd);
	/* What else went wrong may be this host's fault, and says nothing of the peer. */
	if (reach != GLUE_UNREACHED) {
		glue_loop_dialled(node->loop, address, reach == GLUE_REACHED ? *fd : -1);
	}
	return reach == GLUE_REACHED ? 0 : 1;
}

/* The engine bootstraps ids 1 and 0x2dc171858c3155be by itself; when a node bootstraps is our decision (bootstrap below). */
int glue_never_bootstrap(struct raft *raft, const struct raft_configuration *configuration);
int glue_never_bootstrap(struct raft *raft, const struct raft_configuration *configuration)
{
	(void)raft;
	(void)configuration;
	return RAFT_CANTBOOTSTRAP;
}

static int bootstrap(struct glue_node *node)
{
	struct raft *raft = &node->engine->raft;
	struct raft_configuration configuration;
	raft_configuration_init(&configuration);
	int rv = raft_configuration_add(&configuration, node->options.id, node->options.address, RAFT_VOTER);
	if (rv == 0) {
		rv = raft_bootstrap(raft, &configuration);
	}
	raft_configuration_close(&configuration);
	if (rv != 0) {
		const char *why = raft->io->errmsg[0] != '\0' ? raft->io->errmsg : raft_strerror(rv);
		snprintf(node->reason, sizeof node->reason, "writing the first configuration failed: %s", why);
	}
	return rv;
}

static int prepare(struct glue_node *node)
{
	switch (node->options.prepare(node->options.data, node->reason, sizeof node->reason)) {
	case GLUE_START:
		return 0;
	case GLUE_BOOTSTRAP:
		return bootstrap(node);
	case GLUE_REFUSE:
		break;
	}
	return RAFT_ERROR;
}

static void close_unless_closing(uv_handle_t *handle, void *data)
{
	(void)data;
	if (!uv_is_closing(handle)) {
		uv_close(handle, NULL);
	}
}

/* It would say that the node runs; whether it was set up before the failure only the loop knows. */
static void stop_startup_timer(uv_handle_t *handle, void *data)
{
	struct dqlite_node *engine = data;
	if (handle == (uv_handle_t *)&engine->startup) {
		uv_timer_stop(&engine->startup);
	}
}

static void raft_closed(struct raft *raft)
{
	struct dqlite_node *engine = raft->data;
	raft_uv_close(&engine->raft_io);
	uv_walk(&engine->loop, close_unless_closing, NULL);
}

/* Releases what a created engine holds that never ran, or whose loop ended before it began; the engine itself cannot. */
static void unwind(struct dqlite_node *engine)
{
	if (!CURE_UNWIND) {
		return;
	}
	engine->raft.data = engine;
	uv_walk(&engine->loop, stop_startup_timer, engine);
	raft_close(&engine->raft, raft_closed);
	uv_run(&engine->loop, UV_RUN_DEFAULT);
}

static void detach(struct glue_node *node)
{
	if (node->pool != NULL) {
		glue_pool_detach(node->pool);
	}
	if (node->loop != NULL) {
		glue_loop_detach(node->loop);
	}
	if (node->transfers != NULL) {
		glue_transfers_detach(node->transfers);
	}
	if (node->visits != NULL) {
		glue_visits_detach(node->visits);
	}
}

struct thread_start {
	struct glue_node *node;
	void *(*run)(void *);
};

/* The engine's own thread, from its first instruction to its last. */
static void *engine_thread(void *arg)
{
	struct thread_start start = *(struct thread_start *)arg;
	struct dqlite_node *engine = start.node->engine;
	struct glue_guard guard;
	void *result;
	free(arg);
	pthread_setname_np(pthread_self(), "dqlite-loop");
	glue_turn_begin(&start.node->turn, &engine->loop);
	if (GLUE_GUARDED(&guard, start.node)) {
		result = start.run(engine);
		detach(start.node);
		if (result != NULL) {
			/* It failed before the loop ran: taskRun does not always say so, and leaves its handles open. */
			if (CURE_EARLY) {
				sem_post(&engine->ready);
			}
			unwind(engine);
		} else {
			uv_run(&engine->loop, UV_RUN_DEFAULT);
		}
		glue_guard_leave(&guard);
		glue_turn_end(&start.node->turn);
		return result;
	}
	glue_turn_end(&start.node->turn);
	/* Whoever waits for this thread must not wait for ever. */
	sem_post(&engine->ready);
	sem_post(&engine->handover_done);
	return NULL;
}

/*
 * Stands in for pthread_create in server.c: the lock on the directory is held, nothing runs yet. So this is where the
 * owner looks at the directory and decides, and where the thread gets its guard and its signal mask.
 */
int glue_thread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int glue_thread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	struct dqlite_node *engine = arg;
	struct glue_node *node = owner_of(engine);
	if (prepare(node) != 0) {
		return ECANCELED;
	}
	node->pool = glue_pool_open(node, &engine->loop);
	node->loop = glue_loop_open(engine, &node->options);
	node->transfers = glue_transfers_open(engine, &node->options);
	node->visits = glue_visits_open(engine, &node->options);
	struct thread_start *start = malloc(sizeof *start);
	if (node->pool == NULL || node->loop == NULL || node->transfers == NULL || node->visits == NULL || start == NULL) {
		snprintf(node->reason, sizeof node->reason, "out of memory");
		free(start);
		return ENOMEM;
	}
	*start = (struct thread_start){ node, run };
	pthread_attr_t enough;
	sigset_t old;
	glue_thread_attr(&enough); /* the engine gives none */
	glue_mask_signals(&old);
	int rv = pthread_create(thread, &enough, engine_thread, start);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&enough);
	if (rv != 0) {
		snprintf(node->reason, sizeof node->reason, "no thread for the engine: %s", strerror(rv));
		free(start);
		return rv;
	}
	node->started = true;
	node->thread = *thread;
	return 0;
}

/*
 * Stands in for close in server.c. A forked child holds a copy of the lock's descriptor: only an unlock, not our close,
 * ends the lock then.
 */
int glue_close(int fd);
int glue_close(int fd)
{
	flock(fd, LOCK_UN);
	return close(fd);
}

/*
 * Stand in for transport__write and gateway__close in conn.c. A query that waits for its rows to be sent is resumed only
 * when the write succeeds; so a client that vanishes would leave it, and its statement, open for ever, and a client that
 * does not read would keep the node from stopping.
 */
static _Atomic(transport_write_cb) engine_write_cb;

static void write_done(struct transport *transport, int status)
{
	struct conn *conn = transport->data;
	bool finished;
	glue_visitor_held_up(conn, false);
	atomic_load(&engine_write_cb)(transport, status);
	if (status != 0) {
		gateway__resume(&conn->gateway, &finished);
	}
}

int glue_transport_write(struct transport *transport, uv_buf_t *buf, transport_write_cb cb);
int glue_transport_write(struct transport *transport, uv_buf_t *buf, transport_write_cb cb)
{
	atomic_store(&engine_write_cb, cb);
	int rv = transport__write(transport, buf, write_done);
	if (rv == 0 && uv_stream_get_write_queue_size(transport->stream) > 0) {
		glue_visitor_held_up(transport->data, true);
	}
	return rv;
}

static void shut_down(struct gateway *gateway)
{
	struct conn *conn = (struct conn *)((char *)gateway - offsetof(struct conn, gateway));
	uv_os_fd_t fd;
	if (uv_fileno((uv_handle_t *)conn->transport.stream, &fd) == 0) {
		shutdown(fd, SHUT_RDWR);
	}
}

static bool is_writing(const struct gateway *gateway)
{
	return ((const struct conn *)((const char *)gateway - offsetof(struct conn, gateway)))->transport.write_cb != NULL;
}

/*
 * The same for rows that are half read when the lead is lost: they hold a lock, and no snapshot could be installed. Further
 * ones may be under way on a thread of the pool, and would wait for their reader then.
 */
void glue_gateway_close_leader(struct gateway *gateway);
void glue_gateway_close_leader(struct gateway *gateway)
{
	struct conn *conn = (struct conn *)((char *)gateway - offsetof(struct conn, gateway));
	bool query = gateway->req != NULL && glue_is_query(gateway->req);
	if (query && (is_writing(gateway) || (CURE_FURTHER && glue_visitor_has_rows(conn)))) {
		shut_down(gateway);
	}
	gateway__close_leader(gateway);
}

bool glue_is_about_members(const struct gateway *gateway)
{
	return CURE_MEMBERS && gateway->req != NULL && gateway->leader != NULL && gateway->leader->pending == 0;
}

/*
 * A change of the members closes its connection, at its end, without the database, whose transaction would keep the write lock;
 * and it may take as long as a member takes to catch up.
 */
void glue_gateway_close(struct gateway *gateway, gateway_close_cb cb);
void glue_gateway_close(struct gateway *gateway, gateway_close_cb cb)
{
	if (is_writing(gateway)) {
		shut_down(gateway);
	}
	if (glue_is_about_members(gateway)) {
		gateway__close_leader(gateway);
	}
	gateway__close(gateway, cb);
}

static int set_options(struct glue_node *node)
{
	struct dqlite_node *engine = node->engine;
	const struct glue_options *options = &node->options;
	int rv = dqlite_node_set_connect_func(engine, connect_peer, node);
	raft_uv_set_connect_retry_delay(&engine->raft_io, GLUE_REDIAL_MS);
	if (rv == 0 && CURE_BIND) {
		rv = dqlite_node_set_bind_address(engine, "@");
	}
	if (rv == 0 && options->network_latency_ms != 0) {
		rv = dqlite_node_set_network_latency_ms(engine, options->network_latency_ms);
	}
	if (rv == 0) {
		rv = dqlite_node_set_snapshot_compression(engine, options->snapshot_compression);
	}
	if (rv == 0 && options->snapshot_threshold != 0) {
		rv = dqlite_node_set_snapshot_params_v2(engine, options->snapshot_threshold, options->snapshot_trailing,
							options->snapshot_dynamic ? DQLITE_SNAPSHOT_TRAILING_DYNAMIC
										  : DQLITE_SNAPSHOT_TRAILING_STATIC);
	}
	if (rv == 0 && options->block_size != 0) {
		rv = dqlite_node_set_block_size(engine, options->block_size);
	}
	if (rv == 0) {
		rv = dqlite_node_set_auto_recovery(engine, options->auto_recovery);
	}
	if (rv == 0) {
		rv = dqlite_node_set_busy_timeout(engine, options->busy_timeout_ms);
	}
	if (rv == 0) {
		rv = dqlite_node_set_failure_domain(engine, options->failure_domain);
	}
	/* It has no setter; the wire's WEIGHT changes it later. */
	engine->config.weight = options->weight;
	return rv;
}

/* A failed create forgets its VFS in SQLite's list and, if raft's files are at fault, raft's I/O and the loop. */
static void discard_half_created(struct dqlite_node *engine)
{
	bool has_vfs = strncmp(engine->errmsg, "config__init", strlen("config__init")) != 0;
	bool has_loop = strncmp(engine->errmsg, "raft_init()", strlen("raft_init()")) == 0;
	if (has_loop) {
		uv_walk(&engine->loop, close_unless_closing, NULL);
		uv_run(&engine->loop, UV_RUN_DEFAULT);
		raft_uv_close(&engine->raft_io);
		fsm__close(&engine->raft_fsm);
		raftProxyClose(&engine->raft_transport);
		uv_loop_close(&engine->loop);
		registry__close(&engine->registry); /* it looks the VFS up in the list */
	}
	if (has_vfs) {
		sqlite3_vfs_unregister(&engine->vfs);
	}
	if (has_loop) {
		VfsClose(&engine->vfs);
		config__close(&engine->config);
	}
	dqlite_node_destroy(engine);
}

/* The engine's words if it has some; ours otherwise. */
static void keep_reason(struct glue_node *node, const char *what)
{
	const char *words = node->engine != NULL ? dqlite_node_errmsg(node->engine) : "out of memory";
	if (node->reason[0] == '\0') {
		snprintf(node->reason, sizeof node->reason, "%s%s%s", what, words[0] != '\0' ? ": " : "", words);
	}
}

static int start_engine(struct glue_node *node)
{
	const struct glue_options *options = &node->options;
	int rv = dqlite_node_create(options->id, options->address, options->dir, &node->engine);
	if (rv != 0) {
		keep_reason(node, "creating the node failed");
		if (node->engine != NULL && CURE_DISCARD) {
			discard_half_created(node->engine);
		}
		return rv;
	}
	rv = set_options(node);
	if (rv != 0) {
		keep_reason(node, "configuring the node failed");
	} else {
		rv = dqlite_node_start(node->engine);
		if (rv == 0) {
			return 0;
		}
		keep_reason(node, "starting the node failed");
	}
	if (node->started) {
		pthread_join(node->thread, NULL);
	} else {
		detach(node);
		unwind(node->engine);
	}
	if (!glue_is_lost(node)) {
		dqlite_node_destroy(node->engine);
	}
	return rv;
}

/* Runs `step` where an assertion cannot reach the caller's thread: there is no jumping back through frames of the host. */
struct guarded_call {
	struct glue_node *node;
	int (*step)(struct glue_node *);
	int result;
};

static void *guarded_thread(void *arg)
{
	struct guarded_call *call = arg;
	struct glue_guard guard;
	if (GLUE_GUARDED(&guard, call->node)) {
		call->result = call->step(call->node);
		glue_guard_leave(&guard);
	} else {
		call->result = DQLITE_ERROR;
	}
	return NULL;
}

/* `must`: where there is no thread to be had, on this one. */
static int run_guarded(struct glue_node *node, int (*step)(struct glue_node *), bool must)
{
	struct guarded_call call = { .node = node, .step = step };
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t old;
	glue_thread_attr(&attr);
	glue_mask_signals(&old);
	int rv = pthread_create(&thread, &attr, guarded_thread, &call);
	if (rv == 0) {
		pthread_join(thread, NULL);
	} else if (must) {
		guarded_thread(&call);
	} else {
		snprintf(node->reason, sizeof node->reason, "no thread for the engine: %s", strerror(rv));
		call.result = rv;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return call.result;
}

/* What a lost node's threads may still touch is never freed. */
static void free_unless_lost(struct glue_node *node)
{
	bool lost = glue_is_lost(node);
	if (node->pool != NULL) {
		glue_pool_close(node->pool, !lost);
	}
	if (!lost) {
		if (node->loop != NULL) {
			glue_loop_free(node->loop);
		}
		if (node->transfers != NULL) {
			glue_transfers_free(node->transfers);
		}
		free(node->visits);
		free((char *)node->options.address);
		free((char *)node->options.dir);
		glue_turn_close(&node->turn);
		free(node);
	}
}

int glue_node_start(const struct glue_options *options, struct glue_node **out, char *reason, size_t size)
{
	struct glue_node *node = calloc(1, sizeof *node);
	*out = NULL;
	if (node != NULL) {
		node->options = *options;
		node->options.address = strdup(options->address);
		node->options.dir = strdup(options->dir);
		glue_turn_open(&node->turn);
	}
	if (node == NULL || node->options.address == NULL || node->options.dir == NULL) {
		snprintf(reason, size, "out of memory");
		if (node != NULL) {
			free_unless_lost(node);
		}
		return DQLITE_NOMEM;
	}
	int rv = run_guarded(node, start_engine, false);
	if (rv != 0) {
		snprintf(reason, size, "%s", node->reason);
		free_unless_lost(node);
		return rv;
	}
	*out = node;
	return 0;
}

int glue_node_lock_fd(const struct glue_node *node)
{
	return node->engine->lock_fd;
}

static int stop_engine(struct glue_node *node)
{
	int rv = CURE_STOP ? dqlite_node_stop(node->engine) : 0;
	if (!glue_is_lost(node)) {
		dqlite_node_destroy(node->engine);
	}
	return rv;
}

int glue_node_stop(struct glue_node *node)
{
	atomic_store(&node->stopping, true);
	int rv = run_guarded(node, stop_engine, CURE_STOP_HERE);
	free_unless_lost(node);
	return rv;
}
