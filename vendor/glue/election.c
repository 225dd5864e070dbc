/*
 * When a node stands for election without waiting for raft's timers, which take seconds: when its leader is gone, or leads no
 * more, or when it led itself and was deposed.
 *
 * What keeps that safe: all of it begins with a pre-vote, which nobody grants who hears a leader. A leader is given up only
 * by who hears it no more and was refused a connection by its host or has waited as long as a lease (lease.c), or if it
 * says itself that it leads no more. And a leader may always step down.
 *
 * Stands in for recvRequestVote in recv.c and for convertToFollower there and in tick.c.
 */
#include <string.h>

#include "internal.h"

#include "raft.h"
#include "raft/configuration.h"
#include "raft/convert.h"
#include "raft/election.h"
#include "raft/recv_request_vote.h"
#include "raft/replication.h"

/*
 * Survivors that stand for election at once split the votes, so they take turns: a first pause, in which all of them notice
 * the end of the link, and one for each turn before their own; then how often to try again, and for how long in all.
 */
enum { FIRST_PAUSE_MS = 10, TURN_MS = 30, NEXT_PAUSE_MS = 80, NEXT_SPREAD_MS = 120, TRIES_MS = 15000 };

/* How long what a leader had sent before its link ended may still make this node follow it. */
enum { LAST_WORDS_MS = 300 };

/* What a leader that was deposed has for its own election, before those who followed it stand. */
enum { HEAD_START_MS = 300 };

/*
 * How long a leader whose links have ended may take to dial again, unless its host refuses our connection: as long as its reads
 * may go out without a proof (lease.c).
 */
enum { DOUBT_MS = CURE_DOUBT ? 1500 : FIRST_PAUSE_MS };

bool glue_is_over(const struct raft *raft)
{
	return raft->io->impl == NULL;
}

static bool is_voter(const struct raft *raft)
{
	const struct raft_server *self = configurationGet(&raft->configuration, raft->id);
	return self != NULL && self->role == RAFT_VOTER;
}

static unsigned random_below(struct raft *raft, unsigned limit)
{
	return (unsigned)raft->io->random(raft->io, 0, (int)limit);
}

/* Who asks this node is not sent to one that is gone. */
static void forget_leader(struct raft *raft)
{
	raft->follower_state.current_leader.id = 0;
	raft_free(raft->follower_state.current_leader.address);
	raft->follower_state.current_leader.address = NULL;
}

/* By id, which all of them know. */
static unsigned turn_of(const struct raft *raft, raft_id lost)
{
	unsigned turn = 0;
	for (unsigned i = 0; i < raft->configuration.n; i++) {
		const struct raft_server *server = &raft->configuration.servers[i];
		turn += server->role == RAFT_VOTER && server->id != lost && server->id < raft->id;
	}
	return turn;
}

static bool is_lost_leader(struct raft *raft, const char *address)
{
	raft_id lost = glue_election_of(raft)->lost_leader;
	const struct raft_server *server = lost != 0 ? configurationGet(&raft->configuration, lost) : NULL;
	return server != NULL && strcmp(server->address, address) == 0;
}

static void stand_for_election(uv_timer_t *timer);

static void stand_in(struct raft *raft, uint64_t pause)
{
	uv_timer_start(&glue_election_of(raft)->timer, stand_for_election, pause, 0);
}

static void stand_in_turn(struct raft *raft, uint64_t pause)
{
	stand_in(raft, pause + TURN_MS * turn_of(raft, glue_election_of(raft)->lost_leader));
}

/* Somebody has our vote, as whom we gave the lead to has. */
static bool has_voted(const struct raft *raft)
{
	return raft->voted_for != 0 && raft->voted_for != raft->id;
}

