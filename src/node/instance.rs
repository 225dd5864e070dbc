//! A node that runs: the engine, its door, the files that say who it is, and the thread that looks after it.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::{Conn, Connector, Local, Member, WakeSlot, members};
use crate::door::{self, Door};
use crate::engine::fork::NotForChildren;
use crate::engine::{self, Engine, Status};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::log;
use crate::metrics::Metrics;
use crate::net::{self, Address, Listener, Shortcut, Stream};
use crate::node::Config;
use crate::node::duties::Duties;
use crate::node::files::{self, Created, Entry};
use crate::node::identity;
use crate::node::plan::Plan;
use crate::node::rival;
use crate::node::watch::Watch;

/// How long the engine may take to say who belongs to the cluster or how raft stands; it answers from memory.
const ASK_ENGINE: Duration = Duration::from_millis(500);

/// The nodes that run in this process. A handle to a directory that runs already attaches to what runs there.
static RUNNING: Mutex<Vec<Weak<Instance>>> = Mutex::new(Vec::new());

pub(crate) struct Instance {
    me: Entry,
    dir: PathBuf,
    config: Config,
    /// Where the door listens, with the port that it really has.
    bound: Address,
    watch: Arc<Watch>,
    /// None from stop on.
    core: Mutex<Option<Arc<Core>>>,
    /// What whoever started it should know, although it runs.
    warning: OnceLock<String>,
    duties: Arc<Duties>,
    /// Handles that stand for this node; it stops with the last one.
    users: Mutex<usize>,
}

/// What a node's address is served by. A forked child gives it up, from the beginning: it would keep the port.
struct Sockets {
    listener: Listener,
    not_for_children: Vec<NotForChildren>,
}

impl From<Listener> for Sockets {
    fn from(listener: Listener) -> Self {
        let sockets = listener.sockets().iter().map(|socket| socket.as_raw_fd());
        Self {
            not_for_children: sockets.map(NotForChildren::new).collect(),
            listener,
        }
    }
}

/// What is replaced when a node gives up its own history to join another one's.
pub(crate) struct Core {
    engine: Arc<Engine>,
    door: Door,
    _not_for_children: Vec<NotForChildren>,
}

impl Instance {
    /// The node that runs on this directory in this process, if one does.
    pub(super) fn running_on(dir: &Path) -> Option<Arc<Self>> {
        let dir = fs::canonicalize(dir).ok()?;
        Self::running().into_iter().find(|instance| instance.dir == dir)
    }

    /// The node of this process that has this address in its cluster.
    pub(crate) fn running_at(address: &str) -> Option<Arc<Self>> {
        Self::running()
            .into_iter()
            .find(|instance| instance.me.address == address)
    }

    fn running() -> Vec<Arc<Self>> {
        let mut running = RUNNING.lock();
        running.retain(|instance| instance.strong_count() > 0);
        let all: Vec<_> = running.iter().filter_map(Weak::upgrade).collect();
        drop(running);
        all.into_iter()
            .filter(|instance| instance.core.lock().is_some())
            .collect()
    }

    /// Starts a node, or attaches to the one that runs in this process on its directory.
    pub(crate) fn start_or_attach(config: &Config) -> Result<Arc<Self>> {
        match Self::running_on(&config.dir).filter(|instance| instance.enter()) {
            Some(instance) => instance.attach(config),
            None => Self::start(config),
        }
    }

    /// It is joined, not started a second time, if it is the one that was asked for.
    fn attach(self: Arc<Self>, config: &Config) -> Result<Arc<Self>> {
        let same_host = config.address.port() == 0 && self.me.address.starts_with(&config.address.host());
        if config.address.to_string() == self.me.address || same_host {
            return Ok(self);
        }
        let error = Error::invalid(format!(
            "data_dir {} is in use by the node {} at {} of this process",
            config.dir.display(),
            self.me.id,
            self.me.address
        ));
        self.leave(Instant::now() + limits::STOP.get());
        Err(error)
    }

