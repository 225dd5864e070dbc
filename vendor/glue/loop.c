/*
 * What is asked of a running loop from outside: how raft stands, to take in a connection, and to watch the links that this
 * node opened. What the end of a link means for elections is in election.c.
 *
 * raft's structures belong to the loop's thread, so these are requests that an async handle brings there.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#include "raft.h"
#include "raft/configuration.h"
#include "raft/log.h"
#include "raft/progress.h"
#include "raft/replication.h"
#include "server.h"
#include "translate.h"

enum wish { NOTHING, INSPECT, TAKE_IN, DIALLED, TELL };

struct request {
	struct request *next;
	enum wish wish;
	const struct glue_options *options;
	struct glue_visitor *visitor;
	struct link *link;
	struct raft_configuration members;
	struct glue_status status;
	sem_t done;
	atomic_int owners; /* the asker and the loop; whoever leaves last frees it */
};

/* A link that this node opened. raft only writes to it, so it learns of its end when a message is lost. */
struct link {
	struct link *next;
	struct glue_loop *loop;
	uv_poll_t poll;
	uint64_t since;
	bool ended; /* soon after it began; see redial */
	int fd;	    /* a copy of the engine's; -1: nobody listens there */
	char address[];
};

struct glue_loop {
	struct dqlite_node *engine;
	const struct glue_options *options;
	struct link *links; /* loop thread only */
	pthread_mutex_t mutex;
	struct request *first;
	bool closing;
	uv_async_t signal;
	struct glue_election election;
	struct glue_install install;
	uv_timer_t redial; /* runs while a link has ended that is to be made again later */
	uint64_t redialled_at; /* at once although it had not lasted */
	struct glue_lease lease;
	struct glue_growth growth;
	struct raft_configuration told;
};

const struct raft_configuration *glue_told_of(struct raft *raft)
{
	return &glue_loop_of_raft(raft)->told;
}

struct glue_lease *glue_lease_of(struct raft *raft)
{
	return &glue_loop_of_raft(raft)->lease;
}

struct glue_growth *glue_growth_of(struct raft *raft)
{
	return &glue_loop_of_raft(raft)->growth;
}

struct glue_election *glue_election_of(struct raft *raft)
{
	return &glue_loop_of_raft(raft)->election;
}

struct glue_install *glue_install_of(struct raft *raft)
{
	return &glue_loop_of_raft(raft)->install;
}

static void link_close(struct link *link)
{
	if (link->fd >= 0) {
		close(link->fd);
	}
	free(link);
}

static void request_release(struct request *request)
{
	if (atomic_fetch_sub(&request->owners, 1) == 1) {
		if (request->link != NULL) {
			link_close(request->link);
		}
		if (request->visitor != NULL) {
			glue_visitor_send_away(request->visitor, request->options);
		}
		configurationClose(&request->members);
		sem_destroy(&request->done);
		free(request);
	}
}

static void link_free(uv_handle_t *poll)
{
	link_close(poll->data);
}

static void link_forget(struct link *link)
{
	struct link **place = &link->loop->links;
	while (*place != link) {
		place = &(*place)->next;
	}
	*place = link->next;
	uv_close((uv_handle_t *)&link->poll, link_free);
}

static void sent(struct raft_io_send *send, int status)
{
	(void)status;
	raft_free(send);
}

/* A message that means nothing, on a socket that is shut: raft notices, and dials again until the peer is back. */
static void make_raft_dial_again(struct raft *raft, const char *address)
{
	for (unsigned i = 0; i < raft->configuration.n; i++) {
		struct raft_server *server = &raft->configuration.servers[i];
		struct raft_io_send *send;
		if (strcmp(server->address, address) != 0 || (send = raft_malloc(sizeof *send)) == NULL) {
			continue;
		}
		struct raft_message message = {
			.type = RAFT_IO_REQUEST_VOTE_RESULT,
			.server_id = server->id,
			.server_address = server->address,
			.request_vote_result = { .term = raft->current_term, .vote_granted = false },
		};
		if (raft->io->send(raft->io, send, &message, sent) != 0) {
			raft_free(send);
		}
	}
}

/* What accepts for a peer that is gone is dialled as often as what refuses. */
static void redial(uv_timer_t *timer)
{
	struct glue_loop *loop = timer->data;
	struct raft *raft = &loop->engine->raft;
	for (struct link *link = loop->links, *next; link != NULL; link = next) {
		next = link->next;
		if (!link->ended) {
			continue;
		}
		if (raft->state != RAFT_UNAVAILABLE) {
			make_raft_dial_again(raft, link->address);
		}
		link_forget(link);
	}
}