static void stand_for_election(uv_timer_t *timer)
{
	struct raft *raft = timer->data;
	struct glue_election *election = glue_election_of(raft);
	bool follows = raft->state == RAFT_FOLLOWER;
	if (glue_is_over(raft)) {
		return;
	}
	raft_time lost_for = raft->io->time(raft->io) - election->lost_at;
	election->gone = true;
	if (follows && election->lost_leader != 0 && raft->follower_state.current_leader.id == election->lost_leader &&
	    raft->current_term == election->lost_in && lost_for < LAST_WORDS_MS) {
		/* Its last message was still under way when its link ended. */
		forget_leader(raft);
	}
	bool decided = raft->state == RAFT_LEADER || raft->state == RAFT_UNAVAILABLE ||
		       (follows && raft->follower_state.current_leader.id != 0);
	if (decided || !is_voter(raft) || lost_for > TRIES_MS) {
		/* The next end of a link is another matter, also if it is the same leader's. */
		election->gone = false;
		election->lost_leader = 0;
		return;
	}
	raft_time patience = raft->election_timeout / 4;
	if (follows && election->lost_leader == raft->id && has_voted(raft) && lost_for < patience) {
		stand_in(raft, patience - lost_for);
		return;
	}
	/* What the old leader sent is written first: raft does not take a candidate with that under way. Own snapshots may be. */
	if (follows && (raft->follower_state.append_in_flight_count > 0 || replicationInstallSnapshotBusy(raft))) {
		stand_in_turn(raft, FIRST_PAUSE_MS);
		return;
	}
	if (follows) {
		convertToCandidate(raft, false);
	} else {
		electionStart(raft);
	}
	/* A new try makes the votes for the one before worthless, and those may take longer to come than it was thought. */
	uint64_t next = lost_for / 3;
	next = next > raft->election_timeout ? raft->election_timeout : next < NEXT_PAUSE_MS ? NEXT_PAUSE_MS : next;
	stand_in(raft, next + random_below(raft, next < NEXT_SPREAD_MS ? NEXT_SPREAD_MS : (unsigned)next));
}

static void note_lost(struct raft *raft, raft_id leader, bool gone)
{
	struct glue_election *election = glue_election_of(raft);
	/* The loop may have stood still. */
	uv_update_time(election->timer.loop);
	election->gone = gone;
	election->lost_leader = leader;
	election->lost_at = raft->io->time(raft->io);
	election->lost_in = raft->current_term;
}

/*
 * A link between us and the leader is gone. If its process is gone as well, waiting for the timer would only cost seconds. If
 * it is not, it dials again; but others may have lost it at the same time, and would elect one of us meanwhile. The engine
 * dials the leader anew, too: that its host refuses the connection is known as soon, and decides.
 */
static void lose(struct raft *raft, raft_id peer)
{
	const struct glue_election *election = glue_election_of(raft);
	if (raft->state != RAFT_FOLLOWER || raft->follower_state.current_leader.id != peer) {
		return;
	}
	/* A node that believes in a leader refuses the pre-votes of the others. */
	forget_leader(raft);
	if (is_voter(raft)) {
		/* It may have been elected again since. */
		bool same = election->lost_leader == peer && election->lost_in == raft->current_term;
		note_lost(raft, peer, election->gone && same);
		stand_in_turn(raft, election->gone ? FIRST_PAUSE_MS : DOUBT_MS);
	}
}

void glue_loop_link_lost(uint64_t peer)
{
	lose(glue_raft_here(), peer);
}

/* It has dialled again, so it lives, and what it says on the new link are no last words. */
void glue_loop_link_arrived(uint64_t peer)
{
	struct glue_election *election = glue_election_of(glue_raft_here());
	if (election->lost_leader == peer) {
		election->lost_leader = 0;
	}
}

/*
 * The leader lives as long as its own link to us does: what stands before its address may have died instead. Then it hears no
 * answers, and steps down by itself.
 */
void glue_link_ended(struct raft *raft, const char *address)
{
	if (raft->state == RAFT_FOLLOWER && raft->follower_state.current_leader.id != 0 &&
	    strcmp(raft->follower_state.current_leader.address, address) == 0 &&
	    !glue_visits_hear(raft->follower_state.current_leader.id)) {
		lose(raft, raft->follower_state.current_leader.id);
	}
}

