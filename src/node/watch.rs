//! What the engine asks and tells while it runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::WakeSlot;
use crate::engine::{self, Piece, Progress, Reach, Stage, Start};
use crate::error::{Error, Result};
use crate::log;
use crate::net::{self, Address};
use crate::node::Config;
use crate::node::files::{self, Entry, Join};
use crate::node::mirror::Mirror;
use crate::node::plan::Plan;
use crate::wire::link;

/// How long the engine may take to dial a peer; its pool has a thread for each.
const DIAL_PEER: Duration = Duration::from_secs(5);

/// How often the log says that members send what is not taken.
const TELL_AGAIN: Duration = Duration::from_secs(10);

pub(crate) struct Watch {
    dir: PathBuf,
    me: Entry,
    plan: Mutex<Plan>,
    /// The directory was empty, and whatever the members know of this node is from before.
    is_new: AtomicBool,
    /// The lock on the directory was ours, so what is in it now is ours as well.
    prepared: AtomicBool,
    lost: OnceLock<Error>,
    wakes: Mutex<Vec<Weak<WakeSlot>>>,
    /// The other members, as last heard.
    others: Mutex<Vec<Address>>,
    /// How often the node was told to leave its cluster for another.
    moves: Mutex<u64>,
    mirror: Mirror,
    /// Parts of the log that the last start left out.
    damage: Mutex<Vec<String>>,
    /// What was not taken of the members' messages.
    refused: Mutex<Refused>,
}

/// A member can send as many of them as it likes; the log gets one line in a while.
#[derive(Default)]
struct Refused {
    told: Option<Instant>,
    since: u64,
}

impl Watch {
    pub(crate) fn new(dir: PathBuf, me: Entry, plan: Plan) -> Self {
        let known = files::load_cluster(&dir);
        let is_new = plan == Plan::Join && matches!(files::load_join(&dir), Ok(None | Some(Join::New)));
        let watch = Self {
            dir,
            me,
            plan: Mutex::new(plan),
            is_new: AtomicBool::new(is_new),
            prepared: AtomicBool::new(false),
            lost: OnceLock::new(),
            wakes: Mutex::new(Vec::new()),
            others: Mutex::new(Vec::new()),
            moves: Mutex::default(),
            mirror: Mirror::new(),
            damage: Mutex::default(),
            refused: Mutex::default(),
        };
        watch.learn(&known);
        watch
    }

    pub(crate) fn was_prepared(&self) -> bool {
        self.prepared.load(Ordering::Acquire)
    }

    pub(crate) fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Acquire)
    }

    /// The members know nothing of this node but what it asks them from now on. A crash does not bring the question back.
    pub(crate) fn begin_joining(&self) -> Result<()> {
        files::store_join(&self.dir, Join::Pending)?;
        self.is_new.store(false, Ordering::Release);
        Ok(())
    }

    pub(crate) fn set_plan(&self, plan: Plan) {
        *self.plan.lock() = plan;
    }

    /// Keeps the addresses of the other members.
    pub(crate) fn learn(&self, members: &[Entry]) {
        *self.others.lock() = members
            .iter()
            .filter(|member| member.address != self.me.address)
            .filter_map(|member| Address::parse_peer(&member.address, "address").ok())
            .collect();
    }

    /// They.
    pub(crate) fn others(&self) -> Vec<Address> {
        self.others.lock().clone()
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    pub(crate) fn moves(&self) -> u64 {
        *self.moves.lock()
    }

    /// Keeps the members, also for the next start; false if the node has left them since `moves` was asked for.
    pub(crate) fn keep(&self, members: &[Entry], moves: u64) -> Result<bool> {
        let now = self.moves.lock();
        if *now != moves {
            return Ok(false);
        }
        self.learn(members);
        files::store_cluster(&self.dir, members)?;
        Ok(true)
    }

    /// From now on these are the members whom it asks to take it in.
    pub(crate) fn leave_for(&self, members: &[Entry]) -> Result<()> {
        let mut now = self.moves.lock();
        *now += 1;
        self.learn(members);
        files::store_cluster(&self.dir, members)
    }

    /// Whom to ask for the leader: the members as last heard, then the list that the caller gave.
    pub(crate) fn peers(&self, config: &Config) -> Vec<Address> {
        let mut peers = self.others();
        let listed = config
            .cluster
            .iter()
            .filter(|address| address.to_string() != self.me.address);
        for address in listed {
            if !peers.contains(address) {
                peers.push(address.clone());
            }
        }
        peers
    }

    pub(crate) fn register(&self, wake: &Arc<WakeSlot>) {
        let mut wakes = self.wakes.lock();
        wakes.retain(|slot| slot.strong_count() > 0);
        wakes.push(Arc::downgrade(wake));
    }

    pub(crate) fn wake_all(&self, why: &Error) {
        let slots: Vec<_> = self.wakes.lock().iter().filter_map(Weak::upgrade).collect();
        for slot in slots {
            slot.close(why.clone());
        }
    }

    /// Takes the node out of service for a reason that only a person can mend.
    pub(crate) fn lose(&self, why: Error) {
        let why = self.lost.get_or_init(|| why);
        log::error(format_args!("node {} at {}: {why}", self.me.id, self.me.address));
        self.wake_all(why);
    }

    pub(crate) fn take_damage(&self) -> Vec<String> {
        std::mem::take(&mut self.damage.lock())
    }

    fn refuse(&self, peer: u64, why: &str) {
        let mut refused = self.refused.lock();
        if refused.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            refused.since += 1;
            return;
        }
        log::warn(format_args!(
            "node {} at {}: whoever speaks for node {peer} sent {why} ({} more since the last line)",
            self.me.id, self.me.address, refused.since
        ));
        *refused = Refused {
            told: Some(Instant::now()),
            since: 0,
        };
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.lost.get() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }
}

