//! A node that runs: the engine, its door, and the files that say who it is.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::{Conn, Connector, Local, Member, members};
use crate::db::WakeSlot;
use crate::door::{self, Door};
use crate::engine::{self, Engine, Start};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::log;
use crate::net::{self, Address, Stream};
use crate::node::Config;
use crate::node::files::{self, Created, Entry};

/// How long the engine may take to say who belongs to the cluster; it answers from memory.
const ASK_ENGINE: Duration = Duration::from_millis(500);
/// How long the engine may take to dial a peer; its pool has a thread for each.
const DIAL_PEER: Duration = Duration::from_secs(5);

/// The nodes that run in this process. A handle to a directory that runs already attaches to what runs there.
static RUNNING: Mutex<Vec<Weak<Instance>>> = Mutex::new(Vec::new());

/// One start at a time: create, bind and start of the engine belong together. [engine 5]
static STARTING: Mutex<()> = Mutex::new(());

pub(crate) struct Instance {
    id: u64,
    address: String,
    dir: PathBuf,
    door: Arc<Door>,
    watch: Arc<Watch>,
    /// None from stop on.
    engine: Mutex<Option<Engine>>,
}

/// What the engine reports to, and what has to be told when it fails.
struct Watch {
    dir: PathBuf,
    me: Entry,
    alone: bool,
    /// The lock on the directory was ours, so what is in it now is ours as well.
    prepared: AtomicBool,
    lost: OnceLock<String>,
    wakes: Mutex<Vec<Weak<WakeSlot>>>,
}

/// The way to the engine that does not leave the process.
struct Inside {
    address: String,
    door: Arc<Door>,
}

impl Instance {
    /// The node that runs on this directory in this process, if one does.
    pub(crate) fn running_on(dir: &Path) -> Option<Arc<Self>> {
        let dir = fs::canonicalize(dir).ok()?;
        let mut running = RUNNING.lock();
        running.retain(|instance| instance.strong_count() > 0);
        running
            .iter()
            .filter_map(Weak::upgrade)
            .find(|instance| instance.dir == dir && instance.engine.lock().is_some())
    }

    /// Starts a node. On failure nothing is left behind that was not there before.
    pub(crate) fn start(config: &Config) -> Result<Arc<Self>> {
        let _one_at_a_time = STARTING.lock();
        let known = files::load_info(&config.dir)?;
        let (listener, address) = listen(config, known.as_ref())?;
        let id = identity(config, &address, known.as_ref())?;
        let created = files::make_dir(&config.dir)?;
        let fresh = Fresh::look(&config.dir, created)?;
        let started = start_engine(config, id, &address, listener);
        match started {
            Ok(instance) => {
                RUNNING.lock().push(Arc::downgrade(&instance));
                log::info(format_args!("node {} at {} started in {}", instance.id, instance.address, config.dir.display()));
                Ok(instance)
            }
            Err((error, prepared)) => {
                fresh.undo(prepared);
                Err(error)
            }
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Finds the leader, this node first.
    pub(crate) fn connector(&self, others: Vec<Address>) -> Connector {
        Connector::new(Some(Arc::new(self.inside())), others)
    }

    /// Calls that wait on this slot are ended when the node is lost or stopped.
    pub(crate) fn register(&self, wake: &Arc<WakeSlot>) -> Result<()> {
        let mut wakes = self.watch.wakes.lock();
        wakes.retain(|slot| slot.strong_count() > 0);
        wakes.push(Arc::downgrade(wake));
        drop(wakes);
        self.check()
    }

    /// Whether the node still runs, and if not, why.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(reason) = self.watch.lost.get() {
            return Err(lost(reason));
        }
        if self.engine.lock().is_none() {
            return Err(Error::new(Kind::Stopped, format!("the node at {} is stopped", self.address)));
        }
        Ok(())
    }

    /// What a failed call says if the node was lost meanwhile.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match self.watch.lost.get() {
            Some(reason) => Error::internal(format!("{} ({})", lost(reason).message(), error.message())),
            None => error,
        }
    }

    /// The members as this node knows them.
    pub(crate) fn members(&self) -> Result<Vec<Member>> {
        ask_members(&self.door)
    }

    /// Stops for everybody who is attached. Returns at the deadline at the latest; the engine then goes on stopping.
    pub(crate) fn stop(&self, deadline: Instant) -> Result<()> {
        let Some(engine) = self.engine.lock().take() else {
            return Ok(());
        };
        self.watch.wake_all(&Error::new(
            Kind::Shutdown,
            format!("the node at {} was stopped during the call", self.address),
        ));
        log::info(format_args!("node {} at {} is stopping", self.id, self.address));
        self.door.close();
        let (done, wait) = mpsc::channel();
        let stopping = thread::Builder::new().name("dqlite-stop".to_owned()).spawn(move || {
            net::sys::block_signals();
            // Nobody may be waiting any more.
            let _ = done.send(engine.stop());
        });
        stopping.map_err(|error| Error::internal(format!("no thread to stop the engine on: {error}")))?;
        let left = deadline.saturating_duration_since(Instant::now());
        wait.recv_timeout(left).unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Timeout,
                format!(
                    "the engine of the node at {} did not stop before the deadline; it goes on stopping in the \
                     background, and {} stays locked until it has",
                    self.address,
                    self.dir.display()
                ),
            ))
        })
    }

    /// The engine's own socket, behind the door.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> String {
        self.engine.lock().as_ref().map(|engine| engine.socket().to_owned()).unwrap_or_default()
    }

    fn inside(&self) -> Inside {
        Inside {
            address: self.address.clone(),
            door: Arc::clone(&self.door),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.stop(Instant::now() + limits::STOP);
    }
}

