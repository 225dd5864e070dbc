/*
 * What the Rust side needs from the engine, and nothing else: one node from start to stop.
 *
 * The engine's own public functions have an order in which they do not crash, threads on which they must not be called
 * and errors that they forget to report. All of that ends here: glue_node_start does everything from create to a running
 * loop, glue_node_stop everything from there to freed memory, and an assertion in between ends in `lost`, never in abort.
 */
#ifndef DQLITEPY_GLUE_H
#define DQLITEPY_GLUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GLUE_ERRMSG_SIZE 600

/* What `prepare` decided, with the engine's lock on the data directory held and nothing started yet. */
enum glue_decision {
	GLUE_START,     /* start with what is on disk */
	GLUE_BOOTSTRAP, /* write the first configuration: this node alone, as voter */
	GLUE_REFUSE,    /* do not start; the reason is in the buffer */
};

enum glue_reach {
	GLUE_REACHED,
	GLUE_REFUSED, /* nobody listens at any of its addresses */
	GLUE_UNREACHED,
};

/* How far a member is that catches up. `peer` is who it is; 0 = this node itself. */
enum glue_stage {
	GLUE_SENDING,    /* to `peer`: bytes of a snapshot */
	GLUE_FAILED,     /* the link broke after so many of them; it is tried again */
	GLUE_INSTALLING, /* `peer` has them all */
	GLUE_FOLLOWING,  /* to `peer`: log entries */
	GLUE_CAUGHT_UP,  /* `peer` has all that there were when it was counted */
	GLUE_RECEIVING,  /* by this node: bytes of a snapshot */
	GLUE_INSTALLED,  /* they are in its database */
};

struct glue_progress {
	uint64_t peer;
	enum glue_stage stage;
	uint64_t done, total;
};

/* What is asked about a connection of a stranger. */
enum glue_moment {
	GLUE_HEADER,  /* may a request with this header of 8 bytes come in? */
	GLUE_REQUEST, /* here it is, without its header */
	GLUE_PAUSED,  /* it stopped in the middle of a request */
	GLUE_FLOODED, /* too much is arriving on all connections together */
};

/* Of what a member sends on its link. */
enum glue_piece_kind {
	GLUE_MESSAGE,  /* a message without its preamble and its payload; `type` is raft's */
	GLUE_ENTRY,    /* an entry of the log; the same */
	GLUE_SNAPSHOT, /* all of it */
};

struct glue_piece {
	uint64_t peer;
	enum glue_piece_kind kind;
	uint16_t type;
	const uint8_t *bytes;
	size_t size;
};

struct glue_path;

struct glue_options {
	uint64_t id;
	const char *address;
	const char *dir;
	unsigned busy_timeout_ms;
	unsigned network_latency_ms; /* 0: the engine's own timers */
	uint64_t failure_domain;
	uint64_t weight;
	unsigned snapshot_threshold; /* 0: weighed, see snapshot.c */
	unsigned snapshot_trailing;
	bool snapshot_dynamic;
	unsigned block_size; /* 0: what the engine finds best */
	bool auto_recovery;
	bool snapshot_compression;
	/* Called on the starting thread. */
	enum glue_decision (*prepare)(void *data, char *reason, size_t size);
	/* Called on pool threads, several at once: connect to a peer, hand over the socket. */
	enum glue_reach (*connect)(void *data, const char *address, int *fd);
	/* Called on whatever thread an assertion struck; must not call back into the node. */
	void (*lost)(void *data, const char *reason);
	/* Called on the loop's thread or a caller's (glue_node_ask), when a stage begins and every second: it must be quick. */
	void (*progress)(void *data, const struct glue_progress *progress);
	/* The same, for what arrives on links: false ends that link. */
	bool (*whole)(void *data, const struct glue_piece *piece);
	/* The same: a message of that member is left out, for it is true of no cluster that is in order. */
	void (*left_out)(void *data, uint64_t peer, const char *what);
	/* On the loop's thread, in a start: a part of the log, named here, was left out because it cannot be read. */
	void (*damaged)(void *data, const char *what);
	void *data;
	/* What strangers may do behind their first request: bytes of requests that are arriving, on all connections together;
	 * a pause inside a request; how long they may leave an answer unread, and how long unacknowledged if they read. */
	uint64_t arriving;
	unsigned pause_ms, unread_ms, unacknowledged_ms;
	/* Called on the loop's thread with the data of a glue_visit; false ends the connection. */
	bool (*check)(void *visit, enum glue_moment moment, const uint8_t *bytes, size_t size);
	/* The same: the engine's part of the connection is over. Called once, on any thread. */
	void (*left)(void *visit);
};

