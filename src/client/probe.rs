//! Who of the members is there, and what it says of itself: all are asked at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use crate::client::conn::{Broken, Conn};
use crate::client::connector::{Connector, Ways, unexpected};
use crate::client::members::Member;
use crate::client::roles::Peer;
use crate::error::Result;
use crate::limits;
use crate::net::sys;
use crate::wire::{Request, Response};

/// Threads for one round; more members than that wait for their turn.
const THREADS: usize = 32;

/// How a node wants to be weighed when roles are dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) failure_domain: u64,
    pub(crate) weight: u64,
}

/// The members with what they answered; who does not answer in time is offline. [app-behaviour 4.3]
pub(crate) fn probe(connector: &Connector, members: &[Member], deadline: Instant) -> Vec<Peer> {
    let deadline = deadline.min(Instant::now() + limits::PROBE);
    let addresses: Arc<[String]> = members.iter().map(|member| member.address.clone()).collect();
    let mut found = vec![None; members.len()];
    let (answer, answers) = mpsc::channel();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..members.len().min(THREADS) {
        let (ways, addresses) = (connector.ways(), Arc::clone(&addresses));
        let (next, answer) = (Arc::clone(&next), answer.clone());
        let asker = move || ask_next(&ways, &addresses, &next, &answer, deadline);
        match members.len() {
            1 => asker(),
            // Without a thread there is one less that asks; without any, nobody is there.
            _ => drop(sys::spawn("dqlite-probe", asker)),
        }
    }
    drop(answer);
    while let Ok((index, metadata)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        found[index] = metadata;
    }
    members
        .iter()
        .zip(found)
        .map(|(member, metadata)| peer(member, metadata))
        .collect()
}

type Answer = (usize, Option<Metadata>);

fn ask_next(ways: &Ways, addresses: &[String], next: &AtomicUsize, answer: &Sender<Answer>, deadline: Instant) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(address) = addresses.get(index) else {
            return;
        };
        let metadata = ways
            .dial(address, deadline)
            .and_then(|mut conn| describe(&mut conn, deadline));
        if answer.send((index, metadata.ok())).is_err() {
            return;
        }
    }
}

fn peer(member: &Member, metadata: Option<Metadata>) -> Peer {
    Peer {
        id: member.id,
        address: member.address.clone(),
        role: member.role,
        online: metadata.is_some(),
        failure_domain: metadata.map_or(0, |it| it.failure_domain),
        weight: metadata.map_or(0, |it| it.weight),
    }
}

/// What the node at the other end says of itself.
pub(super) fn describe(conn: &mut Conn, deadline: Instant) -> Result<Metadata> {
    let request = Request::Describe { format: 0 };
    match conn.call(&request, deadline).map_err(Broken::into_error)? {
        Response::Metadata { failure_domain, weight } => Ok(Metadata { failure_domain, weight }),
        other => Err(unexpected("DESCRIBE", &other)),
    }
}
