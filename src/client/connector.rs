//! Finding the leader: ask whoever is known who leads, follow what they say once, try again until the deadline.
//! The rules are those of go-dqlite's connector [client-behaviour 1], with one deadline over all and a list of reasons.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::conn::{Broken, Conn};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::net::{Address, Cause, Stream};
use crate::wire::{Request, Response};

/// The pause before the second round; it doubles up to the cap.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The node in this process, reached without its door.
pub(crate) trait Local: Send + Sync {
    /// Its address in the cluster.
    fn address(&self) -> &str;
    fn dial(&self, deadline: Instant) -> Result<Stream>;
    /// The other members, as it knows them now.
    fn peers(&self) -> Vec<Address>;
}

/// Where to look for a leader.
pub(crate) struct Connector {
    local: Option<Arc<dyn Local>>,
    addresses: Vec<Address>,
    /// The address of the last leader that was found.
    remembered: Mutex<Option<String>>,
}

/// What one node said.
enum Answer {
    Leads(Conn),
    Follows(String),
    Unknown,
}

impl Connector {
    pub(crate) fn new(local: Option<Arc<dyn Local>>, addresses: Vec<Address>) -> Self {
        Self {
            local,
            addresses,
            remembered: Mutex::new(None),
        }
    }

    /// A connection to the leader, and its address.
    pub(crate) fn leader(&self, deadline: Instant) -> Result<(Conn, String)> {
        self.leader_unless(deadline, &mut |pause| {
            thread::sleep(pause);
            Ok(())
        })
    }

    /// The same; `sleep` waits between two rounds and may end the search.
    pub(crate) fn leader_unless(
        &self,
        deadline: Instant,
        sleep: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<(Conn, String)> {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut reasons = Vec::new();
            if let Some(found) = self.round(deadline, &mut reasons) {
                *self.remembered.lock() = Some(found.1.clone());
                return Ok(found);
            }
            *self.remembered.lock() = None;
            let left = deadline.saturating_duration_since(Instant::now());
            if reasons.iter().any(|(_, error)| error.kind() == Kind::Shutdown) {
                return Err(no_leader(&reasons));
            }
            if left <= pause {
                // A round without time would only hide the reasons of this one.
                return Err(no_leader(&reasons));
            }
            sleep(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn round(&self, deadline: Instant, reasons: &mut Vec<(String, Error)>) -> Option<(Conn, String)> {
        for address in self.candidates() {
            let deadline = deadline.min(Instant::now() + limits::PROBE);
            match self.ask(&address, deadline) {
                Ok(Answer::Leads(conn)) => return Some((conn, address)),
                Ok(Answer::Follows(leader)) => match self.ask(&leader, deadline) {
                    Ok(Answer::Leads(conn)) => return Some((conn, leader)),
                    Ok(_) => reasons.push((address, Error::internal(format!("says {leader} leads, which denies it")))),
                    Err(error) => reasons.push((address, error.at(format!("says {leader} leads")))),
                },
                Ok(Answer::Unknown) => reasons.push((address, Error::internal("knows no leader"))),
                Err(error) => reasons.push((address, error)),
            }
        }
        None
    }

    /// The last leader first, then this process's node, then the list.
    fn candidates(&self) -> Vec<String> {
        let mut all: Vec<String> = self.remembered.lock().iter().cloned().collect();
        all.extend(self.local.iter().map(|local| local.address().to_owned()));
        all.extend(self.local.iter().flat_map(|local| local.peers()).map(|peer| peer.to_string()));
        all.extend(self.addresses.iter().map(ToString::to_string));
        let mut seen = Vec::new();
        all.retain(|address| {
            let new = !seen.contains(address);
            seen.push(address.clone());
            new
        });
        all
    }

    fn ask(&self, address: &str, deadline: Instant) -> Result<Answer> {
        let mut conn = self.dial(address, deadline)?;
        let answer = conn.call(&Request::Leader, deadline).map_err(|broken| broken.into_error())?;
        let (id, leader) = match answer {
            Response::Node { id, address } => (id, text(address)?),
            other => return Err(unexpected("LEADER", &other)),
        };
        Ok(match leader.as_str() {
            "" => Answer::Unknown,
            _ if id == 0 => Answer::Unknown,
            leads if leads == address => Answer::Leads(conn),
            _ => Answer::Follows(leader),
        })
    }

    /// A connection to that very node, whatever its role.
    pub(crate) fn dial(&self, address: &str, deadline: Instant) -> Result<Conn> {
        let stream = match &self.local {
            Some(local) if local.address() == address => local.dial(deadline)?,
            _ => Stream::connect_tcp(&Address::parse_peer(address, "address")?, deadline)?,
        };
        Ok(Conn::new(stream))
    }
}

impl Broken {
    /// For calls that change nothing.
    pub(crate) fn into_error(self) -> Error {
        let kind = match self.cause {
            Cause::TimedOut => Kind::Timeout,
            Cause::Woken => Kind::Shutdown,
            Cause::Closed => Kind::Retry,
            Cause::Other => Kind::Internal,
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

fn no_leader(reasons: &[(String, Error)]) -> Error {
    let tried: Vec<String> = reasons
        .iter()
        .map(|(address, error)| format!("{address}: {}", error.message()))
        .collect();
    let kind = if reasons.iter().any(|(_, error)| error.kind() == Kind::Shutdown) {
        Kind::Shutdown
    } else {
        Kind::NoLeader
    };
    Error::new(
        kind,
        format!("no leader found before the deadline; tried {}", tried.join("; ")),
    )
}