static void link_ended(uv_poll_t *poll, int status, int events)
{
	struct link *link = poll->data;
	struct raft *raft = &link->loop->engine->raft;
	(void)status;
	(void)events;
	shutdown(link->fd, SHUT_RDWR);
	/* The peer sees the end too, and may vote for another without waiting for a timeout. */
	glue_lease_end(&link->loop->lease);
	/* The end of the link on which the leader sends is read behind all that it has sent, which may be a lot. */
	glue_link_ended(raft, link->address);
	for (unsigned i = 0; i < raft->configuration.n; i++) {
		if (strcmp(raft->configuration.servers[i].address, link->address) == 0) {
			glue_snapshot_in_doubt(raft, raft->configuration.servers[i].id);
		}
	}
	link->ended = true;
	uint64_t now = uv_now(poll->loop);
	bool lasted = now - link->since >= GLUE_REDIAL_MS;
	/* The first may have come to a process that was just dying: who lost the leader waits for the refusal behind it. */
	if (lasted || now - link->loop->redialled_at >= GLUE_REDIAL_MS) {
		link->loop->redialled_at = lasted ? link->loop->redialled_at : now;
		redial(&link->loop->redial);
		return;
	}
	uv_poll_stop(poll);
	if (!uv_is_active((uv_handle_t *)&link->loop->redial)) {
		uv_timer_start(&link->loop->redial, redial, GLUE_REDIAL_MS, 0);
	}
}

/*
 * Messages to a peer that was away are lost, and the engine sends the next one with the next heartbeat. It is there now: what
 * it lacks it can have at once.
 */
static void resume_replication(struct raft *raft, const char *address)
{
	for (unsigned i = 0; raft->state == RAFT_LEADER && i < raft->configuration.n; i++) {
		const struct raft_server *server = &raft->configuration.servers[i];
		bool spare = server->role == RAFT_SPARE && server->id != raft->leader_state.promotee_id;
		if (server->id == raft->id || spare || strcmp(server->address, address) != 0) {
			continue;
		}
		if (progressState(raft, i) == PROGRESS__PIPELINE) {
			progressToProbe(raft, i);
		}
		raft->leader_state.progress[i].last_send = 0;
		replicationProgress(raft, i);
		return;
	}
}

bool glue_speaks_to(struct raft *raft, const char *address)
{
	const struct link *link = glue_loop_of_raft(raft)->links;
	while (link != NULL && strcmp(link->address, address) != 0) {
		link = link->next;
	}
	return link != NULL && !link->ended;
}

static void link_watch(struct glue_loop *loop, struct link *link)
{
	resume_replication(&loop->engine->raft, link->address);
	for (struct link *old = loop->links; old != NULL; old = old->next) {
		if (strcmp(old->address, link->address) == 0) {
			link_forget(old);
			break;
		}
	}
	link->loop = loop;
	if (uv_poll_init(&loop->engine->loop, &link->poll, link->fd) != 0) {
		link_close(link);
		return;
	}
	link->poll.data = link;
	link->since = uv_now(&loop->engine->loop);
	link->next = loop->links;
	loop->links = link;
	uv_unref((uv_handle_t *)&link->poll);
	uv_poll_start(&link->poll, UV_DISCONNECT, link_ended);
}

/* Nothing was ever written here, and nobody is connected to a database: nothing would be missed. */
static bool is_blank(struct dqlite_node *engine)
{
	struct raft *raft = &engine->raft;
	queue *head;
	QUEUE_FOREACH(head, &engine->registry.dbs)
	{
		struct db *db = QUEUE_DATA(head, struct db, queue);
		if (db->leaders > 0) {
			return false;
		}
	}
	if (logSnapshotIndex(raft->log) > 0) {
		return false;
	}
	for (raft_index index = 1; index <= logLastIndex(raft->log); index++) {
		const struct raft_entry *entry = logGet(raft->log, index);
		bool ours = entry != NULL && (entry->type == RAFT_BARRIER || (entry->type == RAFT_CHANGE && index == 1));
		if (!ours) {
			return false;
		}
	}
	return true;
}