/* A connection for the engine to take in, as if its listener had accepted it. */
struct glue_visit {
	int fd;
	const uint8_t *first; /* what was read of it: up to a whole first request, which is in order; copied */
	size_t first_size;
	void *data; /* for `check` and `left`; NULL: it is trusted, and nothing is asked or told */
	struct glue_path *path; /* that is to lead to it, or NULL; the node takes a share of its own */
};

struct glue_node;

/* Blocks until the loop runs. On failure returns non-zero, leaves nothing behind and writes the reason. */
int glue_node_start(const struct glue_options *options, struct glue_node **out, char *reason, size_t size);

/* Blocks until the loop has ended; the node is gone afterwards. Non-zero if the engine reported an error. */
int glue_node_stop(struct glue_node *node);

/* How raft stands on this node. */
struct glue_status {
	bool leads;
	bool blank;      /* only a first configuration and barriers in the log, no session open */
	bool lone;	 /* the cluster was founded by this node and never had another member */
	uint64_t leader; /* 0: none known */
	uint64_t heir;	 /* whom a leader would best give its lead to; 0: nobody */
	uint64_t heir_lacks; /* bytes of the log that it has not acknowledged */
	uint64_t term;
	uint64_t last_index;
	uint64_t applied_index;
	unsigned members;
	uint64_t configuration; /* another number when the list of members is another one: ids, addresses, roles */
	int role; /* 0 voter, 1 stand-by, 2 spare, -1 no member; as the protocol numbers them */
	uint64_t databases;
};

/* Asks the loop; 0, or an errno (ETIMEDOUT if the loop did not answer in time). Any thread, until stop begins. */
int glue_node_inspect(struct glue_node *node, unsigned timeout_ms, struct glue_status *status);

/* 0: descriptor and data are the node's from here on. Otherwise an errno, and they are not. Any thread, until stop begins. */
int glue_node_take(struct glue_node *node, const struct glue_visit *visit);

/* Leads to a connection of this process for as long as that lasts; shared by whoever asks and the node. NULL: no memory. */
struct glue_path *glue_path_new(void);
/* Gives up a share. Any thread. */
void glue_path_release(struct glue_path *path);

/*
 * Brings a request, whole, and nothing more, to the connection at the end of the path, and has the engine begin with it on
 * this thread. False: nothing has happened; it is to be written to the connection's socket. True: it is under way, and the
 * first `*room` bytes of its answer are in `answer`, which had so many at most; what they lack comes by the socket.
 * Nothing else may be on its way on the connection. Takes some microseconds. Any thread, until stop begins.
 */
bool glue_node_ask(struct glue_node *node,
		   struct glue_path *path,
		   const uint8_t *request,
		   size_t size,
		   uint8_t *answer,
		   size_t *room);

/* A member, as others know it; the role as in glue_status. */
struct glue_member {
	uint64_t id;
	const char *address;
	uint64_t role;
};

/*
 * What strangers hear who ask for the members, on a node that the log does not reach. None: what raft knows. Copied; 0, or
 * an errno. Any thread, until stop begins.
 */
int glue_node_tell(struct glue_node *node, const struct glue_member *members, size_t n);

/* The lock's descriptor, for a forked child to close. */
int glue_node_lock_fd(const struct glue_node *node);

/* SHA-1 based digest that the engine derives ids with; pure. */
uint64_t glue_digest(const char *text, uint64_t salt);

/* ---- memory (reserve.c) ---- */

/* Units of the reserve that are in use. */
extern unsigned glue_reserve_used;
/* A block of less than a megabyte while at most so much of the reserve is used; NULL if it is full. Goes back by free. */
void *glue_reserve_take(size_t size, unsigned percent);
bool glue_reserve_is_ours(const void *block);
/* In a forked child, before anything else: a thread of the parent may have been at work in it. */
void glue_reserve_in_child(void);
/* malloc without the reserve. */
void *glue_host_malloc(size_t size);
/* Whether malloc has so much now. */
bool glue_memory_has(size_t size);
/* Whether the calling thread may use variables of its own; false if there is no memory for them. */
bool glue_thread_is_ready(void);
bool glue_thread_make_ready(void);

#endif
