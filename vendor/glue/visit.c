/*
 * Connections that are taken in as if the engine's listener had accepted them: those of strangers, whose first request the
 * door has seen, and those of this process.
 *
 * The engine can be killed by a handful of bytes, so between its framing and its gateway a stranger's requests are shown to
 * the owner: the header before room is made for the body, and the body before anything is done with it. What is refused
 * is not read on; the owner has a descriptor of its own and says why. Stands in for uv_read_start and uv_read_stop in
 * lib/transport.c, for message__decode, gateway__handle and raftProxyAccept in conn.c, and for uv_close in uv_recv.c.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

#include "conn.h"
#include "lib/transport.h"
#include "protocol.h"
#include "server.h"
#include "transport.h"

/*
 * Buffers beyond KEPT are given back after the request that needed them. With a header comes what is there of its body, up to
 * so many bytes AHEAD of what the engine asked for: most requests are read at once.
 */
enum { KEPT = 1 << 20, AHEAD = 512 };

struct glue_visitor {
	struct conn conn; /* first, so that a connection of ours is a visitor */
	struct glue_visit visit;
	size_t fed;	  /* of visit.first */
	bool greeted;	  /* the first request has been seen, by the door */
	bool begun;	  /* a request has begun to arrive */
	bool held_up;	  /* the client does not take its answer */
	bool is_neighbour; /* on this host, by a socket without timeouts of its own */
	bool has_rows;	  /* and further ones of its query are under way */
	bool listens;	  /* libuv reads from the socket */
	bool wanted;	  /* and the engine wants what it reads */
	unsigned unwanted; /* reads since the engine wanted the last one */
	struct glue_path *path;
	uint64_t arrived; /* bytes of the request */
	uint64_t moved_at;
	uint16_t ahead_fed; /* of what is in ahead */
	uint16_t ahead_size;
	uint8_t ahead[AHEAD];
	uint8_t first[];
};

struct glue_path {
	atomic_int owners;
	struct glue_visitor *visitor; /* NULL: not there yet, or gone; with the turn */
};

/* A raft link that a peer opened. */
struct arrival {
	struct arrival *next;
	uv_stream_t *stream;
	uint64_t peer;
	void *data;
};

/* All of it with the turn (turn.c). */
struct glue_visits {
	struct dqlite_node *engine;
	const struct glue_options *options;
	uv_timer_t timer; /* runs while requests are arriving, or answers wait for neighbours */
	uint64_t arriving;
	struct arrival *links;
};

static void tell_left(const struct glue_options *options, void *data)
{
	if (data != NULL) {
		options->left(data);
	}
}

struct glue_path *glue_path_new(void)
{
	struct glue_path *path = calloc(1, sizeof *path);
	if (path != NULL) {
		atomic_init(&path->owners, 1);
	}
	return path;
}

void glue_path_release(struct glue_path *path)
{
	if (atomic_fetch_sub(&path->owners, 1) == 1) {
		free(path);
	}
}

static void path_lead_to(struct glue_path *path, struct glue_visitor *visitor)
{
	if (path != NULL) {
		path->visitor = visitor;
	}
}

void glue_visitor_free(struct glue_visitor *visitor)
{
	if (visitor != NULL && visitor->path != NULL) {
		glue_path_release(visitor->path);
	}
	free(visitor);
}

static void visitor_closed(struct conn *conn)
{
	struct glue_visitor *visitor = (struct glue_visitor *)conn;
	struct glue_visits *all = glue_visits_here();
	queue_remove(&conn->queue);
	all->arriving -= visitor->arrived;
	tell_left(all->options, visitor->visit.data);
	path_lead_to(visitor->path, NULL);
	glue_visitor_free(visitor);
}

/* NULL: a connection that the engine accepted itself. */
static struct glue_visitor *visitor_of(struct conn *conn)
{
	return conn->close_cb == visitor_closed ? (struct glue_visitor *)conn : NULL;
}

/* NULL: a connection that is trusted. */
static struct glue_visitor *stranger(struct conn *conn)
{
	struct glue_visitor *visitor = visitor_of(conn);
	return visitor != NULL && visitor->visit.data != NULL ? visitor : NULL;
}

struct glue_visitor *glue_visitor_new(const struct glue_visit *visit)
{
	struct glue_visitor *visitor = calloc(1, sizeof *visitor + visit->first_size);
	if (visitor != NULL) {
		visitor->visit = *visit;
		visitor->visit.first = visitor->first;
		if (visit->first_size > 0) {
			memcpy(visitor->first, visit->first, visit->first_size);
		}
		visitor->path = visit->path;
		if (visitor->path != NULL) {
			atomic_fetch_add(&visitor->path->owners, 1);
		}
	}
	return visitor;
}