    /// Starts a node. On failure nothing is left behind that was not there before.
    fn start(config: &Config) -> Result<Arc<Self>> {
        let known = files::load_info(&config.dir)?;
        let (sockets, bound, address) = listen(config, known.as_ref())?;
        let me = Entry {
            id: identity::decide(config, &address, known.as_ref())?,
            address,
            role: 0,
        };
        let plan = Plan::make(config, &me.address)?;
        let created = files::make_dir(&config.dir)?;
        let fresh = Fresh::look(&config.dir, created)?;
        match Self::open(config, me, plan, bound, sockets) {
            Ok(instance) => {
                if plan == Plan::Restart
                    && let Ok(status) = instance.status()
                    && let Some(rival) = rival::find(&instance, &status)
                {
                    return Err(rival);
                }
                RUNNING.lock().push(Arc::downgrade(&instance));
                log::info(format_args!(
                    "node {} at {} started in {}",
                    instance.me.id,
                    instance.me.address,
                    config.dir.display()
                ));
                instance.duties.begin(&instance);
                Ok(instance)
            }
            Err((error, prepared)) => {
                fresh.undo(prepared);
                Err(error)
            }
        }
    }

    /// The part of a start that may have to be taken back; with the error comes whether the directory was ours.
    fn open(
        config: &Config,
        me: Entry,
        plan: Plan,
        bound: Address,
        sockets: Sockets,
    ) -> std::result::Result<Arc<Self>, (Error, bool)> {
        let early = |error: Error| (error, false);
        files::check_unlocked(&config.dir).map_err(early)?;
        let dir = fs::canonicalize(&config.dir)
            .map_err(|error| early(Error::invalid(format!("data_dir {}: {error}", config.dir.display()))))?;
        if plan == Plan::Reset {
            // The crash came between the decision and the removal.
            files::remove_raft_state(&dir).map_err(early)?;
        }
        if plan == Plan::Bootstrap {
            files::remove_lone_metadata(&dir).map_err(early)?;
        }
        let watch = Arc::new(Watch::new(dir.clone(), me.clone(), plan));
        let place = me.address.clone();
        let instance = Self {
            duties: Arc::new(Duties::new(plan.joins())),
            users: Mutex::new(1),
            core: Mutex::new(None),
            warning: OnceLock::new(),
            config: config.clone(),
            bound,
            watch,
            dir,
            me,
        };
        instance.open_core(sockets).map_err(|error| {
            (
                error.at(format!("starting the node at {place}")),
                instance.watch.was_prepared(),
            )
        })?;
        Ok(Arc::new(instance))
    }

    /// Starts the engine and opens the door in front of it.
    fn open_core(&self, sockets: Sockets) -> Result<()> {
        let set = &self.config.options;
        let options = engine::Options {
            id: self.me.id,
            address: &self.me.address,
            dir: &self.dir,
            busy_timeout_ms: set.busy_timeout_ms,
            network_latency_ms: set.network_latency_ms,
            auto_recovery: set.auto_recovery,
            snapshot_compression: set.snapshot_compression,
            snapshots: set.snapshots,
            block_size: set.block_size,
            failure_domain: set.failure_domain,
            weight: set.weight,
            strangers: strangers(&door::Limits::default()),
        };
        let owner: Arc<dyn engine::Owner> = Arc::<Watch>::clone(&self.watch);
        let before = files::list_set_aside(&self.dir)?;
        let started = Engine::start(&options, owner);
        self.tell_damage(&before);
        let engine = started.map_err(|error| {
            if error.message().contains("couldn't lock") {
                return files::in_use(&self.dir);
            }
            if error.message().contains("not enough space") {
                return error.at(format!(
                    "data_dir {} has no room left; make some and start again",
                    self.dir.display()
                ));
            }
            error
        })?;
        let engine = Arc::new(engine);
        let mut held = sockets.not_for_children;
        held.push(NotForChildren::new(engine.lock_fd()));
        let door = match self.open_door(sockets.listener, &engine) {
            Ok(door) => door,
            Err(error) => {
                let _ = engine.stop();
                return Err(error);
            }
        };
        *self.core.lock() = Some(Arc::new(Core {
            engine,
            door,
            _not_for_children: held,
        }));
        Ok(())
    }

