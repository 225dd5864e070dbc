//! What a running node does unasked: join the cluster it was meant for, remember who belongs to it, deal out roles.

use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::client::{self, Connector, Member, Role, Targets, Wake, WakeSlot};
use crate::engine::Status;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::log;
use crate::metrics::Metrics;
use crate::net;
use crate::node::files::{self, Entry};
use crate::node::instance::Instance;
use crate::node::join;
use crate::node::rival::{self, Lookout};

/// Between two looks at the members; a node that waits to join tries more often.
const PAUSE: Duration = Duration::from_secs(1);
const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// How often the leader looks whether the roles fit, if the members stay the same.
const ADJUST_EVERY: Duration = Duration::from_secs(5);

/// How often a member that is sent no log asks the leader for the members, and how long that may take.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(1);

/// The thread that does it, and what others wait for.
pub(crate) struct Duties {
    state: Mutex<State>,
    changed: Condvar,
    /// What the thread asks of other nodes ends with it.
    calls: WakeSlot,
}

struct State {
    /// None once it has ended.
    thread: Option<ThreadId>,
    stopping: bool,
    /// There is something new to do: the pause is over.
    hurry: bool,
    /// How often who waits was to look whether he still does.
    rung: u64,
    /// None once the node belongs to a cluster; else why it does not yet.
    unjoined: Option<Error>,
}

impl Duties {
    pub(crate) fn new(joins: bool) -> Self {
        Self {
            state: Mutex::new(State {
                thread: None,
                stopping: false,
                rung: 0,
                hurry: false,
                unjoined: joins.then(not_tried),
            }),
            changed: Condvar::new(),
            calls: WakeSlot::default(),
        }
    }

    pub(crate) fn begin(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (duties, instance) = (Arc::clone(self), Arc::downgrade(instance));
        // Until it is set the thread waits, so that it is not set after its end.
        let mut state = self.state.lock();
        let thread = net::sys::spawn("dqlite-duties", move || {
            drop(duties.state.lock());
            run(&duties, &instance);
            duties.state.lock().thread = None;
            duties.changed.notify_all();
        });
        // Without the thread the node serves all the same; it only does not look after itself.
        state.thread = thread.ok().map(|thread| thread.thread().id());
    }

    /// The node was told to leave its cluster of one for another.
    pub(crate) fn expect_join(&self) {
        let mut state = self.state.lock();
        state.unjoined = Some(not_tried());
        state.hurry = true;
        self.changed.notify_all();
    }

    /// Waits until the node belongs to a cluster, for a call that another thread may interrupt.
    pub(crate) fn wait_joined(self: &Arc<Self>, call: &WakeSlot, deadline: Instant) -> Result<()> {
        call.watch(Box::new(Bell(Arc::downgrade(self))))?;
        loop {
            let rung = self.state.lock().rung;
            // Not with the lock held: the bell is rung with the call's.
            call.check()?;
            let mut state = self.state.lock();
            let Some(reason) = &state.unjoined else { return Ok(()) };
            if state.stopping {
                return Err(Error::new(
                    Kind::Shutdown,
                    format!("the node was stopped while it waited to join: {}", reason.message()),
                ));
            }
            if final_word(reason) {
                return Err(reason.clone());
            }
            if state.rung == rung && self.changed.wait_until(&mut state, deadline).timed_out() {
                let reason = state.unjoined.as_ref().map_or("", |reason| reason.message());
                return Err(Error::new(
                    Kind::NoLeader,
                    format!("not joined yet: {reason}. The node goes on trying in the background; start waits again"),
                ));
            }
        }
    }