void glue_visitor_send_away(struct glue_visitor *visitor, const struct glue_options *options)
{
	close(visitor->visit.fd);
	tell_left(options, visitor->visit.data);
	glue_visitor_free(visitor);
}

void glue_visitor_enter(struct glue_visitor *visitor)
{
	struct glue_visits *all = glue_visits_here();
	struct dqlite_node *engine = all->engine;
	struct uv_stream_s *stream;
	if (!engine->running || transport__stream(&engine->loop, visitor->visit.fd, &stream) != 0) {
		glue_visitor_send_away(visitor, all->options);
		return;
	}
	/* A first request that is at hand is handled before conn__start returns, and may end the visit. */
	queue_insert_tail(&engine->conns, &visitor->conn.queue);
	path_lead_to(visitor->path, visitor);
	int rv = conn__start(&visitor->conn, &engine->config, &engine->loop, &engine->registry, &engine->raft, stream,
			     &engine->raft_transport, visitor_closed);
	if (rv != 0) {
		/* Memory is short. The stream is being closed, and what its end touches stays. */
		queue_remove(&visitor->conn.queue);
		path_lead_to(visitor->path, NULL);
		tell_left(all->options, visitor->visit.data);
	}
}

/* False: the owner does not want it, and the connection is being closed. */
static bool may(struct glue_visitor *visitor, enum glue_moment moment, const void *bytes, size_t size)
{
	bool wanted = glue_visits_here()->options->check(visitor->visit.data, moment, bytes, size);
	if (!wanted) {
		conn__stop(&visitor->conn);
	}
	return wanted;
}

/* How long it may make no progress. 0: for ever, as far as we have to see to it. */
static uint64_t patience_with(const struct glue_visitor *visitor)
{
	const struct glue_options *options = glue_visits_here()->options;
	if (visitor->begun) {
		return options->pause_ms;
	}
	return visitor->held_up && visitor->is_neighbour ? options->unread_ms : 0;
}

static void look_for_pauses(uv_timer_t *timer)
{
	struct glue_visits *all = timer->data;
	bool any = false;
	queue *head;
	QUEUE_FOREACH(head, &all->engine->conns)
	{
		struct glue_visitor *visitor = stranger(QUEUE_DATA(head, struct conn, queue));
		if (visitor == NULL || visitor->conn.closed || patience_with(visitor) == 0) {
			continue;
		}
		if (uv_now(timer->loop) - visitor->moved_at < patience_with(visitor)) {
			any = true;
		} else {
			may(visitor, GLUE_PAUSED, NULL, 0);
		}
	}
	if (!any) {
		uv_timer_stop(timer);
	}
}

static void note_progress(struct glue_visitor *visitor, const uv_loop_t *loop)
{
	struct glue_visits *all = glue_visits_here();
	visitor->moved_at = uv_now(loop);
	if (!uv_is_active((uv_handle_t *)&all->timer)) {
		uint64_t tick = all->options->pause_ms / 8 + 1;
		uv_timer_start(&all->timer, look_for_pauses, tick, tick);
	}
}

static _Atomic(uv_read_cb) engine_read_cb;

static void stop_listening(struct glue_visitor *visitor)
{
	visitor->listens = false;
	uv_read_stop(visitor->conn.transport.stream);
}

/* Only a stranger's first request may make the connection raft's, which reads for itself. */
static bool may_read_ahead(const struct glue_visitor *visitor)
{
	return visitor->greeted && visitor->visit.data != NULL &&
	       visitor->conn.transport.read.len == message__sizeof(&visitor->conn.request);
}

/* No room: libuv leaves the bytes where they are. */
static void visitor_alloc(uv_handle_t *stream, size_t suggested, uv_buf_t *buf)
{
	struct transport *transport = stream->data;
	struct glue_visitor *visitor = transport->data;
	(void)suggested;
	if (!visitor->wanted) {
		*buf = uv_buf_init(NULL, 0);
	} else if (may_read_ahead(visitor)) {
		*buf = uv_buf_init((char *)visitor->ahead, AHEAD);
	} else {
		*buf = transport->read;
	}
}

