//! The roles as a node of this process deals with them: it takes one when it joins, deals them while it leads, and hands
//! its own over when it leaves. Every function ends by its deadline.

use std::time::Instant;

use crate::client::change::{self, Outcome};
use crate::client::conn::Conn;
use crate::client::connector::{Connector, who_leads};
use crate::client::members::{Member, members};
use crate::client::probe::probe;
use crate::client::roles::{self, Change, Peer, Targets};
use crate::error::{Error, Kind, Result};
use crate::wire::Role;

/// What a node does that has just been added: it takes the role that the cluster lacks. [app-behaviour 4.1]
pub(crate) fn take_role(connector: &Connector, me: u64, targets: Targets, deadline: Instant) -> Result<()> {
    let (mut leader, _) = connector.leader(deadline)?;
    let present = members(&mut leader, deadline)?;
    drop(leader);
    if is_settled(&present, me) {
        return Ok(());
    }
    let peers = probe(connector, &present, deadline);
    let Some(role) = roles::assume(targets, &peers, me) else {
        return Ok(());
    };
    change::assign(connector, me, role, deadline)?;
    match roles::assume_with(targets, &peers, me) {
        // What fails here the leader makes up for.
        Some(change) => first_that_accepts(connector, &change, deadline).map(drop).or(Ok(())),
        None => Ok(()),
    }
}

/// One change of the roles, if `me` leads and the cluster needs one; whether it was made. Call again until it was not.
/// [app-behaviour 4.2]
pub(crate) fn adjust_once(
    connector: &Connector,
    me: u64,
    address: &str,
    targets: Targets,
    deadline: Instant,
) -> Result<bool> {
    let Some(mut conn) = own_lead(connector, me, address, deadline)? else {
        return Ok(false);
    };
    let present = members(&mut conn, deadline)?;
    let peers = probe(connector, &present, deadline);
    let Some(Change { role, candidates }) = roles::adjust(targets, &peers, me) else {
        return Ok(false);
    };
    let mut failures = Vec::new();
    for id in candidates {
        let doing = format!("making node {id} a {}", change::name(role));
        // Only here and only now: another leader decides for itself.
        match change::send(&mut conn, address, &change::assignment(id, role), &doing, deadline) {
            Outcome::Done => return Ok(true),
            Outcome::Refused(error) => failures.push(error.message().to_owned()),
            // A member that is to vote may catch up for minutes, and other changes wait for that.
            Outcome::Later(_) => return Ok(false),
            Outcome::Unknown(error) => return Err(error),
        }
    }
    Err(Error::internal(failures.join("; ")))
}

/// What a node does that is about to leave: somebody else gets its role and its lead, as far as there is anybody. Alone,
/// or without a role, it is success. [app-behaviour 9]
pub(crate) fn handover(connector: &Connector, me: u64, deadline: Instant) -> Result<()> {
    let (mut conn, leader) = connector.leader(deadline)?;
    let present = members(&mut conn, deadline)?;
    drop(conn);
    let Some(my_address) = present
        .iter()
        .find(|member| member.id == me)
        .map(|member| &member.address)
    else {
        return Ok(());
    };
    if present.len() == 1 {
        return Ok(());
    }
    let mut peers = probe(connector, &present, deadline);
    // Who takes the vote may have to catch up first; the lead can be moved without that.
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let given = give_role(connector, &mut peers, me, half);
    if *my_address == leader {
        change::move_lead(connector, &leader, &roles::next_leaders(&peers, me), deadline)?;
    }
    if matches!(given, Ok(true)) || roles::should_resign(&peers, me) {
        change::assign(connector, me, Role::Spare, deadline)?;
    }
    given.map(drop)
}

/// Moves the lead to somebody else, if `me` has it and somebody can take it; the roles stay. `heir` is tried first, because
/// nobody can write while the next leader catches up.
pub(crate) fn give_lead_away(
    connector: &Connector,
    me: u64,
    address: &str,
    heir: u64,
    deadline: Instant,
) -> Result<()> {
    let Some(mut conn) = own_lead(connector, me, address, deadline)? else {
        return Ok(());
    };
    let present = members(&mut conn, deadline)?;
    drop(conn);
    if present.len() < 2 {
        return Ok(());
    }
    // One that does not answer must not take the time in which another one could be given the lead.
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let peers = probe(connector, &present, half);
    let mut heirs = roles::next_leaders(&peers, me);
    heirs.sort_by_key(|id| *id != heir);
    match heirs.as_slice() {
        [] => Ok(()),
        heirs => change::move_lead(connector, address, heirs, deadline),
    }
}

/// Sees to it that `me`, who leads at `leader`, does not any more. Without another voter somebody becomes one first.
pub(super) fn step_down(
    connector: &Connector,
    peers: &mut [Peer],
    me: u64,
    leader: &str,
    deadline: Instant,
) -> Result<()> {
    if roles::next_leaders(peers, me).is_empty() {
        give_role(connector, peers, me, deadline)?;
    }
    change::move_lead(connector, leader, &roles::next_leaders(peers, me), deadline)
}

/// Gives a role like that of `me` to somebody else, and notes it in `peers`; false if nobody is there who could take it.
fn give_role(connector: &Connector, peers: &mut [Peer], me: u64, deadline: Instant) -> Result<bool> {
    let Some(change) = roles::successors(peers, me) else {
        return Ok(false);
    };
    let heir = first_that_accepts(connector, &change, deadline)?;
    for peer in peers.iter_mut().filter(|peer| peer.id == heir) {
        peer.role = change.role;
    }
    Ok(true)
}

/// Makes the change for the first candidate that it can be made for.
fn first_that_accepts(connector: &Connector, change: &Change, deadline: Instant) -> Result<u64> {
    let mut failures = Vec::new();
    for id in &change.candidates {
        match change::assign(connector, *id, change.role, deadline) {
            Ok(()) => return Ok(*id),
            Err(error) if error.kind() == Kind::Internal => {
                failures.push(error.message().to_owned());
            }
            // The next candidate would fare no better, or get the role in addition.
            Err(error) => return Err(error),
        }
    }
    Err(Error::internal(failures.join("; ")))
}

/// A connection to `me`, if it leads.
fn own_lead(connector: &Connector, me: u64, address: &str, deadline: Instant) -> Result<Option<Conn>> {
    let mut conn = connector.dial(address, deadline)?;
    let (leader, _) = who_leads(&mut conn, deadline)?;
    Ok((leader == me).then_some(conn))
}

fn is_settled(present: &[Member], me: u64) -> bool {
    present
        .iter()
        .any(|member| member.id == me && member.role != Role::Spare)
}

#[cfg(test)]
#[path = "manage_tests.rs"]
mod tests;
