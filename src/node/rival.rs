//! Two clusters out of one list. The first of the list founds a cluster when nobody else answers; if it had lost its data
//! while the others were only down, theirs comes back beside it, and what is written to one is missing in the other. The one
//! that was founded anew has to end, and to say why.
//!
//! As long as the founder is alone, any other cluster will do as a proof (`find`). Later there are two (`Lookout`): a listed
//! node follows a leader that is no member here, and that leader counts a node as its member that belongs to this cluster.
//! A node can serve one cluster only, so the other one has lost it, and this one is the younger. The other one never finds
//! the same of this one, whose founder it lists. go-dqlite's nodes answer what is asked here, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Conn, Member, WakeSlot, members, who_leads};
use crate::engine::Status;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::{Address, Stream};
use crate::node::instance::Instance;

/// How long a listed node may take to say which cluster it belongs to, while this one serves already.
const LOOK: Duration = Duration::from_millis(300);

/// How long two leaders have to be there before they are of two clusters, at least. One that was paused or cut off leads on
/// for an election timeout while another one leads already.
const SETTLED: Duration = Duration::from_secs(2);

/// Afterwards the others of this cluster may take so long to see them as well.
const FOR_THE_OTHERS: Duration = Duration::from_secs(2);

/// The engine's, and what network_latency_ms makes of it.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT_IN_LATENCIES: u64 = 15;

/// Why this node must not serve, if it founded its cluster and is still alone in it, while a listed node belongs to another.
pub(crate) fn find(node: &Instance, status: &Status) -> Option<Error> {
    let me = &node.me().address;
    if !status.lone {
        return None;
    }
    let others = node.config().cluster.iter().filter(|listed| listed.to_string() != *me);
    for other in others {
        let theirs = members_of(other, LOOK);
        // It may have joined this cluster since.
        if theirs.is_empty() || !node.status().is_ok_and(|status| status.lone) {
            continue;
        }
        return Some(Error::misuse(format!(
            "this node founded a cluster of its own ({me}) while {other} belongs to another one ({}); it serves no more, so \
             that there are not two. To join that one, start it with an empty data directory; what was written here since \
             it was founded is in {} only",
            list(&theirs),
            node.dir().display()
        )));
    }
    None
}

/// The members of the cluster that the node at `address` belongs to; none if it does not say or belongs to none.
pub(crate) fn members_of(address: &Address, limit: Duration) -> Vec<Member> {
    let deadline = Instant::now() + limit;
    Stream::connect(address, deadline)
        .and_then(|stream| members(&mut Conn::new(stream), deadline))
        .unwrap_or_default()
}

/// What a node remembers of another cluster's leader from one look to the next.
#[derive(Default)]
pub(crate) struct Lookout {
    /// Whose turn it is of the listed nodes that are no members.
    turn: usize,
    seen: Option<Seen>,
}

/// A leader that is not the one of this cluster.
struct Seen {
    leader: String,
    its_members: Vec<Member>,
    /// Whom it lists and we have.
    lost: String,
    /// Who leads here.
    ours: u64,
    since: Instant,
}

impl Lookout {
    /// Why this node must not serve, if its cluster was founded anew although the one before it was there still. `own` are
    /// the members of its own.
    pub(crate) fn look(
        &mut self,
        node: &Arc<Instance>,
        status: &Status,
        own: &[Member],
        slot: &Arc<WakeSlot>,
    ) -> Option<Error> {
        let settled = SETTLED.max(2 * election_timeout(node));
        if let Some(seen) = self.seen.as_ref().filter(|seen| seen.since.elapsed() >= settled) {
            // Who stops at once leaves the others without a leader, and then they cannot tell any more.
            return (seen.since.elapsed() >= settled + FOR_THE_OTHERS).then(|| two_clusters(node, own, seen));
        }
        let before = self.seen.take();
        let ours = own.iter().find(|member| member.id == status.leader)?;
        let asked = match &before {
            Some(seen) => seen.leader.clone(),
            None => self.next_stranger(node, own)?,
        };
        let now = Look { node, slot, own, ours }.through(&asked).ok().flatten()?;
        let same = before.filter(|it| it.leader == now.leader && it.ours == now.ours);
        self.seen = Some(Seen {
            since: same.map_or(now.since, |it| it.since),
            ..now
        });
        None
    }