/* Bytes of a request, which are where the engine wants them. */
static void hand_over(struct glue_visitor *visitor, uv_stream_t *stream, size_t n)
{
	struct glue_visits *all = glue_visits_here();
	if (visitor->visit.data != NULL) {
		visitor->begun = true;
		visitor->arrived += n;
		all->arriving += n;
		if (all->arriving > all->options->arriving && !may(visitor, GLUE_FLOODED, NULL, 0)) {
			return;
		}
		note_progress(visitor, stream->loop);
	}
	atomic_load(&engine_read_cb)(stream, (ssize_t)n, &visitor->conn.transport.read);
}

/* It may end amid a request. The visitor is there afterwards: only what the door has read can make it raft's. */
static void feed_ahead(struct glue_visitor *visitor, uv_stream_t *stream)
{
	struct transport *transport = &visitor->conn.transport;
	size_t left = visitor->ahead_size - visitor->ahead_fed;
	size_t n = left < transport->read.len ? left : transport->read.len;
	if (n > 0) {
		memcpy(transport->read.base, visitor->ahead + visitor->ahead_fed, n);
		visitor->ahead_fed += n;
		hand_over(visitor, stream, n);
	}
}

static bool has_gone(uv_stream_t *stream)
{
	struct pollfd client = { .events = POLLRDHUP };
	return uv_fileno((uv_handle_t *)stream, &client.fd) == 0 && poll(&client, 1, 0) == 1;
}

static void visitor_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct transport *transport = stream->data;
	struct glue_visitor *visitor = transport->data;
	if (visitor->conn.closed) {
		/* The engine rolls back first, and closes the stream then. */
		stop_listening(visitor);
		return;
	}
	if (!visitor->wanted) {
		/* libuv tries once again behind each read; after that the client is sending more, or has gone. */
		if (n != UV_ENOBUFS || ++visitor->unwanted > 1) {
			stop_listening(visitor);
			if (glue_is_about_members(&visitor->conn.gateway) && has_gone(stream)) {
				conn__stop(&visitor->conn);
			}
		}
		return;
	}
	if (n <= 0) {
		visitor->listens = n == 0;
		atomic_load(&engine_read_cb)(stream, n, buf);
	} else if (buf->base == (char *)visitor->ahead) {
		visitor->ahead_fed = 0;
		visitor->ahead_size = (uint16_t)n;
		feed_ahead(visitor, stream);
	} else {
		hand_over(visitor, stream, (size_t)n);
	}
}

static void give_back(struct buffer *buffer)
{
	struct buffer small;
	if ((size_t)buffer->n_pages * buffer->page_size > KEPT && buffer__init(&small) == 0) {
		small.offset = buffer->offset;
		buffer__close(buffer);
		*buffer = small;
	}
}

/* What the door has read comes first. It ends where the engine has read what it asked for, so nothing is fed in part. */
static bool feed_first(struct glue_visitor *visitor, uv_stream_t *stream, uv_read_cb read)
{
	struct transport *transport = &visitor->conn.transport;
	size_t left = visitor->visit.first_size - visitor->fed;
	size_t n = left < transport->read.len ? left : transport->read.len;
	if (n > 0) {
		memcpy(transport->read.base, visitor->first + visitor->fed, n);
		visitor->fed += n;
		/* The visitor may be gone afterwards. */
		read(stream, (ssize_t)n, &transport->read);
	}
	return n > 0;
}

int glue_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb read);
int glue_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb read)
{
	struct transport *transport = stream->data;
	struct conn *conn = transport->data;
	struct glue_visitor *visitor = visitor_of(conn);
	if (transport->read.len <= conn->read.page_size) {
		/* What was in the buffers is done with, whether a header is to be read or a body. */
		give_back(&conn->read);
		give_back(&conn->write);
		transport->read.base = buffer__cursor(&conn->read, 0);
	}
	if (visitor == NULL) {
		return uv_read_start(stream, alloc, read);
	}
	atomic_store(&engine_read_cb, read); /* always the same */
	visitor->wanted = true;
	if (feed_first(visitor, stream, read)) {
		return 0;
	}
	feed_ahead(visitor, stream);
	if (visitor->listens || !visitor->wanted || conn->closed) {
		return 0;
	}
	int rv = uv_read_start(stream, visitor_alloc, visitor_read);
	visitor->listens = rv == 0;
	return rv;
}

/*
 * The engine stops behind each header and each request and starts for the next; for the kernel's list of what is watched
 * that is two system calls a request. Few clients send anything before they have their answer.
 */