static int own_role(const struct raft *raft)
{
	const struct raft_server *self = configurationGet(&raft->configuration, raft->id);
	switch (self != NULL ? self->role : -1) {
	case RAFT_VOTER:
		return 0;
	case RAFT_STANDBY:
		return 1;
	case RAFT_SPARE:
		return 2;
	default:
		return -1;
	}
}

/* The other voter that has most of the log, as far as this leader knows, and what it lacks of it. */
static void look_for_heir(const struct raft *raft, struct glue_status *status)
{
	raft_index most = 0;
	for (unsigned i = 0; raft->state == RAFT_LEADER && i < raft->configuration.n; i++) {
		const struct raft_server *server = &raft->configuration.servers[i];
		raft_index has = raft->leader_state.progress[i].match_index;
		if (server->id != raft->id && server->role == RAFT_VOTER && has > most) {
			status->heir = server->id;
			most = has;
		}
	}
	for (raft_index index = most + 1; status->heir != 0 && index <= logLastIndex(raft->log); index++) {
		const struct raft_entry *entry = logGet(raft->log, index);
		status->heir_lacks += entry != NULL ? entry->buf.len : 0;
	}
}

static uint64_t digest(uint64_t so_far, const void *bytes, size_t size)
{
	for (const unsigned char *byte = bytes; size > 0; byte++, size--) {
		so_far = (so_far ^ *byte) * 1099511628211u;
	}
	return so_far;
}

static uint64_t configuration_digest(const struct raft_configuration *configuration)
{
	uint64_t all = 14695981039346656037u;
	for (unsigned i = 0; i < configuration->n; i++) {
		const struct raft_server *server = &configuration->servers[i];
		all = digest(all, &server->id, sizeof server->id);
		all = digest(all, &server->role, sizeof server->role);
		all = digest(all, server->address, strlen(server->address) + 1);
	}
	return all;
}

static void inspect(struct dqlite_node *engine, struct glue_status *status)
{
	struct raft *raft = &engine->raft;
	raft_id leader;
	const char *address;
	raft_leader(raft, &leader, &address);
	*status = (struct glue_status){
		.leads = raft->state == RAFT_LEADER,
		.leader = leader,
		.term = raft->current_term,
		.last_index = logLastIndex(raft->log),
		.applied_index = raft->last_applied,
		.members = raft->configuration.n,
		.configuration = configuration_digest(&raft->configuration),
		.blank = is_blank(engine),
		.lone = raft->configuration.n == 1 && raft->configuration_committed_index == 1 &&
			raft->configuration_uncommitted_index == 0,
		.role = own_role(raft),
		.databases = engine->registry.size,
	};
	look_for_heir(raft, status);
}

static void serve(uv_async_t *signal)
{
	struct glue_loop *loop = signal->data;
	pthread_mutex_lock(&loop->mutex);
	struct request *request = loop->first;
	loop->first = NULL;
	pthread_mutex_unlock(&loop->mutex);
	while (request != NULL) {
		struct request *next = request->next;
		switch (glue_is_over(&loop->engine->raft) ? NOTHING : request->wish) {
		case NOTHING:
			break;
		case INSPECT:
			inspect(loop->engine, &request->status);
			sem_post(&request->done);
			break;
		case TAKE_IN:
			glue_visitor_enter(request->visitor);
			request->visitor = NULL;
			break;
		case DIALLED:
			if (request->link->fd < 0) {
				glue_link_refused(&loop->engine->raft, request->link->address);
			} else {
				link_watch(loop, request->link);
				request->link = NULL;
			}
			break;
		case TELL:
			configurationClose(&loop->told);
			loop->told = request->members;
			configurationInit(&request->members);
			break;
		}
		request_release(request);
		request = next;
	}
}

static int submit(struct glue_loop *loop, struct request *request)
{
	pthread_mutex_lock(&loop->mutex);
	int rv = loop->closing ? ESHUTDOWN : 0;
	if (rv == 0) {
		request->next = loop->first;
		loop->first = request;
		uv_async_send(&loop->signal);
	}
	pthread_mutex_unlock(&loop->mutex);
	return rv;
}

void glue_loop_wake(struct glue_loop *loop)
{
	uv_async_send(&loop->signal);
}

static struct request *request_new(enum wish wish, int owners)
{
	struct request *request = calloc(1, sizeof *request);
	if (request != NULL) {
		request->wish = wish;
		configurationInit(&request->members);
		sem_init(&request->done, 0, 0);
		atomic_init(&request->owners, owners);
	}
	return request;
}

