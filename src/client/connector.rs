//! The ways to the nodes, and the one to the leader: ask who is at hand and who led last, and search if they do not know.
//! The rules are those of go-dqlite's connector [client-behaviour 1], with one deadline over all and a list of reasons.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::conn::{Broken, Conn};
use crate::client::members::members;
use crate::client::search::{Found, Search};
use crate::client::wake::{Wake, WakeSlot, interrupted};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::metrics::{Count, Metrics};
use crate::net::{self, Address, Cause, Stream};
use crate::wire::{Request, Response};

/// The node in this process, reached without its door.
pub(crate) trait Local: Send + Sync {
    /// Its address in the cluster.
    fn address(&self) -> &str;
    fn dial(&self) -> Result<Stream>;
    /// Whom to ask for the leader: the other members, as it knows them now, and whom it was told of.
    fn peers(&self) -> Vec<Address>;
    /// The other members alone.
    fn members(&self) -> Vec<Address>;
}

/// Where to look for a leader.
pub(crate) struct Connector {
    ways: Ways,
    addresses: Arc<[Address]>,
    /// The address of the last leader that was found.
    remembered: Arc<Mutex<Option<String>>>,
    /// The same, kept when later it was not found: to notice a change.
    led_last: Arc<Mutex<String>>,
}

/// How a node is reached. A copy goes to every thread that asks one.
#[derive(Clone)]
pub(super) struct Ways {
    local: Option<Arc<dyn Local>>,
    metrics: Arc<Metrics>,
    /// What the connections are made for, unless whoever asks for one says.
    call: Arc<WakeSlot>,
}

/// What one node said, and the connection on which it said so.
pub(super) enum Answer {
    Leads(Conn),
    Follows(Conn, String),
    Unknown(Conn),
}

/// How many nodes are asked one after another before all are asked at once: the node of this process, the last leader,
/// and whom each of them names.
const QUICK_QUESTIONS: usize = 4;

impl Connector {
    pub(crate) fn new(local: Option<Arc<dyn Local>>, addresses: Vec<Address>) -> Self {
        Self::counted(local, addresses, Metrics::new())
    }

    /// One that counts what is done through it where others count too.
    pub(crate) fn counted(local: Option<Arc<dyn Local>>, addresses: Vec<Address>, metrics: Arc<Metrics>) -> Self {
        Self {
            ways: Ways {
                local,
                metrics,
                call: Arc::default(),
            },
            addresses: addresses.into(),
            remembered: Arc::default(),
            led_last: Arc::default(),
        }
    }

    /// The same for one call: what is done through it ends with that.
    pub(crate) fn for_call(&self, call: &Arc<WakeSlot>) -> Self {
        Self {
            ways: Ways {
                call: Arc::clone(call),
                ..self.ways.clone()
            },
            addresses: Arc::clone(&self.addresses),
            remembered: Arc::clone(&self.remembered),
            led_last: Arc::clone(&self.led_last),
        }
    }

