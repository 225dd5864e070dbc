//! What a running node does unasked: join the cluster it was meant for, remember who belongs to it, deal out roles.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::client::Member;
use crate::error::{Error, Kind, Result};
use crate::net;
use crate::node::files::{self, Entry};
use crate::node::instance::Instance;
use crate::node::join;

/// Between two looks at the members; a node that waits to join tries more often.
const PAUSE: Duration = Duration::from_secs(1);
const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// The thread that does it, and what others wait for.
pub(crate) struct Duties {
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    stopping: bool,
    /// There is something new to do: the pause is over.
    hurry: bool,
    /// None once the node belongs to a cluster; else why it does not yet.
    unjoined: Option<Error>,
}

impl Duties {
    pub(crate) fn new(joins: bool) -> Self {
        Self {
            state: Mutex::new(State {
                stopping: false,
                hurry: false,
                unjoined: joins.then(not_tried),
            }),
            changed: Condvar::new(),
            thread: Mutex::new(None),
        }
    }

    pub(crate) fn begin(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (duties, instance) = (Arc::clone(self), Arc::downgrade(instance));
        // Without the thread the node serves all the same; it only does not look after itself.
        *self.thread.lock() = net::sys::spawn("dqlite-duties", move || run(&duties, &instance)).ok();
    }

    /// The node was told to leave its cluster of one for another.
    pub(crate) fn expect_join(&self) {
        let mut state = self.state.lock();
        state.unjoined = Some(not_tried());
        state.hurry = true;
        self.changed.notify_all();
    }

    /// Waits until the node belongs to a cluster.
    pub(crate) fn wait_joined(&self, deadline: Instant) -> Result<()> {
        let mut state = self.state.lock();
        while let Some(reason) = &state.unjoined {
            if state.stopping || final_word(reason) {
                return Err(reason.clone());
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                let reason = state.unjoined.as_ref().map_or("", |reason| reason.message());
                return Err(Error::new(
                    Kind::NoLeader,
                    format!("not joined yet: {reason}. The node goes on trying in the background; start waits again"),
                ));
            }
        }
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub(crate) fn end(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    /// Whether the node still has to become a member.
    pub(crate) fn waits(&self) -> bool {
        !self.joined()
    }

    fn joined(&self) -> bool {
        self.state.lock().unjoined.is_none()
    }

    fn set_joined(&self, outcome: Result<()>) {
        self.state.lock().unjoined = outcome.err();
        self.changed.notify_all();
    }

    /// False when the node stops.
    fn pause(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + time;
        while !state.stopping && !state.hurry && !self.changed.wait_until(&mut state, until).timed_out() {}
        state.hurry = false;
        !state.stopping
    }
}

fn run(duties: &Duties, instance: &Weak<Instance>) {
    let mut members = Vec::new();
    let mut fresh = true;
    loop {
        let Some(node) = instance.upgrade() else { return };
        if duties.joined() {
            look_after(&node, &mut members);
        } else {
            duties.set_joined(join::attempt(&node, fresh));
            // What comes after a first attempt was our own doing.
            fresh = false;
        }
        // The node must be able to end while this thread waits.
        drop(node);
        let pause = if duties.joined() { PAUSE } else { JOIN_PAUSE };
        if !duties.pause(pause) {
            return;
        }
    }
}

/// Keeps cluster.yaml like the members, for the next start and for go-dqlite.
fn look_after(node: &Instance, known: &mut Vec<Member>) {
    let Ok(members) = node.members() else { return };
    if members.is_empty() || members == *known {
        return;
    }
    let entries: Vec<Entry> = members.iter().map(entry).collect();
    node.watch().learn(&entries);
    if files::store_cluster(node.dir(), &entries).is_ok() {
        *known = members;
    }
}

pub(crate) fn entry(member: &Member) -> Entry {
    Entry {
        id: member.id,
        address: member.address.clone(),
        role: member.role.into(),
    }
}

fn not_tried() -> Error {
    Error::new(Kind::NoLeader, "no leader was asked yet")
}

/// Trying again would not change it.
fn final_word(reason: &Error) -> bool {
    matches!(reason.kind(), Kind::Invalid | Kind::Internal | Kind::Stopped)
}