impl Local for Inside {
    fn address(&self) -> &str {
        &self.address
    }

    fn dial(&self, deadline: Instant) -> Result<Stream> {
        Ok(Stream::from_unix(self.door.dial(deadline)?))
    }
}

impl Watch {
    fn wake_all(&self, error: &Error) {
        for slot in self.wakes.lock().iter().filter_map(Weak::upgrade) {
            slot.close(error.clone());
        }
    }
}

impl engine::Owner for Watch {
    fn prepare(&self) -> Result<Start> {
        // Another process may have been here since we looked.
        let known = files::load_info(&self.dir)?;
        if known.as_ref().is_some_and(|known| (known.id, &known.address) != (self.me.id, &self.me.address)) {
            return Err(Error::internal(format!(
                "{} was given to another node while this one started",
                self.dir.display()
            )));
        }
        self.prepared.store(true, Ordering::Release);
        if known.is_none() {
            files::store_cluster(&self.dir, std::slice::from_ref(&self.me))?;
            files::store_info(&self.dir, &self.me)?;
        }
        if files::has_raft_state(&self.dir)? {
            return Ok(Start::AsIs);
        }
        Ok(if self.alone { Start::Bootstrap } else { Start::AsIs })
    }

    fn connect(&self, address: &str) -> Result<OwnedFd> {
        let address = Address::parse_peer(address, "peer address")?;
        Ok(net::dial(&address, Instant::now() + DIAL_PEER)?.into())
    }

    fn lost(&self, reason: &str) {
        let _ = self.lost.set(reason.to_owned());
        log::error(format_args!("node {} at {} is lost: {reason}", self.me.id, self.me.address));
        self.wake_all(&lost(reason));
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
fn listen(config: &Config, known: Option<&Entry>) -> Result<(TcpListener, String)> {
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
    Ok((listener, address.to_string()))
}

/// Once info.yaml exists, it decides who the node is.
fn identity(config: &Config, address: &str, known: Option<&Entry>) -> Result<u64> {
    let Some(known) = known else {
        return Ok(config.id);
    };
    // An id that was generated was not chosen; go-dqlite generates others.
    let chosen = config.id != engine::generate_id(&config.address.to_string())?;
    if known.address != address || (chosen && known.id != config.id) {
        return Err(Error::invalid(format!(
            "data_dir {} belongs to node {} at {}, not to node {} at {address}; start it as that node, or name another \
             directory",
            config.dir.display(),
            known.id,
            known.address,
            config.id
        )));
    }
    Ok(known.id)
}

fn start_engine(
    config: &Config,
    id: u64,
    address: &str,
    listener: TcpListener,
) -> std::result::Result<Arc<Instance>, (Error, bool)> {
    let early = |error: Error| (error, false);
    files::check_unlocked(&config.dir).map_err(early)?;
    let dir = fs::canonicalize(&config.dir)
        .map_err(|error| early(Error::invalid(format!("data_dir {}: {error}", config.dir.display()))))?;
    let watch = Arc::new(Watch {
        dir: dir.clone(),
        me: Entry {
            id,
            address: address.to_owned(),
            role: 0,
        },
        alone: config.cluster.iter().all(|member| member.to_string() == address),
        prepared: AtomicBool::new(false),
        lost: OnceLock::new(),
        wakes: Mutex::new(Vec::new()),
    });
    let options = engine::Options {
        id,
        address,
        dir: &dir,
        busy_timeout_ms: config.options.busy_timeout_ms,
        network_latency_ms: config.options.network_latency_ms,
        auto_recovery: config.options.auto_recovery,
        snapshot_compression: config.options.snapshot_compression,
    };
    let owner: Arc<dyn engine::Owner> = Arc::<Watch>::clone(&watch);
    let engine = Engine::start(&options, owner).map_err(|error| {
        let prepared = watch.prepared.load(Ordering::Acquire);
        let error = if error.message().contains("couldn't lock") { files::in_use(&dir) } else { error };
        (error.at(format!("starting the node at {address}")), prepared)
    })?;
    match open_door(listener, engine.socket()) {
        Ok(door) => Ok(Arc::new(Instance {
            id,
            address: address.to_owned(),
            dir,
            door,
            watch,
            engine: Mutex::new(Some(engine)),
        })),
        Err(error) => {
            let _ = engine.stop();
            Err((error, true))
        }
    }
}

/// The door admits as raft peers only those who are members.
fn open_door(listener: TcpListener, upstream: &str) -> Result<Arc<Door>> {
    let socket = upstream.to_owned();
    let admit = move |id: u64, address: &str| {
        let deadline = Instant::now() + ASK_ENGINE;
        let asked = Stream::connect_local(&socket, deadline)
            .and_then(|stream| members(&mut Conn::new(stream), deadline));
        asked.is_ok_and(|members| members.iter().any(|member| member.id == id && member.address == address))
    };
    let options = door::Options {
        upstream: upstream.to_owned(),
        limits: door::Limits::default(),
        admit: Box::new(admit),
    };
    Ok(Arc::new(Door::open(listener, options)?))
}

fn ask_members(door: &Door) -> Result<Vec<Member>> {
    let deadline = Instant::now() + ASK_ENGINE;
    let stream = Stream::from_unix(door.dial(deadline)?);
    members(&mut Conn::new(stream), deadline)
}

fn lost(reason: &str) -> Error {
    Error::internal(format!(
        "the node is lost: {reason}. Other nodes of this process go on; destroy this one and start it again"
    ))
}
