//! Becoming a member: found in the list, or added by its leader, in a way that may be interrupted anywhere and repeated.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use crate::client::{Client, Member, Role, WakeSlot};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::net::{self, Address};
use crate::node::duties::entry;
use crate::node::files::{self, Entry};
use crate::node::instance::Instance;
use crate::node::mirror;

/// One attempt; the duties repeat it.
const ATTEMPT_MS: u32 = 5_000;

/// Asks the leader to make this node a member.
pub(crate) fn attempt(node: &Instance, slot: &Arc<WakeSlot>) -> Result<()> {
    let me = node.me();
    let peers = node.watch().peers(node.config());
    if peers.is_empty() {
        return Err(Error::internal(format!(
            "the node at {} waits to join a cluster, but knows no member of it: start it with a cluster list",
            me.address
        )));
    }
    let client = Client::new(peers).for_call(slot);
    client.set_timeout(ATTEMPT_MS);
    let members = client.cluster()?;
    // Whoever leads them will open a link to this node, and may not be in the list that it was started with.
    node.watch().learn(&members.iter().map(entry).collect::<Vec<_>>());
    mirror::check(node)?;
    // In the list before anything of it was in the directory: this node was a member once and has lost what it
    // acknowledged then. Going on under the same entry could undo what a majority agreed on.
    if node.watch().is_new() {
        if members.iter().any(|member| is(member, node)) {
            client.remove(me.id)?;
            log::info(format_args!(
                "node {} at {} was a member once and has lost its data: it was removed and joins anew",
                me.id, me.address
            ));
        }
        node.watch().begin_joining()?;
    }
    let targets = node.config().options.targets;
    client.enter(me.id, &Address::parse_peer(&me.address, "address")?, targets)?;
    let members = client.cluster()?;
    let entries: Vec<_> = members.iter().map(entry).collect();
    node.watch().learn(&entries);
    files::store_cluster(node.dir(), &entries)?;
    files::remove_join(node.dir())
}

fn is(member: &Member, node: &Instance) -> bool {
    member.id == node.me().id && member.address == node.me().address
}

/// Adds a node to the cluster of `client`. One that runs in this process with a blank history of its own gives that up.
pub(crate) fn add(client: &Client, id: u64, address: &Address) -> Result<Role> {
    let local = Instance::running_at(&address.to_string()).filter(|node| node.me().id == id);
    if let Some(node) = local {
        let members = client.cluster()?;
        let belongs = members.iter().any(|member| is(member, &node));
        if !belongs && leads_blank_cluster_of_its_own(&node)? {
            let peers: Vec<_> = members.iter().map(entry).collect();
            rejoin(&node, peers, client.deadline())?;
            client.wait(|call| node.duties().wait_joined(call, client.deadline()))?;
        }
    }
    client.add(id, address)
}

/// On a thread of its own: the engine stops and starts, which takes as long as the disk does.
fn rejoin(node: &Arc<Instance>, peers: Vec<Entry>, deadline: Instant) -> Result<()> {
    let (done, wait) = mpsc::channel();
    let doing = Arc::clone(node);
    net::sys::spawn("dqlite-rejoin", move || {
        // Nobody may be waiting any more.
        let _ = done.send(doing.rejoin(&peers));
    })
    .map_err(|error| Error::internal(format!("no thread for the node to join on: {error}")))?;
    let left = deadline.saturating_duration_since(Instant::now());
    wait.recv_timeout(left).unwrap_or_else(|_| {
        Err(Error::new(
            Kind::Unknown,
            format!(
                "the node at {} has not given up its own cluster before the deadline; it goes on in the background, and is \
                 no member yet: add it again",
                node.me().address
            ),
        ))
    })
}

fn leads_blank_cluster_of_its_own(node: &Instance) -> Result<bool> {
    let members = node.members()?;
    let alone = matches!(members.as_slice(), [only] if is(only, node));
    Ok(alone && node.status()?.blank)
}