int glue_node_take(struct glue_node *node, const struct glue_visit *visit)
{
	struct glue_loop *loop = glue_loop_of(node);
	struct request *request = request_new(TAKE_IN, 1);
	struct glue_visitor *visitor = glue_visitor_new(visit);
	int rv = request == NULL || visitor == NULL ? ENOMEM : glue_is_lost(node) ? ESHUTDOWN : 0;
	if (rv == 0) {
		request->options = loop->options;
		request->visitor = visitor;
		rv = submit(loop, request);
	}
	if (rv != 0) {
		glue_visitor_free(visitor);
		if (request != NULL) {
			request->visitor = NULL;
			request_release(request);
		}
	}
	return rv;
}

int glue_node_tell(struct glue_node *node, const struct glue_member *members, size_t n)
{
	struct request *request = request_new(TELL, 1);
	int rv = request == NULL ? RAFT_NOMEM : 0;
	for (size_t i = 0; rv == 0 && i < n; i++) {
		int role = translateDqliteRole((int)members[i].role);
		rv = members[i].id == 0
			 ? RAFT_INVALID
			 : configurationAdd(&request->members, members[i].id, members[i].address, role);
	}
	if (rv != 0) {
		rv = rv == RAFT_NOMEM ? ENOMEM : EINVAL;
	} else {
		rv = submit(glue_loop_of(node), request);
	}
	if (rv != 0 && request != NULL) {
		request_release(request);
	}
	return rv;
}

int glue_node_inspect(struct glue_node *node, unsigned timeout_ms, struct glue_status *status)
{
	struct request *request = request_new(INSPECT, 2);
	if (request == NULL) {
		return ENOMEM;
	}
	int rv = submit(glue_loop_of(node), request);
	if (rv != 0) {
		request_release(request);
		request_release(request);
		return rv;
	}
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	do {
		rv = sem_timedwait(&request->done, &until) == 0 ? 0 : errno;
	} while (rv == EINTR);
	if (rv == 0) {
		*status = request->status;
	}
	request_release(request);
	return rv;
}

void glue_loop_dialled(struct glue_loop *loop, const char *address, int fd)
{
	size_t size = strlen(address) + 1;
	struct request *request = request_new(DIALLED, 1);
	struct link *link = request != NULL ? calloc(1, sizeof *link + size) : NULL;
	if (link != NULL) {
		memcpy(link->address, address, size);
		link->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
		request->link = link;
		if ((link->fd >= 0) == (fd >= 0) && submit(loop, request) == 0) {
			return;
		}
	}
	/* Not watched, the link works as the engine's do. */
	if (request != NULL) {
		request_release(request);
	}
}

struct glue_loop *glue_loop_open(struct dqlite_node *engine, const struct glue_options *options)
{
	struct glue_loop *loop = calloc(1, sizeof *loop);
	if (loop == NULL) {
		return NULL;
	}
	loop->engine = engine;
	loop->options = options;
	configurationInit(&loop->told);
	if (uv_async_init(&engine->loop, &loop->signal, serve) != 0) {
		free(loop);
		return NULL;
	}
	glue_election_open(&loop->election, &engine->raft, &engine->loop);
	glue_install_open(&loop->install, &engine->raft, &engine->loop);
	uv_timer_init(&engine->loop, &loop->redial);
	loop->signal.data = loop;
	loop->redial.data = loop;
	/* They must not keep a loop running that is otherwise done. */
	uv_unref((uv_handle_t *)&loop->signal);
	uv_unref((uv_handle_t *)&loop->redial);
	pthread_mutex_init(&loop->mutex, NULL);
	return loop;
}

void glue_loop_detach(struct glue_loop *loop)
{
	pthread_mutex_lock(&loop->mutex);
	loop->closing = true;
	pthread_mutex_unlock(&loop->mutex);
	uv_close((uv_handle_t *)&loop->signal, NULL);
	glue_election_detach(&loop->election);
	glue_install_detach(&loop->install);
	uv_close((uv_handle_t *)&loop->redial, NULL);
	while (loop->links != NULL) {
		link_forget(loop->links);
	}
}

void glue_loop_free(struct glue_loop *loop)
{
	while (loop->first != NULL) {
		struct request *request = loop->first;
		loop->first = request->next;
		request_release(request);
	}
	configurationClose(&loop->told);
	pthread_mutex_destroy(&loop->mutex);
	free(loop);
}
