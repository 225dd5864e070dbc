/*
 * What arrives on a link is looked at before raft has it.
 *
 * raft takes its peers for what they should be. What they say of lengths is followed, and what cannot come from a peer that
 * is in order ends in an assertion, or in a log that nobody can read. But a link is opened by whoever knows the id and the
 * address of a member, so no message of it may cost the node. Which can be believed is not decided here: whoever speaks for
 * a member may depose a leader, and add to the log.
 *
 * src/wire/link.rs says whether a message is whole. If not, its link is ended, for where the next one begins is not known.
 * What is whole and can be true of no cluster is left out here.
 *
 * glue_recv stands in for recvCb in start.c (LINES in build.rs).
 */
#include <sys/socket.h>

#include "internal.h"

#include "raft.h"
#include "raft/configuration.h"
#include "raft/entry.h"
#include "raft/log.h"
#include "raft/recv.h"
#include "raft/replication.h"

/* A term that is so much later than ours is nobody's; if it were taken, the last one would be near. */
#define LEAP ((raft_term)1 << 32)

bool glue_message_is_whole(uint16_t type, const uv_buf_t *header)
{
	const struct glue_options *options = glue_options_of(glue_raft_here());
	const struct glue_piece piece = {
		.peer = glue_visits_peer(glue_link_read()),
		.kind = GLUE_MESSAGE,
		.type = type,
		.bytes = (const uint8_t *)header->base,
		.size = header->len,
	};
	return !CURE_WHOLE || options->whole(options->data, &piece);
}

static bool contents_are_whole(const struct glue_options *options, const struct raft_message *message)
{
	struct glue_piece piece = { .peer = message->server_id, .kind = GLUE_ENTRY };
	if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
		piece.kind = GLUE_SNAPSHOT;
		piece.bytes = message->install_snapshot.data.base;
		piece.size = message->install_snapshot.data.len;
		return options->whole(options->data, &piece);
	}
	bool whole = true;
	for (unsigned i = 0; whole && message->type == RAFT_IO_APPEND_ENTRIES && i < message->append_entries.n_entries; i++) {
		const struct raft_entry *entry = &message->append_entries.entries[i];
		piece.type = entry->type;
		piece.bytes = entry->buf.base;
		piece.size = entry->buf.len;
		whole = options->whole(options->data, &piece);
	}
	return whole;
}

/* Not the entries of before our log, of which we do not know whether they are the same. */
static bool contradicts(struct raft *raft, raft_index index, raft_term term)
{
	raft_term ours = index > 0 && index <= raft->commit_index ? logTermOf(raft->log, index) : 0;
	return ours != 0 && ours != term;
}

/* The first members of a cluster are committed before anybody leads it; without them raft has no others to go back to. */
static bool takes_all_members(struct raft *raft, raft_index index, raft_term term)
{
	raft_term ours = index <= raft->configuration_uncommitted_index ? logTermOf(raft->log, index) : 0;
	return ours != 0 && ours != term && raft->configuration_committed_index == 0;
}

static const char *wrong_entries(struct raft *raft, const struct raft_append_entries *args)
{
	raft_index before = args->prev_log_index;
	if (before == 0 && args->n_entries > 0 && raft->log->offset > 0) {
		return "entries from the first one on, which a snapshot holds";
	}
	bool wrong = contradicts(raft, before, args->prev_log_term);
	for (unsigned i = 0; !wrong && i < args->n_entries; i++) {
		raft_index index = before + 1 + i;
		wrong = contradicts(raft, index, args->entries[i].term) || takes_all_members(raft, index, args->entries[i].term);
	}
	return wrong ? "others than the committed entries" : NULL;
}

/* For messages of a leader of this term, or of a later one. */
static const char *wrong_leader(struct raft *raft, raft_term term)
{
	return raft->state == RAFT_LEADER && term == raft->current_term ? "a leader's message of the term that this node leads in"
									 : NULL;
}

static const char *wrong_append(struct raft *raft, const struct raft_append_entries *args)
{
	const char *wrong = wrong_leader(raft, args->term);
	return wrong != NULL || args->term < raft->current_term ? wrong : wrong_entries(raft, args);
}

