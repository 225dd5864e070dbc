//! Who votes and who stands by: go-dqlite's algorithm [app-behaviour 4 and 9] as functions of what is known. Nothing here
//! talks to anybody.
//!
//! Mixed clusters need the same decisions from every leader, or the next one would undo what the last one did. So this
//! differs from go-dqlite only where that one would harm the cluster, or allows less than we do:
//!
//! * Targets below three voters, and even ones, are allowed; see `too_small` for clusters of two.
//! * No demotion leaves the voters without a majority that is online: if the demotion of an online voter would, offline
//!   ones go first.
//! * Nobody offline is promoted; the leader is never demoted, and never taken for offline.
//! * The leader counts where voters crowd in a failure domain. Otherwise the voter that was just promoted for the sake of
//!   its domain could be the one that is demoted next, for ever.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

use crate::wire::Role;

/// How many voters and stand-bys a cluster should have. Every node of a cluster needs the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) voters: usize,
    pub(crate) standbys: usize,
}

impl Default for Targets {
    /// go-dqlite's.
    fn default() -> Self {
        Self { voters: 3, standbys: 3 }
    }
}

/// A member and what a probe of it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) role: Role,
    /// It answered DESCRIBE.
    pub(crate) online: bool,
    pub(crate) failure_domain: u64,
    /// Lighter nodes are promoted first, heavier ones demoted first.
    pub(crate) weight: u64,
}

/// One change of the configuration: the first candidate that accepts gets the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) role: Role,
    /// In order of preference, never empty.
    pub(crate) candidates: Vec<u64>,
}

type Domains = BTreeSet<u64>;

/// What a spare that has just joined asks for itself; nothing = it stays what it is. [app-behaviour 4.1]
pub(crate) fn assume(targets: Targets, peers: &[Peer], me: u64) -> Option<Role> {
    let role = find(peers, me)?.role;
    if role != Role::Spare || too_small(targets, peers) {
        None
    } else if online(peers, Role::Voter).count() < targets.voters {
        Some(Role::Voter)
    } else if online(peers, Role::StandBy).count() < targets.standbys {
        Some(Role::StandBy)
    } else {
        None
    }
}

/// Whom to make a voter too, after `me` became one by [`assume`]: two voters tolerate no more than one does, so the third
/// node of a cluster brings the second along. `peers` is how things were before. [app-behaviour 4.1]
pub(crate) fn assume_with(targets: Targets, peers: &[Peer], me: u64) -> Option<Change> {
    let alone = online(peers, Role::Voter).count() == 1;
    if !alone || targets.voters < 3 || assume(targets, peers, me) != Some(Role::Voter) {
        return None;
    }
    let voters = peers.iter().filter(|peer| peer.id == me || votes(peer));
    let others = reserves(peers).into_iter().filter(|peer| peer.id != me).collect();
    promote(Role::Voter, others, &domains(voters))
}

/// One change that brings the cluster nearer to its targets; nothing = it is as near as it can be. For the leader alone,
/// which has to be a voter that `peers` lists. [app-behaviour 4.2]
pub(crate) fn adjust(targets: Targets, peers: &[Peer], leader: u64) -> Option<Change> {
    // A leader without a vote is about to lose its office; the next one will see to it.
    find(peers, leader).filter(|peer| votes(peer))?;
    if too_small(targets, peers) {
        return demote(peers.iter().filter(|peer| votes(peer) && peer.id != leader));
    }
    let there = |peer: &&Peer| peer.online || peer.id == leader;
    let (voters, lost_voters): (Vec<&Peer>, Vec<&Peer>) = with_role(peers, Role::Voter).partition(there);
    if let Some(change) = spread(peers, &voters) {
        return Some(change);
    }
    let left = voters.len() - 1;
    match voters.len().cmp(&targets.voters.max(1)) {
        Ordering::Less => return promote(Role::Voter, reserves(peers), &domains(voters)),
        Ordering::Greater if is_majority(left, left + lost_voters.len()) => {
            return thin_out(&voters, leader);
        }
        _ => {}
    }
    if !lost_voters.is_empty() {
        return demote(lost_voters);
    }
    let (standbys, lost_standbys): (Vec<&Peer>, Vec<&Peer>) = with_role(peers, Role::StandBy).partition(there);
    match standbys.len().cmp(&targets.standbys) {
        Ordering::Less => promote(Role::StandBy, online(peers, Role::Spare).collect(), &domains(standbys)),
        Ordering::Greater => demote(standbys),
        Ordering::Equal => demote(lost_standbys),
    }
}

/// Whom to give one's role to before leaving; nothing = keep it. [app-behaviour 9]
pub(crate) fn successors(peers: &[Peer], me: u64) -> Option<Change> {
    let role = find(peers, me)?.role;
    let candidates = match role {
        Role::Voter => reserves(peers),
        Role::StandBy => online(peers, Role::Spare).collect(),
        Role::Spare => return None,
    };
    let equals = online(peers, role).filter(|peer| peer.id != me);
    promote(role, candidates, &domains(equals))
}