    /// Lets time pass, unless the call is ended meanwhile.
    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        self.ways.call.pause(time)
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.ways.metrics
    }

    /// A connection to the leader, and its address.
    pub(crate) fn leader(&self, deadline: Instant) -> Result<(Conn, String)> {
        self.leader_for(&self.ways.call, deadline)
    }

    /// The same for somebody who may give up earlier.
    pub(crate) fn leader_for(&self, waiting: &WakeSlot, deadline: Instant) -> Result<(Conn, String)> {
        let found = match self.quickly(waiting, deadline)? {
            Some(found) => Ok(found),
            None => Search::new(&self.ways, self.candidates(), deadline).run(waiting),
        };
        if let Ok(Found { address, .. }) = &found {
            self.note_leader(address);
        }
        let sure = found.as_ref().ok().filter(|found| !found.hearsay);
        *self.remembered.lock() = sure.map(|found| found.address.clone());
        found.map(|Found { conn, address, .. }| (conn, address))
    }

    /// Who leads in the place of the node at `address`, if somebody else knows and that one confirms it. Asks this process's
    /// node, or those of the list if there is none, one after the other while it is `wanted`.
    pub(super) fn successor(&self, address: &str, wanted: impl Fn() -> bool, deadline: Instant) -> Option<String> {
        let informants: Vec<String> = match &self.ways.local {
            Some(local) => vec![local.address().to_owned()],
            None => self.addresses.iter().map(ToString::to_string).collect(),
        };
        let ask = |informant: &str| self.ways.ask(informant, limits::QUICK, deadline);
        for informant in informants.iter().filter(|informant| *informant != address) {
            if !wanted() {
                return None;
            }
            match ask(informant) {
                Ok(Answer::Leads(_)) => return Some(informant.clone()),
                // A node that was cut off may name one that led before.
                Ok(Answer::Follows(_, leader)) if leader != address => {
                    if let Ok(Answer::Leads(_)) = ask(&leader) {
                        return Some(leader);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
        None
    }

    fn note_leader(&self, address: &str) {
        let mut last = self.led_last.lock();
        if *last != address {
            let known = !std::mem::replace(&mut *last, address.to_owned()).is_empty();
            self.metrics().add(Count::LeaderChanges, u64::from(known));
        }
    }

    /// A connection to that very node, whatever its role. On a thread, so that whoever waits for it can give it up: a host
    /// that swallows packets takes all of the time.
    pub(crate) fn dial(&self, address: &str, deadline: Instant) -> Result<Conn> {
        let (ways, wanted) = (self.ways.clone(), address.to_owned());
        let (reply, replies) = mpsc::channel();
        let waits = Arc::new(());
        self.ways.call.watch(Box::new(GivenUp {
            waits: Arc::downgrade(&waits),
            reply: reply.clone(),
        }))?;
        net::sys::spawn("dqlite-dial", move || {
            // Nobody may be listening any more.
            let _ = reply.send(Some(ways.dial(&wanted, deadline)));
        })
        .map_err(|error| Error::internal(format!("no thread to connect to {address} on: {error}")))?;
        let left = deadline.saturating_duration_since(Instant::now());
        // The thread has the same deadline, and knows better why it failed.
        match replies.recv_timeout(left + limits::QUICK) {
            Ok(Some(dialled)) => {
                let conn = dialled?;
                self.ways.call.watch(Box::new(conn.waker()))?;
                Ok(conn)
            }
            Ok(None) => self.ways.call.check().and(Err(interrupted())),
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("connecting to {address}: no answer before the deadline"),
            )),
        }
    }

    pub(super) fn ways(&self) -> Ways {
        self.ways.clone()
    }

    /// This process's node and the last leader usually know, and asking them costs no thread.
    fn quickly(&self, waiting: &WakeSlot, deadline: Instant) -> Result<Option<Found>> {
        // This process's node first: it notices sooner than anybody who asks that the last leader is gone.
        let mut next: VecDeque<String> = self.ways.local.iter().map(|local| local.address().to_owned()).collect();
        next.extend(self.remembered.lock().iter().cloned());
        if let ([only], true) = (&*self.addresses, next.is_empty()) {
            next.push_back(only.to_string());
        }
        let mut asked = Vec::new();
        while let Some(address) = next.pop_front() {
            if asked.contains(&address) || asked.len() == QUICK_QUESTIONS {
                continue;
            }
            waiting.check()?;
            match self.ways.ask_for(waiting, &address, limits::QUICK, deadline) {
                Ok(Answer::Leads(conn)) => {
                    let hearsay = false;
                    return Ok(Some(Found { conn, address, hearsay }));
                }
                Ok(Answer::Follows(_, leader)) => next.push_front(leader),
                Ok(Answer::Unknown(_)) | Err(_) => {}
            }
            asked.push(address);
        }
        waiting.check()?;
        Ok(None)
    }

    /// The last leader first, then this process's node and the members that it knows, then the list.
    fn candidates(&self) -> Vec<String> {
        let mut all: Vec<String> = self.remembered.lock().iter().cloned().collect();
        if let Some(local) = &self.ways.local {
            all.push(local.address().to_owned());
            all.extend(local.peers().iter().map(ToString::to_string));
        }
        all.extend(self.addresses.iter().map(ToString::to_string));
        all
    }
}

impl Ways {
    pub(super) fn dial(&self, address: &str, deadline: Instant) -> Result<Conn> {
        let stream = match &self.local {
            Some(local) if local.address() == address => local.dial()?,
            _ => Stream::connect(&Address::parse_peer(address, "address")?, deadline)?,
        };
        Ok(Conn::counted(stream, Arc::clone(&self.metrics)))
    }

    /// Who leads, as the node at `address` has it; it has to answer within `limit`.
    pub(super) fn ask(&self, address: &str, limit: Duration, deadline: Instant) -> Result<Answer> {
        self.ask_for(&self.call, address, limit, deadline)
    }

    fn ask_for(&self, waiting: &WakeSlot, address: &str, limit: Duration, deadline: Instant) -> Result<Answer> {
        let deadline = deadline.min(Instant::now() + limit);
        let mut conn = self.dial(address, deadline)?;
        waiting.watch(Box::new(conn.waker()))?;
        let (id, leader) = who_leads(&mut conn, deadline)?;
        match leader.as_str() {
            "" => Ok(Answer::Unknown(conn)),
            _ if id == 0 => Ok(Answer::Unknown(conn)),
            leads if leads == address => self.check_ours(conn, address, deadline).map(Answer::Leads),
            _ => Ok(Answer::Follows(conn, leader)),
        }
    }

    /// A node of this process has data in one cluster only. At the address of a member that lost everything another one
    /// may have been founded, and what is written there would be written to the wrong place. If it is this node that lost
    /// everything, the cluster that it was in before lists it too, so one of its other members has to be known here.
    fn check_ours(&self, mut leader: Conn, address: &str, deadline: Instant) -> Result<Conn> {
        if let Some(local) = self.local.as_ref().filter(|local| local.address() != address) {
            let its_members = members(&mut leader, deadline)?;
            let lists = |address: &str| its_members.iter().any(|member| member.address == address);
            let known = local.members();
            if !lists(local.address()) || !known.iter().any(|member| lists(&member.to_string())) {
                return Err(Error::internal(format!(
                    "leads a cluster to which {} does not belong",
                    local.address()
                )));
            }
        }
        Ok(leader)
    }
}

/// Id and address of the leader, as the node at the other end sees it; 0 and nothing if it sees none.
pub(crate) fn who_leads(conn: &mut Conn, deadline: Instant) -> Result<(u64, String)> {
    match conn.call(&Request::Leader, deadline).map_err(Broken::into_error)? {
        Response::Node { id, address } => Ok((id, text(address)?)),
        other => Err(unexpected("LEADER", &other)),
    }
}

/// Ends the wait for a connection that is being made.
struct GivenUp {
    waits: Weak<()>,
    reply: Sender<Option<Result<Conn>>>,
}

impl Wake for GivenUp {
    fn wake(&self) {
        // It may be there already.
        let _ = self.reply.send(None);
    }

    fn is_alive(&self) -> bool {
        self.waits.strong_count() > 0
    }
}

impl Broken {
    /// For calls that change nothing.
    pub(crate) fn into_error(self) -> Error {
        let kind = match self.cause {
            Cause::TimedOut => Kind::Timeout,
            Cause::Woken => Kind::Shutdown,
            Cause::Closed => Kind::Retry,
            Cause::NoMemory => Kind::NoMemory,
            Cause::TooLong | Cause::Other => Kind::Internal,
        };
        Error::new(kind, self.reason)
    }
}

/// The engine's texts are ASCII; anything else comes from a stranger.
pub(crate) fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::internal("the node sent a text that is not UTF-8"))
}

pub(crate) fn unexpected(request: &str, response: &Response<'_>) -> Error {
    match response {
        Response::Failure { code, message } => Error::internal(format!(
            "{request} was refused: {} (code {code})",
            String::from_utf8_lossy(message)
        )),
        other => Error::internal(format!("{request} was answered with {}", other.name())),
    }
}

#[cfg(test)]
#[path = "connector_tests.rs"]
mod tests;