int glue_read_stop(uv_stream_t *stream);
int glue_read_stop(uv_stream_t *stream)
{
	struct transport *transport = stream->data;
	struct glue_visitor *visitor = visitor_of(transport->data);
	if (visitor == NULL) {
		return uv_read_stop(stream);
	}
	visitor->wanted = false;
	visitor->unwanted = 0;
	return 0;
}

/* Whether it waits for a header, and its client has sent nothing that it would read first. */
bool glue_path_is_quiet(struct glue_path *path)
{
	struct glue_visitor *visitor = path->visitor;
	uv_os_fd_t fd;
	uint8_t byte;
	if (visitor == NULL) {
		return false;
	}
	const struct conn *conn = &visitor->conn;
	bool waits = visitor->listens && visitor->wanted && !conn->closed && conn->gateway.req == NULL &&
		     conn->transport.write_cb == NULL && conn->transport.read.len == message__sizeof(&conn->request);
	return waits && uv_fileno((uv_handle_t *)conn->transport.stream, &fd) == 0 &&
	       recv(fd, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

uv_stream_t *glue_path_stream(struct glue_path *path)
{
	return path->visitor->conn.transport.stream;
}

void glue_path_hear(struct glue_path *path, const uint8_t *bytes, size_t size)
{
	struct glue_visitor *visitor = path->visitor;
	struct transport *transport = &visitor->conn.transport;
	while (size > 0 && visitor->wanted && !visitor->conn.closed) {
		size_t n = size < transport->read.len ? size : transport->read.len;
		memcpy(transport->read.base, bytes, n);
		bytes += n;
		size -= n;
		atomic_load(&engine_read_cb)(transport->stream, (ssize_t)n, &transport->read);
	}
}

int glue_message_decode(struct cursor *cursor, struct message *message);
int glue_message_decode(struct cursor *cursor, struct message *message)
{
	struct glue_visitor *visitor = stranger((struct conn *)((char *)message - offsetof(struct conn, request)));
	const char *header = cursor->p;
	int rv = message__decode(cursor, message);
	if (visitor != NULL && visitor->greeted && !may(visitor, GLUE_HEADER, header, cursor->p - header)) {
		/* The engine waits for nothing after a body of no words. */
		message->words = 0;
	}
	return rv;
}

/*
 * CLUSTER, to which the engine answers with the members that its log names. A spare's log names none, or those of the day
 * when it lost its role; who knows only spares would not find the others. Nothing is awaited in it.
 */
static int handle_cluster(struct gateway *gateway, struct handle *req, int schema, struct buffer *buffer, handle_cb cb)
{
	struct raft *raft = gateway->raft;
	struct raft_configuration own = raft->configuration;
	if (glue_told_of(raft)->n > 0) {
		raft->configuration = *glue_told_of(raft);
	}
	int rv = gateway__handle(gateway, req, DQLITE_REQUEST_CLUSTER, schema, buffer, cb);
	raft->configuration = own;
	return rv;
}

int glue_gateway_handle(struct gateway *gateway,
			struct handle *req,
			int type,
			int schema,
			struct buffer *buffer,
			handle_cb cb);
int glue_gateway_handle(struct gateway *gateway,
			struct handle *req,
			int type,
			int schema,
			struct buffer *buffer,
			handle_cb cb)
{
	struct conn *conn = (struct conn *)((char *)gateway - offsetof(struct conn, gateway));
	struct glue_visitor *visitor = stranger(conn);
	if (conn->closed) {
		return 0;
	}
	glue_visitor_note_rows(conn, false);
	if (visitor != NULL) {
		glue_visits_here()->arriving -= visitor->arrived;
		visitor->arrived = 0;
		visitor->begun = false;
		if (visitor->greeted && !may(visitor, GLUE_REQUEST, req->cursor.p, req->cursor.cap)) {
			return 0;
		}
		visitor->greeted = true;
	}
	if (visitor != NULL && type == DQLITE_REQUEST_CLUSTER) {
		return handle_cluster(gateway, req, schema, buffer, cb);
	}
	if (glue_is_unwanted(gateway, req, type, buffer, cb)) {
		return 0;
	}
	return gateway__handle(gateway, req, type, schema, buffer, cb);
}

void glue_visitor_note_rows(struct conn *conn, bool has_rows)
{
	struct glue_visitor *visitor = visitor_of(conn);
	if (visitor != NULL) {
		visitor->has_rows = has_rows;
	}
}

bool glue_visitor_has_rows(struct conn *conn)
{
	struct glue_visitor *visitor = visitor_of(conn);
	return visitor != NULL && visitor->has_rows;
}

/*
 * How long a client may leave its answer unread. As long as it reads, a host that is gone is noticed sooner; but to the
 * kernel's timer a program that pauses between two rows looks the same as a dead host.
 */
void glue_visitor_held_up(struct conn *conn, bool held_up)
{
	struct glue_visitor *visitor = stranger(conn);
	uv_os_fd_t fd;
	if (visitor == NULL || visitor->held_up == held_up ||
	    uv_fileno((uv_handle_t *)conn->transport.stream, &fd) != 0) {
		return;
	}
	const struct glue_options *options = glue_visits_here()->options;
	unsigned timeout = held_up ? options->unread_ms : options->unacknowledged_ms;
	visitor->held_up = held_up;
	visitor->is_neighbour = conn->transport.stream->type == UV_NAMED_PIPE;
	if (!visitor->is_neighbour) {
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
	} else if (held_up) {
		note_progress(visitor, conn->transport.stream->loop);
	}
}

/* From here on the connection is raft's, as a link from that peer. */
void glue_raft_accept(struct raft_uv_transport *transport, raft_id id, const char *address, struct uv_stream_s *stream);
void glue_raft_accept(struct raft_uv_transport *transport, raft_id id, const char *address, struct uv_stream_s *stream)
{
	struct glue_visits *all = glue_visits_here();
	struct conn *conn = ((struct transport *)stream->data)->data;
	struct glue_visitor *visitor = visitor_of(conn);
	struct arrival *link = calloc(1, sizeof *link);
	if (link == NULL) {
		uv_close((uv_handle_t *)stream, (uv_close_cb)raft_free);
		return;
	}
	*link = (struct arrival){ .next = all->links, .stream = stream, .peer = id };
	all->links = link;
	if (visitor != NULL) {
		link->data = visitor->visit.data; /* NULL: of this process */
		visitor->visit.data = NULL;
	}
	if (visitor != NULL && visitor->listens) {
		/* raft reads for itself. */
		stop_listening(visitor);
	}
	glue_loop_link_arrived(id);
	glue_snapshot_in_doubt(&all->engine->raft, id);
	raftProxyAccept(transport, id, address, stream);
}

/* The last one that it opened; those before may be half open. */
static struct arrival *arrival_of(const struct glue_visits *all, uint64_t peer)
{
	struct arrival *link = all->links;
	while (link != NULL && link->peer != peer) {
		link = link->next;
	}
	return link;
}

uint64_t glue_visits_peer(const uv_stream_t *stream)
{
	const struct arrival *link = glue_visits_here()->links;
	while (link != NULL && link->stream != stream) {
		link = link->next;
	}
	return link != NULL ? link->peer : 0;
}

bool glue_visits_hear(uint64_t peer)
{
	const struct arrival *link = arrival_of(glue_visits_here(), peer);
	struct pollfd ended = { .events = POLLRDHUP };
	return link != NULL && uv_fileno((const uv_handle_t *)link->stream, &ended.fd) == 0 && poll(&ended, 1, 0) == 0;
}

/*
 * If the link was the leader's, every millisecond until the next one counts. If we lead, the peer may see no other end of us
 * and vote for another.
 */
void glue_raft_link_close(uv_handle_t *handle, uv_close_cb cb);
void glue_raft_link_close(uv_handle_t *handle, uv_close_cb cb)
{
	struct glue_visits *all = glue_visits_here();
	struct arrival **place = &all->links;
	while (*place != NULL && (uv_handle_t *)(*place)->stream != handle) {
		place = &(*place)->next;
	}
	struct arrival *link = *place;
	if (link != NULL) {
		bool last = link == arrival_of(all, link->peer);
		*place = link->next;
		glue_lease_end(glue_lease_of(&all->engine->raft));
		if (last) {
			glue_loop_link_lost(link->peer);
			glue_snapshot_in_doubt(&all->engine->raft, link->peer);
		}
		tell_left(all->options, link->data);
		free(link);
	}
	uv_close(handle, cb);
}

struct glue_visits *glue_visits_open(struct dqlite_node *engine, const struct glue_options *options)
{
	struct glue_visits *all = calloc(1, sizeof *all);
	if (all != NULL) {
		all->engine = engine;
		all->options = options;
		uv_timer_init(&engine->loop, &all->timer);
		all->timer.data = all;
		uv_unref((uv_handle_t *)&all->timer);
	}
	return all;
}

void glue_visits_detach(struct glue_visits *all)
{
	uv_close((uv_handle_t *)&all->timer, NULL);
}