    /// The engine takes damaged parts of its log out of the way without a word, and what they held is gone.
    fn tell_damage(&self, before: &[String]) {
        let mut names = files::list_set_aside(&self.dir).unwrap_or_default();
        names.retain(|name| !before.contains(name));
        names.extend(self.watch.take_damage());
        if !names.is_empty() {
            let warning = format!(
                "the log in {} is damaged, and this start left out what cannot be read, with all behind it: {}. Files that \
                 were set aside have corrupt- before their names. A member of a cluster gets from the others what it lacks. \
                 A node that is alone has lost it, unless the machine had crashed amid a write that nobody was told is \
                 kept, or there is a copy of the directory",
                self.dir.display(),
                names.join(", ")
            );
            log::warn(format_args!("node {} at {}: {warning}", self.me.id, self.me.address));
            let _ = self.warning.set(warning);
        }
    }

    pub(crate) fn warning(&self) -> Option<&str> {
        self.warning.get().map(String::as_str)
    }

    /// The door admits as raft peers only members.
    fn open_door(&self, listener: Listener, engine: &Arc<Engine>) -> Result<Door> {
        let (asked, server) = (Arc::downgrade(engine), Arc::downgrade(engine));
        let (watch, config, me) = (Arc::clone(&self.watch), self.config.clone(), self.me.clone());
        let admit = move |id: u64, address: &str| {
            if watch.mirror().sees(id) {
                return false;
            }
            if cfg!(without = "admission") {
                return true;
            }
            // No node dials itself, but a client may say that it is this one, whom every list of members names.
            if id == me.id || address == me.address {
                return false;
            }
            let deadline = Instant::now() + ASK_ENGINE;
            let known = upgrade(&asked)
                .and_then(|engine| engine.dial())
                .and_then(|(stream, _)| members(&mut Conn::new(Stream::from_unix(stream)), deadline));
            match known.as_deref() {
                // A node that belongs to no cluster yet waits for the leader of the one that it was told to join.
                Ok([]) => watch.peers(&config).iter().any(|peer| peer.to_string() == address),
                Ok(members) => members
                    .iter()
                    .any(|member| member.id == id && member.address == address),
                Err(_) => false,
            }
        };
        let options = door::Options {
            limits: door::Limits::default(),
            admit: Box::new(admit),
            engine: Box::new(move |socket, first, check| upgrade(&server)?.take(socket, first, check)),
        };
        Door::open(listener, options)
    }