/// Whether a voter without successor had better give its vote up before it leaves: without it the other voters have a
/// majority, with it and away they have none. So the one that stays of two goes on.
pub(crate) fn should_resign(peers: &[Peer], me: u64) -> bool {
    let votes_now = with_role(peers, Role::Voter).count();
    let others = online(peers, Role::Voter).filter(|peer| peer.id != me).count();
    find(peers, me).is_some_and(votes) && !is_majority(others, votes_now) && is_majority(others, votes_now - 1)
}

/// Whether the others still have a majority of voters that is there once `id` has no vote any more.
pub(crate) fn can_spare(peers: &[Peer], id: u64) -> bool {
    let others = with_role(peers, Role::Voter).filter(|peer| peer.id != id);
    is_majority(others.clone().filter(|peer| peer.online).count(), others.count())
}

/// Who could lead instead of `me`, in order of preference. [app-behaviour 9]
pub(crate) fn next_leaders(peers: &[Peer], me: u64) -> Vec<u64> {
    let mut voters: Vec<&Peer> = online(peers, Role::Voter).filter(|peer| peer.id != me).collect();
    voters.sort_by_key(|peer| peer.weight);
    ids(voters)
}

/// With two of three voters a cluster tolerates no failure, and with one of two neither: as long as it cannot have the
/// three that were asked for, one voter is enough. go-dqlite has this rule for every cluster of two, since there the target
/// is three at least; who asks for two voters wants every write on both nodes, and gets it.
fn too_small(targets: Targets, peers: &[Peer]) -> bool {
    peers.len() < 3 && peers.len() < targets.voters
}

/// A failure domain that has nodes but no voter gets one, if another has more than one. This makes one voter too many; a
/// later change takes it from where voters crowd.
fn spread(peers: &[Peer], voters: &[&Peer]) -> Option<Change> {
    let all = domains(peers.iter().filter(|peer| peer.online));
    let used = domains(voters.iter().copied());
    if used.len() >= voters.len() {
        return None;
    }
    let unused: Domains = all.difference(&used).copied().collect();
    let candidates: Vec<&Peer> = reserves(peers)
        .into_iter()
        .filter(|peer| unused.contains(&peer.failure_domain))
        .collect();
    promote(Role::Voter, candidates, &used)
}

/// One voter less: from the domain that has most of them, the heaviest first.
fn thin_out(voters: &[&Peer], leader: u64) -> Option<Change> {
    let crowd = |peer: &Peer| {
        voters
            .iter()
            .filter(|other| other.failure_domain == peer.failure_domain)
            .count()
    };
    let mut candidates: Vec<&Peer> = voters.iter().copied().filter(|peer| peer.id != leader).collect();
    candidates.sort_by_key(|peer| (Reverse(crowd(peer)), Reverse(peer.weight)));
    demote(candidates)
}

/// Nodes in a domain that is not in `taken` come first, then the lighter ones, then the order of `candidates`.
fn promote(role: Role, mut candidates: Vec<&Peer>, taken: &Domains) -> Option<Change> {
    candidates.sort_by_key(|peer| (taken.contains(&peer.failure_domain), peer.weight));
    change(role, ids(candidates))
}

fn demote<'a>(candidates: impl IntoIterator<Item = &'a Peer>) -> Option<Change> {
    change(Role::Spare, ids(candidates))
}

fn change(role: Role, candidates: Vec<u64>) -> Option<Change> {
    (!candidates.is_empty()).then_some(Change { role, candidates })
}

/// Who can become a voter: stand-bys have the data already, so they come first.
fn reserves(peers: &[Peer]) -> Vec<&Peer> {
    online(peers, Role::StandBy).chain(online(peers, Role::Spare)).collect()
}

fn with_role(peers: &[Peer], role: Role) -> impl Iterator<Item = &Peer> + Clone {
    peers.iter().filter(move |peer| peer.role == role)
}

fn online(peers: &[Peer], role: Role) -> impl Iterator<Item = &Peer> {
    with_role(peers, role).filter(|peer| peer.online)
}

fn votes(peer: &Peer) -> bool {
    peer.role == Role::Voter
}

fn find(peers: &[Peer], id: u64) -> Option<&Peer> {
    peers.iter().find(|peer| peer.id == id)
}

fn domains<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Domains {
    peers.into_iter().map(|peer| peer.failure_domain).collect()
}

fn ids<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Vec<u64> {
    peers.into_iter().map(|peer| peer.id).collect()
}

fn is_majority(part: usize, all: usize) -> bool {
    part * 2 > all
}

#[cfg(test)]
#[path = "roles_property_tests.rs"]
mod property_tests;
#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
