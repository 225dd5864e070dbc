//! The members of a cluster, asked for and changed through its leader.

use std::sync::Arc;
use std::time::Instant;

use crate::client::change;
use crate::client::conn::{Broken, Conn};
use crate::client::connector::{Connector, text, unexpected, who_leads};
use crate::client::manage;
use crate::client::manage::take_role;
use crate::client::probe::{Metadata, describe, probe};
use crate::client::roles;
use crate::client::roles::Targets;
use crate::client::wake::WakeSlot;
use crate::error::{Error, Kind, Result};
use crate::limits::{self, Timeout};
use crate::metrics::{Call, Snapshot};
use crate::net::Address;
use crate::wire::{Request, Response, Role};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) role: Role,
}

/// A view on a cluster through a list of addresses.
pub(crate) struct Client {
    connector: Connector,
    timeout: Timeout,
    /// Its calls, each in a child.
    calls: Arc<WakeSlot>,
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
            timeout: Timeout::new(&limits::CLIENT_CALL),
            calls: Arc::default(),
        }
    }

    /// Bounds each call that begins from now on; 0: as the process's.
    pub(crate) fn set_timeout(&self, ms: u32) {
        self.timeout.set(ms);
    }

    /// Ends the calls that are under way.
    pub(crate) fn interrupt(&self) {
        self.calls.interrupt_children();
    }

    /// Makes a call of somebody who counts, for `interrupt` to end.
    pub(crate) fn counted<T>(&self, call: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let done = self.calls.call(|slot| call(&self.for_call(slot)));
        self.connector
            .metrics()
            .call(Call::Members, began.elapsed(), done.as_ref().err());
        done
    }

    /// The same for one call, which ends with `slot`.
    pub(crate) fn for_call(&self, slot: &Arc<WakeSlot>) -> Self {
        Self {
            connector: self.connector.for_call(slot),
            timeout: self.timeout.clone(),
            calls: Arc::clone(&self.calls),
        }
    }

    pub(crate) fn figures(&self) -> Snapshot {
        self.connector.metrics().snapshot()
    }

    /// Waits for something else, for `interrupt` to end.
    pub(crate) fn wait<T>(&self, body: impl FnOnce(&WakeSlot) -> Result<T>) -> Result<T> {
        self.calls.call(|slot| body(slot))
    }

    /// The leader's address.
    pub(crate) fn leader(&self) -> Result<String> {
        Ok(self.connector.leader(self.deadline())?.1)
    }

    pub(crate) fn cluster(&self) -> Result<Vec<Member>> {
        self.members(self.deadline())
    }

    /// Adds the node at `address`, and makes it a voter if it answers; an address that does not is added as a spare, which
    /// costs the cluster no vote. The same id and address again is success. What the node is then; an error means that it
    /// is no member, unless it says that this is not known.
    pub(crate) fn add(&self, id: u64, address: &Address) -> Result<Role> {
        if id == 0 {
            return Err(Error::invalid("cannot add node 0: id 0 is no node id"));
        }
        let deadline = self.deadline();
        let address = address.to_string();
        let present = self.members(deadline)?;
        let (role, answers) = match find_same(&present, id, &address)? {
            Some(member) if member.role == Role::Voter => return Ok(Role::Voter),
            Some(member) => (member.role, self.answers(member, deadline)),
            None => {
                let answers = self.check_newcomer(id, &address, &present, deadline)?;
                self.take_in(id, &address, deadline)?;
                (Role::Spare, answers)
            }
        };
        // It is a member now; what it lacks of a voter, the leader may still make of it.
        match answers && change::assign(&self.connector, id, Role::Voter, deadline).is_ok() {
            true => Ok(Role::Voter),
            false => Ok(role),
        }
    }

    /// What a node does to become a member: it is added as a spare, if it is none yet, and takes the role that the cluster
    /// lacks. Without that role it is a member all the same; the leader will deal it one.
    pub(crate) fn enter(&self, id: u64, address: &Address, targets: Targets) -> Result<()> {
        let deadline = self.deadline();
        let address = address.to_string();
        if find_same(&self.members(deadline)?, id, &address)?.is_none() {
            self.take_in(id, &address, deadline)?;
        }
        let _ = take_role(&self.connector, id, targets, deadline);
        // go-dqlite leaves the second node of a cluster without data, because two voters tolerate no more failures than one.
        // But whoever lists two nodes wants the data on both.
        if targets.voters > 1 && self.members(deadline)?.len() == 2 {
            let _ = change::assign(&self.connector, id, Role::Voter, deadline);
        }
        Ok(())
    }

    fn take_in(&self, id: u64, address: &str, deadline: Instant) -> Result<()> {
        change::add(&self.connector, id, address, deadline).or_else(|error| {
            // Who came at the same time with this id or address was quicker.
            find_same(&self.members(deadline)?, id, address)?;
            Err(error)
        })
    }

    /// Whether the node answers. One that leads a cluster of its own is refused: it cannot take over another log, the
    /// engine would abort the process.
    fn check_newcomer(&self, id: u64, address: &str, present: &[Member], deadline: Instant) -> Result<bool> {
        let limit = deadline.min(Instant::now() + limits::PROBE);
        let asked = self
            .connector
            .dial(address, limit)
            .and_then(|mut conn| Ok((members(&mut conn, limit)?, who_leads(&mut conn, limit)?.1)));
        let (its_members, its_leader) = match asked {
            Ok(said) => said,
            Err(error) if matches!(error.kind(), Kind::Timeout | Kind::Retry) => return Ok(false),
            Err(error) => {
                return Err(error.at(format!("cannot add node {id} at {address}; nothing was changed")));
            }
        };
        // A node that was a member, or whose joining was interrupted, may know this cluster already. But if it has another
        // leader, one of ours has lost its data, and was in a cluster with it before.
        let led_by_us = its_leader.is_empty() || present.iter().any(|member| member.address == its_leader);
        let is_ours = |member: &Member| {
            present
                .iter()
                .any(|it| it.id == member.id && it.address == member.address)
        };
        if its_members.is_empty() || (led_by_us && its_members.iter().any(is_ours)) {
            return Ok(true);
        }
        Err(Error::misuse(format!(
            "cannot add node {id} at {address}: it belongs to a cluster of its own ({}). Start it with an empty data \
             directory and the addresses of this cluster as its cluster list (dqlitepy_node_create_with_cluster)",
            list(&its_members)
        )))
    }

    /// Takes the node out of the cluster. If it leads, another one does first.
    pub(crate) fn remove(&self, id: u64) -> Result<()> {
        let deadline = self.deadline();
        let doing = format!("cannot remove node {id}");
        let (present, leader) = self.cluster_and_leader(deadline)?;
        let member = find(&present, id).map_err(|error| error.at(&doing))?;
        if present.len() == 1 {
            return Err(Error::misuse(format!(
                "{doing}: it is the last member, and a cluster without members loses its data; stop the node instead"
            )));
        }
        if member.role == Role::Voter {
            self.release(member, &present, &leader, true, deadline)
                .map_err(|error| error.at(&doing))?;
        }
        change::remove(&self.connector, id, deadline)
    }

    /// Gives the node a role. If it led and loses its vote, another voter leads first.
    pub(crate) fn assign(&self, id: u64, role: Role) -> Result<()> {
        let deadline = self.deadline();
        let doing = format!("cannot make node {id} a {}", change::name(role));
        let (present, leader) = self.cluster_and_leader(deadline)?;
        let member = find(&present, id).map_err(|error| error.at(&doing))?;
        if member.role == role {
            return Ok(());
        }
        if role == Role::Voter && !self.answers(member, deadline) {
            let silent = format!(
                "{doing}: {} does not answer, and a voter has to catch up first; nothing was changed",
                member.address
            );
            return Err(Error::new(Kind::Retry, silent));
        }
        if member.role == Role::Voter {
            self.release(member, &present, &leader, false, deadline)
                .map_err(|error| error.at(&doing))?;
        }
        change::assign(&self.connector, id, role, deadline)
    }

    /// Prepares for a voter to lose its vote: the others have to go on without it, and under another leader. With
    /// `replace`, a last voter gets a successor.
    fn release(
        &self,
        voter: &Member,
        present: &[Member],
        leader: &str,
        replace: bool,
        deadline: Instant,
    ) -> Result<()> {
        let mut peers = probe(&self.connector, present, deadline);
        let only = present
            .iter()
            .all(|member| member.id == voter.id || member.role != Role::Voter);
        if only && !replace {
            return Err(Error::misuse("it is the only voter; make another node a voter first"));
        }
        if !only && !roles::can_spare(&peers, voter.id) {
            let silent: Vec<String> = peers
                .iter()
                .filter(|peer| !peer.online)
                .map(|peer| format!("{} at {}", peer.id, peer.address))
                .collect();
            return Err(Error::misuse(format!(
                "the voters that answer would be no majority without it, and the cluster would stand still; start or \
                 remove first those that do not answer: {}",
                silent.join(", ")
            )));
        }
        if voter.address == leader {
            manage::step_down(&self.connector, &mut peers, voter.id, leader, deadline)?;
        }
        Ok(())
    }

    /// Lets the node lead, or any other than the one that leads now if `id` is 0.
    pub(crate) fn transfer(&self, id: u64) -> Result<()> {
        let deadline = self.deadline();
        let (present, leader) = self.cluster_and_leader(deadline)?;
        if id == 0 {
            let leads = present
                .iter()
                .find(|member| member.address == leader)
                .map_or(0, |member| member.id);
            let peers = probe(&self.connector, &present, deadline);
            return change::move_lead(&self.connector, &leader, &roles::next_leaders(&peers, leads), deadline);
        }
        let doing = format!("node {id} cannot lead");
        let member = find(&present, id).map_err(|error| error.at(&doing))?;
        if member.address == leader {
            return Ok(());
        }
        if member.role != Role::Voter {
            let what = change::name(member.role);
            return Err(Error::misuse(format!("{doing}: it is a {what}; make it a voter first")));
        }
        change::move_lead(&self.connector, &leader, &[id], deadline)
    }

    /// What the node at `address` says of itself.
    pub(crate) fn describe(&self, address: &Address) -> Result<Metadata> {
        let deadline = self.deadline();
        describe(&mut self.connector.dial(&address.to_string(), deadline)?, deadline)
    }

    /// Sets the weight of the node at `address`; it keeps it while it runs.
    pub(crate) fn set_weight(&self, address: &Address, weight: u64) -> Result<()> {
        let deadline = self.deadline();
        let mut conn = self.connector.dial(&address.to_string(), deadline)?;
        // Setting it twice does no harm, so what is unknown is safe to repeat.
        match conn
            .call(&Request::Weight { weight }, deadline)
            .map_err(Broken::into_error)?
        {
            Response::Empty => Ok(()),
            other => Err(unexpected("WEIGHT", &other)),
        }
    }

    fn answers(&self, member: &Member, deadline: Instant) -> bool {
        probe(&self.connector, std::slice::from_ref(member), deadline)
            .iter()
            .any(|peer| peer.online)
    }

    fn members(&self, deadline: Instant) -> Result<Vec<Member>> {
        Ok(self.cluster_and_leader(deadline)?.0)
    }

    fn cluster_and_leader(&self, deadline: Instant) -> Result<(Vec<Member>, String)> {
        let (mut conn, leader) = self.connector.leader(deadline)?;
        Ok((members(&mut conn, deadline)?, leader))
    }

    /// When a call that begins now has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout.get()
    }
}

fn find(members: &[Member], id: u64) -> Result<&Member> {
    members.iter().find(|member| member.id == id).ok_or_else(|| {
        let those = list(members);
        Error::new(Kind::NotFound, format!("no such member; the members are {those}"))
    })
}

/// The member with this id and address; one that shares only one of them is in the way.
fn find_same<'a>(members: &'a [Member], id: u64, address: &str) -> Result<Option<&'a Member>> {
    match members
        .iter()
        .find(|member| member.id == id || member.address == address)
    {
        Some(other) if other.id != id || other.address != address => Err(Error::invalid(format!(
            "cannot add node {id} at {address}: node {} at {} is a member already; remove it first",
            other.id, other.address
        ))),
        found => Ok(found),
    }
}

fn list(members: &[Member]) -> String {
    let all: Vec<String> = members
        .iter()
        .map(|member| format!("{} at {}", member.id, member.address))
        .collect();
    all.join(", ")
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