    /// A listed node that is no member. One at a time: a host that does not answer takes a while.
    fn next_stranger(&mut self, node: &Instance, own: &[Member]) -> Option<String> {
        let listed = node.config().cluster.iter().map(ToString::to_string);
        let strangers: Vec<String> = listed.filter(|listed| !lists(own, listed)).collect();
        self.turn = (self.turn + 1) % strangers.len().max(1);
        strangers.into_iter().nth(self.turn)
    }
}

/// One look at another node, with the members of this node's cluster and who of them leads.
struct Look<'a> {
    node: &'a Arc<Instance>,
    slot: &'a Arc<WakeSlot>,
    own: &'a [Member],
    ours: &'a Member,
}

impl Look<'_> {
    /// The leader that the node at `asked` names, if it leads a cluster that has lost one of ours.
    fn through(&self, asked: &str) -> Result<Option<Seen>> {
        let (_, leader) = who_leads(&mut self.dial(asked)?, soon())?;
        if leader.is_empty() || lists(self.own, &leader) {
            return Ok(None);
        }
        let mut conn = self.dial(&leader)?;
        if who_leads(&mut conn, soon())?.1 != leader {
            return Ok(None);
        }
        let its_members = members(&mut conn, soon())?;
        let both = its_members.iter().filter(|member| is_among(member, self.own));
        let lost = both.into_iter().find(|member| self.is_here(member, &leader));
        Ok(lost.map(|member| member.address.clone()).map(|lost| Seen {
            lost,
            ours: self.ours.id,
            since: Instant::now(),
            leader,
            its_members,
        }))
    }

    /// Whether the member belongs to this cluster and not to that of the other leader.
    fn is_here(&self, member: &Member, leader: &str) -> bool {
        let me = self.node.me();
        if (member.id, &member.address) == (me.id, &me.address) {
            return true;
        }
        let knows = self
            .dial(&member.address)
            .and_then(|mut conn| members(&mut conn, soon()));
        knows.is_ok_and(|knows| is_among(self.ours, &knows) && !lists(&knows, leader))
    }

    fn dial(&self, address: &str) -> Result<Conn> {
        self.node
            .connector(Metrics::new())
            .for_call(self.slot)
            .dial(address, soon())
    }
}

fn soon() -> Instant {
    Instant::now() + LOOK
}

fn election_timeout(node: &Instance) -> Duration {
    let latency = node.config().options.network_latency_ms;
    latency.map_or(ELECTION_TIMEOUT, |ms| {
        Duration::from_millis(u64::from(ms) * TIMEOUT_IN_LATENCIES)
    })
}

fn two_clusters(node: &Instance, own: &[Member], other: &Seen) -> Error {
    Error::misuse(format!(
        "there are two clusters of the listed nodes: the one of this node ({}), and the one that {} leads ({}). {} belongs to \
         this one, while the other one lists it too: it has lost its data, and was started as if for the first time. This \
         node serves no more, so that the two do not grow apart in silence. To join the other one, start it with an empty \
         data directory; what was written to this one is in {} and with its other members only",
        list(own),
        other.leader,
        list(&other.its_members),
        other.lost,
        node.dir().display()
    ))
}

fn list(members: &[Member]) -> String {
    let addresses: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
    addresses.join(", ")
}

fn lists(members: &[Member], address: &str) -> bool {
    members.iter().any(|member| member.address == address)
}

fn is_among(member: &Member, members: &[Member]) -> bool {
    members
        .iter()
        .any(|it| (it.id, &it.address) == (member.id, &member.address))
}
