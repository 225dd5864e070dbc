//! Changes of the members, made through whoever leads until they are done, refused, or the deadline passes.
//!
//! Each is a wish for a state: the one who wishes can look whether it is there. So a change whose answer was lost is looked
//! up, and may be asked for again.

use std::time::{Duration, Instant};

use crate::client::conn::{Broken, Conn};
use crate::client::connector::{Connector, unexpected};
use crate::client::members::{Member, members};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::wire::{Request, Response, Role};

/// FAILURE codes of requests that need the leader; the last two of a pair are those of servers before 2020. [protocol 8]
const NOT_LEADER: [u64; 2] = [10250, 8202];
const LEADERSHIP_LOST: [u64; 2] = [10506, 8458];
const BUSY: u64 = 5;
/// Whatever has no better code: cancelled by a stop, or the leader's disk is full and the others have the change.
const IO_ERROR: u64 = 10;

/// How long to wait for another membership change, or an election, to end before asking again.
const PAUSE: Duration = Duration::from_millis(50);

/// What came of one attempt.
pub(super) enum Outcome {
    Done,
    /// Not now; nothing was changed.
    Later(Error),
    /// Never like this; nothing was changed.
    Refused(Error),
    /// It may be done now, or soon.
    Unknown(Error),
}

pub(super) fn add(connector: &Connector, id: u64, address: &str, deadline: Instant) -> Result<()> {
    let request = Request::Add {
        id,
        address: address.as_bytes(),
    };
    let added = |member: &Member| member.id == id && member.address == address;
    let doing = format!("adding node {id} at {address}");
    change(connector, &request, &doing, &|list| list.iter().any(added), deadline)
}

pub(super) fn assign(connector: &Connector, id: u64, role: Role, deadline: Instant) -> Result<()> {
    let has_it = |member: &Member| member.id == id && member.role == role;
    let doing = format!("making node {id} a {}", name(role));
    change(
        connector,
        &assignment(id, role),
        &doing,
        &|list| list.iter().any(has_it),
        deadline,
    )
}

pub(super) fn remove(connector: &Connector, id: u64, deadline: Instant) -> Result<()> {
    let gone = |list: &[Member]| list.iter().all(|member| member.id != id);
    change(
        connector,
        &Request::Remove { id },
        &format!("removing node {id}"),
        &gone,
        deadline,
    )
}

/// Lets the first of `heirs` lead that can. `leader` is who leads now; if another one does meanwhile, that is as good.
pub(super) fn move_lead(connector: &Connector, leader: &str, heirs: &[u64], deadline: Instant) -> Result<()> {
    let mut failures = Vec::new();
    for id in heirs {
        let doing = format!("giving the lead to node {id}");
        match try_lead(connector, leader, *id, &doing, deadline) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => failures.push(error.message().to_owned()),
        }
    }
    if failures.is_empty() {
        let nobody = format!("nobody can lead instead of {leader}: no other voter answers; nothing was changed");
        return Err(Error::new(Kind::Retry, nobody));
    }
    Err(Error::internal(failures.join("; ")))
}

fn try_lead(connector: &Connector, leader: &str, id: u64, doing: &str, deadline: Instant) -> Result<()> {
    let mut failure = None;
    loop {
        let (mut conn, address) = connector
            .leader(deadline)
            .map_err(|error| failure.take().unwrap_or(error))?;
        if address != leader {
            return Ok(());
        }
        match send(&mut conn, &address, &Request::Transfer { id }, doing, deadline) {
            Outcome::Refused(error) => return Err(error),
            // Done means that the old leader stepped down; the next look finds the new one.
            Outcome::Done => {}
            Outcome::Later(error) | Outcome::Unknown(error) => failure = Some(error),
        }
        if Instant::now() + PAUSE >= deadline {
            let late = || Error::new(Kind::Timeout, format!("{doing}: {leader} still leads"));
            return Err(failure.take().unwrap_or_else(late));
        }
        connector.pause(PAUSE)?;
    }
}

pub(super) fn assignment(id: u64, role: Role) -> Request<'static> {
    Request::Assign { id, role: role.into() }
}

pub(super) fn name(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::StandBy => "stand-by",
        Role::Spare => "spare",
    }
}

/// Sends the request to the leader until `done` is true of the members, it is refused, or the deadline passes.
fn change(
    connector: &Connector,
    request: &Request<'_>,
    doing: &str,
    done: &dyn Fn(&[Member]) -> bool,
    deadline: Instant,
) -> Result<()> {
    let mut unknown: Option<Error> = None;
    loop {
        let found = connector.leader(deadline);
        let (mut conn, address) = found.map_err(|error| unknown.take().unwrap_or(error.at(doing)))?;
        if unknown.is_some() && is_done(&mut conn, done, deadline) {
            return Ok(());
        }
        let error = match send(&mut conn, &address, request, doing, deadline) {
            Outcome::Done => return Ok(()),
            // What is there already is refused too.
            Outcome::Refused(_) if is_done(&mut conn, done, deadline) => return Ok(()),
            // Of an attempt before it that is not told.
            Outcome::Refused(error) => return Err(unknown.map_or(error.clone(), |before| before.with(error))),
            Outcome::Later(error) => error,
            Outcome::Unknown(error) => unknown.insert(error).clone(),
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(unknown.unwrap_or(error));
        }
        connector
            .pause(PAUSE)
            .map_err(|ended| unknown.clone().unwrap_or(ended))?;
    }
}

fn is_done(conn: &mut Conn, done: &dyn Fn(&[Member]) -> bool, deadline: Instant) -> bool {
    members(conn, deadline).is_ok_and(|list| done(&list))
}

/// One attempt, at whoever is at the other end.
pub(super) fn send(conn: &mut Conn, address: &str, request: &Request<'_>, doing: &str, deadline: Instant) -> Outcome {
    let catches_up = matches!(request, Request::Assign { role, .. } if *role == u64::from(Role::Voter));
    let limit = if catches_up {
        deadline
    } else {
        deadline.min(Instant::now() + limits::CHANGE)
    };
    let (code, message) = match conn.call(request, limit) {
        Ok(Response::Empty) => return Outcome::Done,
        Ok(Response::Failure { code, message }) => (code, String::from_utf8_lossy(message).into_owned()),
        Ok(other) => return Outcome::Refused(unexpected(request.name(), &other)),
        Err(broken) => return not_answered(broken, address, doing),
    };
    let said = format!("the leader {address} says: {message} (code {code})");
    match code {
        code if NOT_LEADER.contains(&code) => Outcome::Later(Error::new(Kind::NoLeader, said).at(doing)),
        BUSY => Outcome::Later(Error::new(Kind::Timeout, said).at(doing)),
        IO_ERROR => Outcome::Unknown(unknown(doing, &said)),
        code if LEADERSHIP_LOST.contains(&code) => Outcome::Unknown(unknown(doing, &said)),
        _ => Outcome::Refused(Error::internal(said).at(doing)),
    }
}

fn not_answered(broken: Broken, address: &str, doing: &str) -> Outcome {
    if broken.sent {
        return Outcome::Unknown(unknown(doing, &format!("{address}: {}", broken.reason)));
    }
    Outcome::Later(broken.into_error().at(doing))
}

fn unknown(doing: &str, why: &str) -> Error {
    Error::new(
        Kind::Unknown,
        format!("{doing}: {why}; it is not known whether the change was made"),
    )
}