static const char *wrong_snapshot(struct raft *raft, const struct raft_install_snapshot *args)
{
	const char *wrong = wrong_leader(raft, args->term);
	if (wrong != NULL || args->term < raft->current_term) {
		return wrong;
	}
	return contradicts(raft, args->last_index, args->last_term) ? "a snapshot with others than the committed entries" : NULL;
}

/* Nobody promises a vote for another term than he was asked about, our next one. */
static const char *wrong_vote(struct raft *raft, const struct raft_request_vote_result *args)
{
	bool asked = raft->state == RAFT_CANDIDATE && raft->candidate_state.in_pre_vote;
	return asked && args->vote_granted && args->term > raft->current_term + 1 ? "a vote that was not asked for" : NULL;
}

/* raft takes no candidate that is being sent a snapshot. */
static const char *wrong_timeout(struct raft *raft)
{
	return replicationInstallSnapshotBusy(raft) ? "the lead, while a snapshot is being installed" : NULL;
}

static raft_term term_of(const struct raft_message *message)
{
	switch (message->type) {
	case RAFT_IO_APPEND_ENTRIES:
		return message->append_entries.term;
	case RAFT_IO_APPEND_ENTRIES_RESULT:
		return message->append_entries_result.term;
	case RAFT_IO_REQUEST_VOTE:
		return message->request_vote.term;
	case RAFT_IO_REQUEST_VOTE_RESULT:
		return message->request_vote_result.term;
	case RAFT_IO_INSTALL_SNAPSHOT:
		return message->install_snapshot.term;
	case RAFT_IO_TIMEOUT_NOW:
		return message->timeout_now.term;
	default:
		return 0;
	}
}

/* What a member in order never sends; NULL: nothing. */
static const char *what_is_wrong(struct raft *raft, const struct raft_message *message)
{
	raft_term term = term_of(message);
	if (message->server_id == raft->id) {
		return "a message of this node itself";
	}
	if (term > raft->current_term && term - raft->current_term > LEAP) {
		return "a term that cannot have come yet";
	}
	switch (message->type) {
	case RAFT_IO_APPEND_ENTRIES:
		return wrong_append(raft, &message->append_entries);
	case RAFT_IO_INSTALL_SNAPSHOT:
		return wrong_snapshot(raft, &message->install_snapshot);
	case RAFT_IO_REQUEST_VOTE:
		return message->request_vote.candidate_id != message->server_id ? "a request for another's votes" : NULL;
	case RAFT_IO_REQUEST_VOTE_RESULT:
		return wrong_vote(raft, &message->request_vote_result);
	case RAFT_IO_TIMEOUT_NOW:
		return wrong_timeout(raft);
	default:
		return NULL;
	}
}

static void forget(struct raft_message *message)
{
	if (message->type == RAFT_IO_APPEND_ENTRIES) {
		entryBatchesDestroy(message->append_entries.entries, message->append_entries.n_entries);
	} else if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
		configurationClose(&message->install_snapshot.conf);
		raft_free(message->install_snapshot.data.base);
	}
}

/* raft reads its end from the socket, as it reads all. */
static void end_link(void)
{
	uv_os_fd_t fd;
	if (uv_fileno((uv_handle_t *)glue_link_read(), &fd) == 0) {
		shutdown(fd, SHUT_RDWR);
	}
}

void glue_recv(struct raft_io *io, struct raft_message *message);
void glue_recv(struct raft_io *io, struct raft_message *message)
{
	struct raft *raft = io->data;
	const struct glue_options *options = glue_options_of(raft);
	if (raft->state != RAFT_UNAVAILABLE && CURE_WHOLE && !contents_are_whole(options, message)) {
		forget(message);
		end_link();
		return;
	}
	const char *wrong = raft->state != RAFT_UNAVAILABLE ? what_is_wrong(raft, message) : NULL;
	if (wrong != NULL) {
		options->left_out(options->data, message->server_id, wrong);
		forget(message);
		return;
	}
	recvCb(io, message);
}