    pub(crate) fn me(&self) -> &Entry {
        &self.me
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(crate) fn duties(&self) -> &Arc<Duties> {
        &self.duties
    }

    /// One more handle stands for this node; false if the last one has just left.
    pub(crate) fn enter(&self) -> bool {
        let mut users = self.users.lock();
        *users += usize::from(*users > 0);
        *users > 0
    }

    /// A handle leaves; with the last one the node stops.
    pub(crate) fn leave(&self, deadline: Instant) {
        let mut users = self.users.lock();
        *users = users.saturating_sub(1);
        if *users == 0 {
            drop(users);
            // There is nobody left to tell.
            let _ = self.stop(deadline);
        }
    }

    /// Finds the leader, this node first; what is done through it is counted there.
    pub(crate) fn connector(self: &Arc<Self>, metrics: Arc<Metrics>) -> Connector {
        let inside = Inside(Arc::downgrade(self), self.me.address.clone());
        Connector::counted(Some(Arc::new(inside)), Vec::new(), metrics)
    }

    /// Calls that wait on this slot are ended when the node is lost or stopped.
    pub(crate) fn register(&self, wake: &Arc<WakeSlot>) -> Result<()> {
        self.watch.register(wake);
        self.check()
    }

    /// Whether the node still runs, and if not, why.
    pub(crate) fn check(&self) -> Result<()> {
        self.watch.check()?;
        self.core().map(drop)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.core.lock().is_none()
    }

    /// What a failed call says if the node was lost meanwhile.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let lost = match self.watch.check() {
            Err(lost) if !error.message().starts_with(lost.message()) => lost,
            _ => return error,
        };
        // What is not known of a write the loss of its node does not tell.
        let kind = match error.kind() {
            Kind::Unknown => Kind::Unknown,
            _ => Kind::Internal,
        };
        Error::new(kind, format!("{} ({})", lost.message(), error.message()))
    }

    /// The members as this node knows them.
    pub(crate) fn members(&self) -> Result<Vec<Member>> {
        let deadline = Instant::now() + ASK_ENGINE;
        members(&mut self.dial()?, deadline)
    }

    /// How raft stands on this node.
    pub(crate) fn status(&self) -> Result<Status> {
        self.core()?.engine.inspect(ASK_ENGINE)
    }

    /// Who asks this node from outside for the members is told these; none: what its log says.
    pub(crate) fn tell(&self, members: &[Entry]) -> Result<()> {
        let list: Vec<_> = members.iter().map(|it| (it.id, it.address.as_str(), it.role)).collect();
        self.core()?.engine.tell(&list)
    }

    /// A connection to the engine that does not leave the process.
    pub(crate) fn dial(&self) -> Result<Conn> {
        Ok(Conn::new(self.dial_stream()?))
    }

    pub(super) fn dial_stream(&self) -> Result<Stream> {
        let (stream, path) = self.core()?.engine.dial()?;
        Ok(Stream::with_shortcut(stream, Box::new(Past(path))))
    }

    /// Nobody gets in from outside any more.
    pub(crate) fn close_door(&self) {
        if let Ok(core) = self.core() {
            core.door.close();
        }
    }

    /// Gives up a history of its own that holds nothing, so that the node can be added to another cluster, whose members
    /// are `peers`. A crash at any point is made good by the next start.
    pub(crate) fn rejoin(&self, peers: &[Entry]) -> Result<()> {
        let core = self.core()?;
        // Nobody asks it for its members any more, who are this node alone.
        *self.core.lock() = None;
        // First whom to ask: a start that has to join and knows nobody could not go on.
        let noted = self.watch.leave_for(peers);
        if let Err(error) = noted.and_then(|()| files::store_join(&self.dir, files::Join::Reset)) {
            *self.core.lock() = Some(core);
            return Err(error);
        }
        self.watch.set_plan(Plan::Join);
        core.door.close();
        core.engine.stop()?;
        drop(core);
        files::remove_raft_state(&self.dir)?;
        files::store_join(&self.dir, files::Join::Pending)?;
        self.open_core(net::listen(&self.bound)?.0.into())?;
        self.duties.expect_join();
        Ok(())
    }

    /// Stops for everybody who is attached. Returns at the deadline at the latest; the engine then goes on stopping.
    pub(crate) fn stop(&self, deadline: Instant) -> Result<()> {
        self.duties.end(deadline);
        let Some(core) = self.core.lock().take() else {
            return Ok(());
        };
        self.watch.wake_all(&Error::new(
            Kind::Shutdown,
            format!("the node at {} was stopped during the call", self.me.address),
        ));
        log::info(format_args!("node {} at {} is stopping", self.me.id, self.me.address));
        let (done, wait) = mpsc::channel();
        let there = Arc::clone(&core);
        // Nobody may be waiting any more.
        let thread = net::sys::spawn("dqlite-stop", move || drop(done.send(end(there))));
        if thread.is_err() {
            // Without the engine nobody could stop it any more: the deadline has to give way.
            return end(core);
        }
        drop(core);
        let left = deadline.saturating_duration_since(Instant::now());
        wait.recv_timeout(left).unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Timeout,
                format!(
                    "the engine of the node at {} did not stop before the deadline; it goes on stopping in the \
                     background, and {} stays locked until it has",
                    self.me.address,
                    self.dir.display()
                ),
            ))
        })
    }

    fn core(&self) -> Result<Arc<Core>> {
        let core = self.core.lock().clone();
        core.ok_or_else(|| Error::new(Kind::Stopped, format!("the node at {} is stopped", self.me.address)))
    }
}