    /// Ends the thread and waits for it, until the deadline: a disk that does not answer may hold it.
    pub(crate) fn end(&self, deadline: Instant) {
        self.calls
            .close(Error::new(Kind::Shutdown, "the node is being stopped"));
        let mut state = self.state.lock();
        state.stopping = true;
        self.changed.notify_all();
        while state.thread.is_some_and(|thread| thread != thread::current().id())
            && !self.changed.wait_until(&mut state, deadline).timed_out()
        {}
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

/// Wakes who waits for the node to join.
struct Bell(Weak<Duties>);

impl Wake for Bell {
    fn wake(&self) {
        if let Some(duties) = self.0.upgrade() {
            duties.state.lock().rung += 1;
            duties.changed.notify_all();
        }
    }

    fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

fn run(duties: &Duties, instance: &Weak<Instance>) {
    let mut known = Known::default();
    loop {
        let Some(node) = instance.upgrade() else { return };
        if node.watch().check().is_err() {
            // Whoever is connected from outside would wait for an engine that does not answer any more.
            node.close_door();
        } else if duties.joined() {
            // Once a second for all of it: each time the engine is asked wakes two threads.
            known.moves = node.watch().moves();
            if let Ok(status) = node.status() {
                match duties.calls.call(|slot| Ok(known.find_rival(&node, &status, slot))) {
                    Ok(Some(rival)) => node.watch().lose(rival),
                    Ok(None) => drop(duties.calls.call(|slot| look_after(&node, &status, &mut known, slot))),
                    // It stops.
                    Err(_) => {}
                }
            }
        } else {
            duties.set_joined(duties.calls.call(|slot| join::attempt(&node, slot)));
        }
        // The node must be able to end while this thread waits.
        drop(node);
        let pause = if duties.joined() { PAUSE } else { JOIN_PAUSE };
        if !duties.pause(pause) {
            return;
        }
    }
}

/// What the thread remembers from one look to the next.
#[derive(Default)]
struct Known {
    members: Vec<Member>,
    /// Before it looked: what it sees is of no use if the node has left its cluster since.
    moves: u64,
    /// By which the engine tells whether they are still the same.
    configuration: Option<u64>,
    adjusted: Option<Instant>,
    /// The even number of voters that the operator was told of.
    told_of_voters: usize,
    /// On a member that is sent no log: the way to the leader, and when it was asked last.
    leader: Option<Connector>,
    asked: Option<Instant>,
    lookout: Lookout,
}

impl Known {
    fn find_rival(&mut self, node: &Arc<Instance>, status: &Status, slot: &Arc<WakeSlot>) -> Option<Error> {
        rival::find(node, status).or_else(|| self.lookout.look(node, status, &self.members, slot))
    }

    /// The members now. A spare is sent no log, and what it knows of the cluster would be of the day when it joined; so it
    /// asks the leader, and tells others who ask it.
    fn look(&mut self, node: &Arc<Instance>, status: &Status, slot: &Arc<WakeSlot>) -> Result<Vec<Member>> {
        let is_sent_log = status.role.is_some_and(|role| role != u64::from(Role::Spare));
        if is_sent_log {
            if self.leader.take().is_some() {
                node.tell(&[])?;
            }
            if self.configuration == Some(status.configuration) {
                return Ok(self.members.clone());
            }
            return node.members();
        }
        self.configuration = None;
        if self.leader.is_none() {
            let last = files::load_cluster(node.dir());
            node.tell(if last.len() > 1 { &last } else { &[] })?;
        }
        if self.asked.is_none_or(|before| before.elapsed() >= ASK_EVERY) {
            self.asked = Some(Instant::now());
            let leader = self.leader.get_or_insert_with(|| node.connector(Metrics::new()));
            let deadline = Instant::now() + ASK;
            let (mut conn, _) = leader.for_call(slot).leader(deadline)?;
            let members = client::members(&mut conn, deadline)?;
            node.tell(&members.iter().map(entry).collect::<Vec<_>>())?;
            return Ok(members);
        }
        Ok(self.members.clone())
    }

    /// Says so when the roles have come to rest on a number of voters that nobody would choose.
    fn warn_of_even_voters(&mut self, changed: bool) {
        let voters = self.members.iter().filter(|member| member.role == Role::Voter).count();
        if voters % 2 == 1 {
            self.told_of_voters = 0;
        } else if !changed && voters != self.told_of_voters {
            self.told_of_voters = voters;
            log::warn(format_args!(
                "the cluster has {voters} voters and goes on while {} of them are there: {} would tolerate as many \
                 failures, {} more of them. An odd number from 3 on is recommended (dqlitepy_node_set_voters)",
                voters / 2 + 1,
                voters - 1,
                voters + 1
            ));
        }
    }
}

/// Keeps cluster.yaml like the members, for the next start and for go-dqlite, and deals out the roles if this node leads.
fn look_after(node: &Arc<Instance>, status: &Status, known: &mut Known, slot: &Arc<WakeSlot>) -> Result<()> {
    let members = known.look(node, status, slot)?;
    let changed = members != known.members;
    if !changed {
        known.configuration = Some(status.configuration);
    } else if !members.is_empty() {
        let entries: Vec<Entry> = members.iter().map(entry).collect();
        if node.watch().keep(&entries, known.moves).unwrap_or(false) {
            known.members = members;
        }
    }
    let due = known.adjusted.is_none_or(|before| before.elapsed() >= ADJUST_EVERY);
    // Two nodes are what somebody added with his own hands: who votes there is his decision, unless he said it here.
    let targets = node.config().options.targets;
    let enough = known.members.len() > 2 || targets.voters < 3;
    if (changed || due) && status.leads {
        known.adjusted = Some(Instant::now());
        if enough {
            adjust_roles(node, targets, slot);
        }
        known.warn_of_even_voters(changed);
    }
    Ok(())
}

fn adjust_roles(node: &Arc<Instance>, targets: Targets, slot: &Arc<WakeSlot>) {
    let (me, connector) = (node.me(), node.connector(Metrics::new()).for_call(slot));
    let deadline = Instant::now() + limits::CLIENT_CALL.get();
    loop {
        match client::adjust_once(&connector, me.id, &me.address, targets, deadline) {
            Ok(true) if Instant::now() < deadline => {}
            Ok(_) => return,
            Err(error) if error.kind() == Kind::Shutdown => return,
            Err(error) => {
                log::warn(format_args!("the roles of the cluster could not be adjusted: {error}"));
                return;
            }
        }
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