/* If nobody listens there its process is gone. */
void glue_link_refused(struct raft *raft, const char *address)
{
	struct glue_election *election = glue_election_of(raft);
	glue_link_ended(raft, address);
	if (election->gone || !is_lost_leader(raft, address)) {
		return;
	}
	election->gone = true;
	raft_time lost_for = raft->io->time(raft->io) - election->lost_at;
	stand_in_turn(raft, lost_for < FIRST_PAUSE_MS ? FIRST_PAUSE_MS - lost_for : 0);
}

/*
 * A leader of ours that asks for votes of a later term leads in ours no more: it was a candidate in ours before it led, and
 * asked for no later one then. Who believed in it would refuse its vote to everybody, this one too, until its timer. And who
 * does not know yet that it is a voter has no timer, so it gives a leader up when it is asked.
 */
int glue_recv_request_vote(struct raft *raft, raft_id id, const char *address, const struct raft_request_vote *args);
int glue_recv_request_vote(struct raft *raft, raft_id id, const char *address, const struct raft_request_vote *args)
{
	raft_id leader = raft->state == RAFT_FOLLOWER ? raft->follower_state.current_leader.id : 0;
	raft_time silent_for = raft->io->time(raft->io) - raft->election_timer_start;
	if (leader != 0 && leader == args->candidate_id && args->term > raft->current_term) {
		forget_leader(raft);
		note_lost(raft, leader, false);
		stand_in_turn(raft, HEAD_START_MS);
	} else if (CURE_SILENT && leader != 0 && !is_voter(raft) && silent_for >= raft->election_timeout) {
		forget_leader(raft);
	}
	return recvRequestVote(raft, id, address, args);
}

/*
 * Where a leader hears of a later term, or no more of its majority. The term is another leader's, and we hear of that soon; or
 * that of a candidate who was sure of its votes and did not get them, because a follower that had lost us had found us again
 * meanwhile. It takes no entries of ours any more. Then nobody leads although we have our majority, and nobody else is as
 * likely to be elected. And if we are not, those who followed us learn that we lead no more.
 */
void glue_convert_to_follower(struct raft *raft);
void glue_convert_to_follower(struct raft *raft)
{
	bool led = raft->state == RAFT_LEADER;
	convertToFollower(raft);
	if (led) {
		note_lost(raft, raft->id, true);
		stand_in(raft, FIRST_PAUSE_MS);
	}
}

/*
 * A leader speaks on its own links and hears on those of its followers. If they cannot reach it they go on following it, and
 * nothing is committed. So it steps down where it has been on speaking terms with a majority that had no link to it, for as
 * long as they may well take to make one; who is down is no sign of that. Called from tick.c.
 */
bool glue_is_deaf(struct raft *raft);
bool glue_is_deaf(struct raft *raft)
{
	struct glue_election *election = glue_election_of(raft);
	raft_time now = raft->io->time(raft->io);
	unsigned voters = 0, unheard = 0;
	for (unsigned i = 0; i < raft->configuration.n; i++) {
		const struct raft_server *server = &raft->configuration.servers[i];
		bool votes = server->role == RAFT_VOTER;
		voters += votes;
		unheard += votes && server->id != raft->id && glue_speaks_to(raft, server->address) &&
			   !glue_visits_hear(server->id);
	}
	bool deaf = 2 * (voters - unheard) <= voters;
	if (!deaf || election->deaf_in != raft->current_term) {
		election->deaf_in = deaf ? raft->current_term : 0;
		election->deaf_since = now;
	}
	return deaf && now - election->deaf_since >= raft->election_timeout / 2;
}

void glue_election_open(struct glue_election *election, struct raft *raft, uv_loop_t *loop)
{
	uv_timer_init(loop, &election->timer);
	election->timer.data = raft;
	/* It must not keep a loop running that is otherwise done. */
	uv_unref((uv_handle_t *)&election->timer);
}

void glue_election_detach(struct glue_election *election)
{
	uv_close((uv_handle_t *)&election->timer, NULL);
}