impl engine::Owner for Watch {
    fn prepare(&self) -> Result<Start> {
        // Another process may have been here since we looked.
        let known = files::load_info(&self.dir)?;
        if known
            .as_ref()
            .is_some_and(|known| (known.id, &known.address) != (self.me.id, &self.me.address))
        {
            return Err(Error::internal(format!(
                "{} was given to another node while this one started",
                self.dir.display()
            )));
        }
        self.prepared.store(true, Ordering::Release);
        files::remove_drafts(&self.dir)?;
        let plan = *self.plan.lock();
        if plan.joins() {
            files::store_join(&self.dir, if self.is_new() { Join::New } else { Join::Pending })?;
        }
        if known.is_none() {
            files::store_new(&self.dir, &self.me)?;
        }
        if plan == Plan::Bootstrap && !files::has_raft_state(&self.dir)? {
            return Ok(Start::Bootstrap);
        }
        Ok(Start::AsIs)
    }

    fn connect(&self, address: &str) -> Reach {
        let Ok(address) = Address::parse_peer(address, "peer address") else {
            return Reach::Failed;
        };
        match net::dial(&address, Instant::now() + DIAL_PEER) {
            Ok(socket) => {
                // Without it the link is as good as others' are.
                let _ = net::keep_little_unsent(&socket);
                Reach::Connected(socket.into())
            }
            Err(failed) if failed.refused => Reach::Refused,
            Err(_) => Reach::Failed,
        }
    }

    fn lost(&self, reason: &str) {
        self.lose(lost(reason));
    }

    fn progress(&self, progress: &Progress) {
        log::info(format_args!(
            "node {} at {}: {}",
            self.me.id,
            self.me.address,
            told(progress)
        ));
    }

    fn is_whole(&self, peer: u64, piece: Piece<'_>) -> bool {
        let checked = match piece {
            Piece::Message(kind, bytes) => link::check_message(kind, bytes),
            Piece::Entry(kind, bytes) => link::check_entry(kind, bytes),
            Piece::Snapshot(bytes) => link::check_snapshot(bytes),
        };
        if let Err(malformed) = &checked {
            self.refuse(
                peer,
                &format!("a message that is not whole, which ends its link: {malformed}"),
            );
        }
        checked.is_ok()
    }

    fn damaged(&self, what: &str) {
        self.damage.lock().push(what.to_owned());
    }

    fn left_out(&self, peer: u64, what: &str) {
        self.refuse(
            peer,
            &format!("what is true of no cluster that is in order, which is left out: {what}"),
        );
    }
}

/// What an operator reads of a member that catches up.
fn told(progress: &Progress) -> String {
    /// What the engine as others have it accepts in one message.
    const OTHERS_TAKE: u64 = 500 << 20;
    let Progress { stage, done, total } = *progress;
    let megabytes = |bytes: u64| (bytes + 500_000) / 1_000_000;
    let part = format!("{} of {} MB", megabytes(done), megabytes(total));
    match stage {
        Stage::Sending(peer) => format!("node {peer} catches up: {part} of a snapshot are sent"),
        Stage::Failed(peer) if total > OTHERS_TAKE => format!(
            "node {peer} catches up: its link broke after {part} of a snapshot, it is tried again (a node of go-dqlite \
             never takes a snapshot of more than 500 MiB)"
        ),
        Stage::Failed(peer) => {
            format!("node {peer} catches up: its link broke after {part} of a snapshot, it is tried again")
        }
        Stage::Installing(peer) => format!("node {peer} catches up: it has all of a snapshot and installs it ({part})"),
        Stage::Following(peer) => format!("node {peer} catches up: {done} of {total} log entries"),
        Stage::CaughtUp(peer) => format!("node {peer} has caught up"),
        Stage::Receiving => format!("catching up: received {part} of a snapshot"),
        Stage::Installed => format!("catching up: a snapshot of {} MB is installed", megabytes(total)),
    }
}

pub(crate) fn lost(reason: &str) -> Error {
    Error::internal(format!(
        "the node is lost: {reason}. Other nodes of this process go on; destroy this one and start it again"
    ))
}