/// Blocks until the engine has stopped.
fn end(core: Arc<Core>) -> Result<()> {
    core.door.close();
    let stopped = core.engine.stop();
    // With its descriptors, which whoever waits may count.
    drop(core);
    stopped
}

impl Drop for Instance {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.stop(Instant::now() + limits::STOP.get());
    }
}

/// Past the socket of a connection that does not leave the process.
struct Past(engine::visit::Path);

impl Shortcut for Past {
    fn ask(&self, request: &[u8], answer: &mut [u8]) -> Option<usize> {
        self.0.ask(request, answer)
    }
}

/// The way to the engine for sessions of this process. It does not keep the node running.
struct Inside(Weak<Instance>, String);

impl Local for Inside {
    fn address(&self) -> &str {
        &self.1
    }

    fn dial(&self) -> Result<Stream> {
        let stopped = || Error::new(Kind::Stopped, format!("the node at {} is stopped", self.1));
        let instance = self.0.upgrade().ok_or_else(stopped)?;
        instance.dial_stream()
    }

    fn peers(&self) -> Vec<Address> {
        self.0
            .upgrade()
            .map(|instance| instance.watch.peers(&instance.config))
            .unwrap_or_default()
    }

    fn members(&self) -> Vec<Address> {
        self.0
            .upgrade()
            .map(|instance| instance.watch.others())
            .unwrap_or_default()
    }
}

fn upgrade(engine: &Weak<Engine>) -> Result<Arc<Engine>> {
    engine
        .upgrade()
        .ok_or_else(|| Error::new(Kind::Stopped, "the engine is stopped"))
}

/// What the engine holds them to once the door has handed them over.
fn strangers(limits: &door::Limits) -> engine::visit::Limits {
    engine::visit::Limits {
        arriving: limits.arriving,
        pause: limits.pause,
        unread: limits.unread,
        unacknowledged: net::UNACKNOWLEDGED,
    }
}

/// What was in the directory before the start, to take back what a failed start added.
struct Fresh {
    dir: PathBuf,
    created: Created,
    /// None if a node lived here before: then nothing is taken back.
    before: Option<Vec<String>>,
}

impl Fresh {
    fn look(dir: &Path, created: Created) -> Result<Self> {
        let before = files::list(dir)?;
        let lived = files::has_raft_state(dir)? || files::load_info(dir)?.is_some();
        Ok(Self {
            dir: dir.to_owned(),
            created,
            before: (!lived).then_some(before),
        })
    }

    /// `prepared`: the directory was locked by us, so what is new in it is ours.
    fn undo(self, prepared: bool) {
        if let (Some(before), true) = (self.before, prepared) {
            for name in files::list(&self.dir).unwrap_or_default() {
                if !before.contains(&name) {
                    let _ = fs::remove_file(self.dir.join(name));
                }
            }
        }
        self.created.undo();
    }
}

/// Takes the node's port before anything is written. With port 0 the one that the node had last time, or a new one.
fn listen(config: &Config, known: Option<&Entry>) -> Result<(Sockets, Address, String)> {
    let mut address = config.address.clone();
    if let (0, Some(known)) = (address.port(), known) {
        let before = Address::parse_peer(&known.address, "address in info.yaml")?;
        if before.host() == address.host() {
            address = before;
        }
    }
    let bind = match &config.bind {
        Some(bind) if bind.port() == 0 => bind.with_port(address.port()),
        Some(bind) => bind.clone(),
        None => address.clone(),
    };
    let (listener, bound) = net::listen(&bind)?;
    if address.port() == 0 {
        address = address.with_port(bound.port());
    }
    Ok((listener.into(), bind.with_port(bound.port()), address.to_string()))
}
