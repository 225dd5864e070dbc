//! How nodes are, in figures: what they did for their handles, how raft stands, what lies on the disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::limits;
use crate::metrics::{Families, Snapshot};
use crate::node::instance::Instance;
use crate::node::{Node, Phase, files};

/// The roles by their numbers in the protocol.
const ROLES: [&str; 3] = ["voter", "standby", "spare"];

type Labels = Vec<(&'static str, String)>;

/// The figures of the nodes behind some handles; handles of one node are one.
pub(crate) fn figures(nodes: &[Arc<Node>], into: &mut Families) {
    let mut seen: Vec<(u64, String, Snapshot, &Node)> = Vec::new();
    for node in nodes {
        let (id, address) = node.name();
        let counted = node.metrics.snapshot();
        match seen
            .iter_mut()
            .find(|(other, place, ..)| *other == id && *place == address)
        {
            Some((_, _, sum, _)) => sum.add(&counted),
            None => seen.push((id, address, counted, node)),
        }
    }
    for (id, address, counted, node) in seen {
        let labels = vec![("id", id.to_string()), ("address", address)];
        counted.describe("dqlitepy_node", &labels, into);
        node.describe(&labels, into);
    }
}

impl Node {
    fn name(&self) -> (u64, String) {
        match self.instance() {
            Some(instance) => (instance.me().id, instance.me().address.clone()),
            None => {
                let config = self.config.lock();
                (config.id, config.address.to_string())
            }
        }
    }

    fn instance(&self) -> Option<Arc<Instance>> {
        match &*self.phase.lock() {
            Phase::Running(running) if !running.instance.is_stopped() => Some(Arc::clone(&running.instance)),
            _ => None,
        }
    }

    fn describe(&self, labels: &Labels, into: &mut Families) {
        let instance = self.instance();
        let up = u64::from(instance.is_some());
        into.gauge("dqlitepy_node_up", "Whether the node runs.", labels.clone(), up);
        let dir = match &instance {
            Some(instance) => instance.dir().to_owned(),
            None => self.config.lock().dir.clone(),
        };
        if let Some(Some(sizes)) = self.look.within(limits::DIRECTORY_LOOK, move || sizes(&dir)) {
            directory(sizes, labels, into);
        }
        if let Some(instance) = instance {
            raft(&instance, labels, into);
        }
    }
}

/// How raft stands; nothing if the engine does not answer.
fn raft(instance: &Instance, labels: &Labels, into: &mut Families) {
    let Ok(status) = instance.status() else { return };
    for (role, name) in ROLES.iter().enumerate() {
        let labels = with(labels, "role", name);
        let has_it = u64::from(status.role == Some(role as u64));
        into.gauge(
            "dqlitepy_node_role",
            "1 for the role that the node has in its cluster.",
            labels,
            has_it,
        );
    }
    let leads = u64::from(status.leads);
    into.gauge(
        "dqlitepy_node_leads",
        "Whether the node leads its cluster.",
        labels.clone(),
        leads,
    );
    if status.leader != 0 {
        let members = instance.members().unwrap_or_default();
        let leader = members.iter().find(|member| member.id == status.leader);
        let place = leader.map_or("", |leader| leader.address.as_str());
        let labels = with(
            &with(labels, "leader_id", &status.leader.to_string()),
            "leader_address",
            place,
        );
        into.gauge("dqlitepy_node_leader", "Who leads, as the node knows it.", labels, 1);
    }
    for (name, help, number) in [
        ("dqlitepy_node_term", "The term of raft.", status.term),
        (
            "dqlitepy_node_last_index",
            "The last entry of the log.",
            status.last_index,
        ),
        (
            "dqlitepy_node_applied_index",
            "The last entry that was applied.",
            status.applied_index,
        ),
        (
            "dqlitepy_node_databases",
            "Databases that the node holds.",
            status.databases,
        ),
    ] {
        into.gauge(name, help, labels.clone(), number);
    }
}

/// The bytes and the number of the files of each kind.
type Sizes = [(&'static str, u64, u64); 3];

/// What lies in the data directory; None if it cannot be read.
fn sizes(dir: &Path) -> Option<Sizes> {
    let mut sizes = [("segments", 0, 0), ("snapshots", 0, 0), ("other", 0, 0)];
    for name in files::list(dir).ok()? {
        let kind = match name.as_str() {
            name if name.starts_with("snapshot-") => 1,
            name if files::is_segment(name) => 0,
            _ => 2,
        };
        // What was removed meanwhile has no size.
        let size = fs::metadata(dir.join(&name)).map_or(0, |found| found.len());
        sizes[kind].1 += size;
        sizes[kind].2 += 1;
    }
    Some(sizes)
}

fn directory(sizes: Sizes, labels: &Labels, into: &mut Families) {
    for (kind, bytes, count) in sizes {
        let labels = with(labels, "content", kind);
        into.gauge(
            "dqlitepy_node_directory_bytes",
            "Bytes in the data directory.",
            labels.clone(),
            bytes,
        );
        into.gauge(
            "dqlitepy_node_directory_files",
            "Files in the data directory.",
            labels,
            count,
        );
    }
}

fn with(labels: &Labels, label: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((label, value.to_owned()));
    labels
}
