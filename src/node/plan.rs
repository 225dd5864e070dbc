//! What a start does to belong to a cluster: found one, join one, or go on where it was.

use std::time::Duration;

use crate::client::Role;
use crate::error::{Error, Result};
use crate::net::Address;
use crate::node::Config;
use crate::node::files::{self, Entry, Join};
use crate::node::rival;

/// How long another member may take to say whether it belongs to a cluster, before the first of the list founds one.
const SURVEY: Duration = Duration::from_secs(2);

/// Whether a node whose directory is empty may found a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Bootstrap {
    /// If it is alone or the first of its list.
    #[default]
    Auto,
    Never,
    /// Wherever it stands in its list.
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Go on with what is on disk.
    Restart,
    /// Found a cluster, with this node as its only member.
    Bootstrap,
    /// Wait to be added to a cluster; never found one.
    Join,
    /// The same, after giving up a blank history; the start before this one crashed while it did.
    Reset,
}

impl Plan {
    pub(crate) fn joins(self) -> bool {
        matches!(self, Self::Join | Self::Reset)
    }

    /// Looks at the directory, and, if it is new, at the other members. Touches nothing.
    pub(crate) fn make(config: &Config, address: &str) -> Result<Self> {
        if !config.dir.exists() {
            return Self::for_new(config, address);
        }
        match files::load_join(&config.dir)? {
            Some(Join::Reset) => return Ok(Self::Reset),
            Some(Join::New | Join::Pending) => return Ok(Self::Join),
            None => {}
        }
        // Without a log, a node that knows other members is a spare of theirs, to which raft may never have said a word; any
        // other one was founding when it ended.
        let members = files::load_cluster(&config.dir);
        let is_spare = |member: &Entry| member.address == address && member.role == u64::from(Role::Spare);
        let heard = members.iter().any(is_spare) || files::has_raft_state(&config.dir)?;
        if (members.len() > 1 && heard) || files::has_raft_log(&config.dir)? {
            return Ok(Self::Restart);
        }
        let plan = Self::for_new(config, address)?;
        // Founding writes both files first, so this is a spare that has lost the list of its cluster.
        if plan == Self::Bootstrap && members.is_empty() && files::load_info(&config.dir)?.is_some() {
            return Err(Error::internal(format!(
                "a node was here before (info.yaml), and cluster.yaml, which says of what cluster, is missing or damaged in \
                 {}; it does not found another one. Start it with a cluster list of other members, or with an empty directory",
                config.dir.display()
            )));
        }
        Ok(plan)
    }

    /// Alone, or first in the list while nobody else belongs to a cluster: found one. Otherwise the others decide.
    fn for_new(config: &Config, address: &str) -> Result<Self> {
        let others: Vec<&Address> = config
            .cluster
            .iter()
            .filter(|member| member.to_string() != address)
            .collect();
        let bootstrap = config.options.bootstrap;
        if others.is_empty() {
            return match bootstrap {
                Bootstrap::Auto | Bootstrap::Force => Ok(Self::Bootstrap),
                Bootstrap::Never => Err(Error::invalid(format!(
                    "the node at {address} never founds a cluster (dqlitepy_node_set_bootstrap) and knows no member of one; \
                     start it with a cluster list, or let it found one"
                ))),
            };
        }
        let may = match bootstrap {
            Bootstrap::Auto => config.cluster.first().is_some_and(|first| first.to_string() == address),
            Bootstrap::Never => false,
            Bootstrap::Force => true,
        };
        if may && others.iter().all(|member| rival::members_of(member, SURVEY).is_empty()) {
            return Ok(Self::Bootstrap);
        }
        Ok(Self::Join)
    }
}
