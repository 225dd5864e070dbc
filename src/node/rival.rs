//! Two clusters out of one list. The first of the list founds a cluster when nobody else answers; if it had lost its data
//! while the others were only down, theirs comes back beside it, and what is written to one is missing in the other. The one
//! that was founded anew has to end, and to say why.

use std::time::{Duration, Instant};

use crate::client::{Conn, Member, members};
use crate::engine::Status;
use crate::error::Error;
use crate::net::{Address, Stream};
use crate::node::instance::Instance;

/// How long a listed node may take to say which cluster it belongs to, while this one serves already.
const LOOK: Duration = Duration::from_millis(300);

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
        let list: Vec<&str> = theirs.iter().map(|member| member.address.as_str()).collect();
        return Some(Error::misuse(format!(
            "this node founded a cluster of its own ({me}) while {other} belongs to another one ({}); it serves no more, so \
             that there are not two. To join that one, start it with an empty data directory; what was written here since \
             it was founded is in {} only",
            list.join(", "),
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
