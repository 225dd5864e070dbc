//! The members of a cluster, asked for and changed through its leader.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::conn::Conn;
use crate::client::connector::{Connector, text, unexpected};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::net::Address;
use crate::wire::{Request, Response, Role};

/// FAILURE codes of requests that need the leader. [protocol 8]
const NOT_LEADER: u64 = 10250;
const LEADERSHIP_LOST: u64 = 10506;
const BUSY: u64 = 5;

/// How long to wait for another membership change to end before asking again.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) role: Role,
}

/// A view on a cluster through a list of addresses.
pub(crate) struct Client {
    connector: Connector,
    timeout: Duration,
}

/// The members as the node at the other end of `conn` knows them; none if it never joined a cluster.
pub(crate) fn members(conn: &mut Conn, deadline: Instant) -> Result<Vec<Member>> {
    let request = Request::Cluster { format: 1 };
    match conn.call(&request, deadline).map_err(|broken| broken.into_error())? {
        Response::Nodes(list) => list
            .into_iter()
            .map(|member| {
                Ok(Member {
                    id: member.id,
                    address: text(member.address)?,
                    role: member.role,
                })
            })
            .collect(),
        other => Err(unexpected("CLUSTER", &other)),
    }
}

impl Client {
    pub(crate) fn new(addresses: Vec<Address>) -> Self {
        Self {
            connector: Connector::new(None, addresses),
            timeout: limits::CLIENT_CALL,
        }
    }

    /// The same, with another bound on each call.
    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The leader's address.
    pub(crate) fn leader(&self) -> Result<String> {
        Ok(self.connector.leader(self.deadline())?.1)
    }

    pub(crate) fn cluster(&self) -> Result<Vec<Member>> {
        let deadline = self.deadline();
        let (mut leader, _) = self.connector.leader(deadline)?;
        members(&mut leader, deadline)
    }

    /// Makes the node at `address` a voter. The same id and address again is success.
    pub(crate) fn add(&self, id: u64, address: &Address) -> Result<()> {
        if id == 0 {
            return Err(Error::invalid(format!("cannot add a node with id 0 at {address}: 0 is no node id")));
        }
        let deadline = self.deadline();
        let address = address.to_string();
        let (mut leader, _) = self.connector.leader(deadline)?;
        let present = members(&mut leader, deadline)?;
        if let Some(member) = present.iter().find(|member| member.id == id || member.address == address) {
            if member.id != id || member.address != address {
                return Err(Error::invalid(format!(
                    "cannot add node {id} at {address}: node {} at {} is a member already; remove it first",
                    member.id, member.address
                )));
            }
        } else {
            self.refuse_member_of_another_cluster(id, &address, deadline)?;
            let request = Request::Add {
                id,
                address: address.as_bytes(),
            };
            self.change(&request, "adding", deadline)?;
        }
        if present.iter().any(|member| member.id == id && member.role == Role::Voter) {
            return Ok(());
        }
        let request = Request::Assign {
            id,
            role: Role::Voter.into(),
        };
        self.change(&request, "promoting", deadline)
            .map_err(|error| error.at(format!("node {id} at {address} was added as a spare, but did not become a voter")))
    }

    /// A node that leads a cluster of its own cannot take over another log: the engine would abort the process.
    fn refuse_member_of_another_cluster(&self, id: u64, address: &str, deadline: Instant) -> Result<()> {
        let probe = deadline.min(Instant::now() + limits::PROBE);
        let mut conn = self
            .connector
            .dial(address, probe)
            .map_err(|error| error.at(format!("cannot add node {id}: start it first; nothing was changed")))?;
        let its_members = members(&mut conn, probe)
            .map_err(|error| error.at(format!("cannot add node {id}: {address} does not answer like a dqlite node")))?;
        if its_members.is_empty() {
            return Ok(());
        }
        Err(Error::misuse(format!(
            "cannot add node {id} at {address}: it belongs to a cluster of its own ({}). Start it with an empty data \
             directory and the addresses of this cluster as its cluster list (dqlitepy_node_create_with_cluster)",
            list(&its_members)
        )))
    }

    pub(crate) fn remove(&self, id: u64) -> Result<()> {
        let deadline = self.deadline();
        let (mut leader, _) = self.connector.leader(deadline)?;
        let present = members(&mut leader, deadline)?;
        if !present.iter().any(|member| member.id == id) {
            return Err(Error::new(
                Kind::NotFound,
                format!("cannot remove node {id}: no such member; the members are {}", list(&present)),
            ));
        }
        if present.len() == 1 {
            return Err(Error::misuse(format!(
                "cannot remove node {id}: it is the last member, and a cluster without members loses its data; \
                 stop the node instead"
            )));
        }
        self.change(&Request::Remove { id }, "removing", deadline)
    }

    /// Sends a membership change to the leader until it is done, refused, or the deadline passes.
    fn change(&self, request: &Request<'_>, doing: &str, deadline: Instant) -> Result<()> {
        loop {
            let (mut leader, address) = self.connector.leader(deadline)?;
            let response = leader.call(request, deadline).map_err(|broken| {
                let what = format!("{doing}: {}; it is not known whether the change was made", broken.reason);
                Error::new(Kind::Unknown, what)
            })?;
            let (code, message) = match response {
                Response::Empty => return Ok(()),
                Response::Failure { code, message } => (code, String::from_utf8_lossy(message).into_owned()),
                other => return Err(unexpected(request.name(), &other)),
            };
            let said = format!("{doing}: the leader {address} says: {message} (code {code})");
            match code {
                NOT_LEADER | BUSY if Instant::now() + CHANGE_PAUSE < deadline => thread::sleep(CHANGE_PAUSE),
                NOT_LEADER => return Err(Error::new(Kind::NoLeader, said)),
                BUSY => return Err(Error::new(Kind::Timeout, said)),
                LEADERSHIP_LOST => return Err(Error::new(Kind::Unknown, said)),
                _ => return Err(Error::internal(said)),
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

fn list(members: &[Member]) -> String {
    let all: Vec<String> = members
        .iter()
        .map(|member| format!("{} at {}", member.id, member.address))
        .collect();
    all.join(", ")
}
