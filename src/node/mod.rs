//! A node as one handle sees it: configured, running, stopped. Several handles may stand for one running node.

mod duties;
mod figures;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod identity;
mod instance;
mod join;
mod launch;
mod look;
mod mirror;
mod plan;
mod rival;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::client::{self, Connector, Targets, WakeSlot};
use crate::db::{self, Changes, Database, SharedSession};
use crate::engine::Snapshots;
use crate::error::{Error, Kind, Result};
use crate::limits::{self, Timeout};
use crate::log;
use crate::metrics::Metrics;
use crate::net::Address;
use crate::node::instance::Instance;
use crate::node::launch::Launch;
use crate::node::look::Look;

/// What a node is made of. The options can be set until it starts.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) id: u64,
    pub(crate) address: Address,
    pub(crate) dir: PathBuf,
    /// The members of the cluster to start or to join; empty for a node that is its own cluster.
    pub(crate) cluster: Vec<Address>,
    /// Where to listen, if not at the address.
    pub(crate) bind: Option<Address>,
    pub(crate) options: Options,
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) auto_recovery: bool,
    pub(crate) busy_timeout_ms: u32,
    pub(crate) snapshot_compression: bool,
    pub(crate) network_latency_ms: Option<u32>,
    pub(crate) call_timeout: Timeout,
    /// How many members vote and stand by.
    pub(crate) targets: Targets,
    pub(crate) failure_domain: u64,
    pub(crate) weight: u64,
    pub(crate) snapshots: Option<Snapshots>,
    pub(crate) block_size: Option<u32>,
    pub(crate) bootstrap: Bootstrap,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auto_recovery: true,
            busy_timeout_ms: limits::BUSY_TIMEOUT_MS,
            snapshot_compression: true,
            network_latency_ms: None,
            call_timeout: Timeout::new(&limits::NODE_CALL),
            targets: Targets::default(),
            failure_domain: 0,
            weight: 0,
            snapshots: None,
            block_size: None,
            bootstrap: Bootstrap::default(),
        }
    }
}

pub(crate) use figures::figures;
pub(crate) use join::add;
pub(crate) use plan::Bootstrap;

pub(crate) struct Node {
    config: Mutex<Config>,
    phase: Mutex<Phase>,
    /// Held while a start begins and through stop and destroy, which exclude each other.
    changing: Mutex<()>,
    start_timeout: Timeout,
    stop_timeout: Timeout,
    /// The calls that wait for a start, each in a child.
    starts: WakeSlot,
    /// What its calls did, over all starts.
    metrics: Arc<Metrics>,
    /// At its directory, for the metrics.
    look: Look,
}

enum Phase {
    Configured,
    /// The phase before it is what a failure leads back to.
    Starting(Arc<Launch>, Before),
    Running(Arc<Running>),
    Stopped,
    Destroyed,
}

#[derive(Clone, Copy)]
enum Before {
    Configured,
    Stopped,
}

/// A handle's share of a running node.
struct Running {
    instance: Arc<Instance>,
    connector: Arc<Connector>,
    /// Ends all that is done through the handle, sessions included.
    wake: Arc<WakeSlot>,
    /// Ends what is done on the handle itself.
    own: Arc<WakeSlot>,
    databases: Mutex<HashMap<String, Arc<Database>>>,
    current: Mutex<Option<Arc<Database>>>,
    call_timeout: Timeout,
    busy_timeout: Duration,
    /// Read-held by every call, so that stop and destroy can wait for the last one to leave.
    calls: RwLock<()>,
}

impl Node {
    /// Checks what can be checked without touching the disk or the network.
    pub(crate) fn new(id: u64, address: &str, dir: &str, cluster: Vec<Address>) -> Result<Self> {
        if id == 0 {
            return Err(Error::invalid(
                "id 0 is no node id; use dqlitepy_generate_node_id for one",
            ));
        }
        if dir.is_empty() {
            return Err(Error::invalid("data_dir is empty; name a directory"));
        }
        let config = Config {
            id,
            address: Address::parse_node(address, "address")?,
            dir: std::path::absolute(dir).map_err(|error| Error::invalid(format!("data_dir {dir:?}: {error}")))?,
            cluster,
            bind: None,
            options: Options::default(),
        };
        files::check_dir(&config.dir)?;
        Ok(Self {
            config: Mutex::new(config),
            phase: Mutex::new(Phase::Configured),
            changing: Mutex::new(()),
            start_timeout: Timeout::new(&limits::START),
            stop_timeout: Timeout::new(&limits::STOP),
            starts: WakeSlot::default(),
            metrics: Metrics::new(),
            look: Look::default(),
        })
    }

    /// Changes the configuration of a node that does not run.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Config) -> Result<()>) -> Result<()> {
        if let Phase::Running(_) | Phase::Starting(..) = *self.phase() {
            return Err(Error::misuse(format!(
                "the node at {} is running; its options can be set before start only",
                self.config.lock().address
            )));
        }
        change(&mut self.config.lock())
    }

    /// How long each later start may take; 0: as the process's.
    pub(crate) fn set_start_timeout(&self, ms: u32) {
        self.start_timeout.set(ms);
    }

    /// The same for stop and destroy.
    pub(crate) fn set_stop_timeout(&self, ms: u32) {
        self.stop_timeout.set(ms);
    }

    /// Ends the calls that are under way on the handle; a start goes on in the background.
    pub(crate) fn interrupt(&self) {
        self.starts.interrupt_children();
        if let Phase::Running(running) = &*self.phase() {
            running.own.interrupt_children();
        }
    }

    /// Starts the node, or attaches to it if it runs in this process already. Returns when it belongs to a cluster.
    pub(crate) fn start(&self) -> Result<()> {
        let deadline = Instant::now() + self.start_timeout.get();
        self.starts.call(|call| {
            if let Some(launch) = self.launch(deadline)? {
                launch.wait(call, deadline)?;
                launch.outcome().transpose()?;
            }
            let running = self.running().map_err(stopped_meanwhile)?;
            running.instance.check().map_err(stopped_meanwhile)?;
            running.instance.duties().wait_joined(call, deadline)
        })
    }

    /// What whoever started it should know, although it runs.
    pub(crate) fn warning(&self) -> Option<String> {
        let running = self.running().ok()?;
        running.instance.warning().map(str::to_owned)
    }

    /// The start that is under way, or begins now; None if it is over and the node waits to join.
    fn launch(&self, deadline: Instant) -> Result<Option<Arc<Launch>>> {
        let _changing = self.change(deadline)?;
        let mut phase = self.phase();
        let before = match &*phase {
            Phase::Starting(launch, _) => return Ok(Some(Arc::clone(launch))),
            // The start before this one ended while the node was still waiting to join.
            Phase::Running(running) if running.instance.duties().waits() => return Ok(None),
            // Another handle has stopped it.
            Phase::Running(running) if running.instance.is_stopped() => Before::Stopped,
            Phase::Running(running) => {
                return Err(Error::misuse(format!(
                    "the node at {} is running already",
                    running.instance.me().address
                )));
            }
            Phase::Destroyed => return Err(destroyed()),
            Phase::Configured => Before::Configured,
            Phase::Stopped => Before::Stopped,
        };
        let launch = Launch::begin(self.config.lock().clone())?;
        *phase = Phase::Starting(Arc::clone(&launch), before);
        Ok(Some(launch))
    }

    /// Nobody else starts, stops or destroys the node.
    fn change(&self, deadline: Instant) -> Result<MutexGuard<'_, ()>> {
        self.changing.try_lock_until(deadline).ok_or_else(|| {
            let address = &self.config.lock().address;
            let late = format!("another thread was still stopping the node at {address} at the deadline");
            Error::new(Kind::Timeout, late)
        })
    }

    /// Where the node stands now: a start that is over has made it run, or has failed.
    fn phase(&self) -> MutexGuard<'_, Phase> {
        let mut phase = self.phase.lock();
        if let Phase::Starting(launch, before) = &*phase
            && launch.outcome().is_some()
        {
            *phase = match (launch.take(), before) {
                (Some(instance), _) => Phase::Running(Arc::new(self.running_with(instance))),
                (None, Before::Configured) => Phase::Configured,
                (None, Before::Stopped) => Phase::Stopped,
            };
        }
        phase
    }

    fn running_with(&self, instance: Arc<Instance>) -> Running {
        let options = self.config.lock().options.clone();
        let (wake, own) = (Arc::new(WakeSlot::default()), Arc::default());
        // Whoever calls is told if it has been lost or stopped meanwhile.
        let _ = wake.adopt(&own).and_then(|()| instance.register(&wake));
        Running {
            connector: Arc::new(instance.connector(Arc::clone(&self.metrics))),
            instance,
            wake,
            own,
            databases: Mutex::new(HashMap::new()),
            current: Mutex::new(None),
            call_timeout: options.call_timeout,
            busy_timeout: Duration::from_millis(options.busy_timeout_ms.into()),
            calls: RwLock::new(()),
        }
    }

    /// Gives the lead and the vote away, if there is anybody to take them.
    pub(crate) fn handover(&self) -> Result<()> {
        self.call(|running| {
            let me = running.instance.me().id;
            let deadline = running.deadline();
            running
                .own
                .call(|call| client::handover(&running.connector.for_call(call), me, deadline))
        })
    }

    /// Stops the node, for all its handles. It can be started again.
    pub(crate) fn stop(&self) -> Result<()> {
        let deadline = Instant::now() + self.stop_timeout.get();
        let _changing = self.change(deadline)?;
        if let Some(launch) = self.unstarted(Phase::Stopped) {
            return launch.give_up(deadline);
        }
        let running = self.running()?;
        running.give_lead_away(deadline);
        *self.phase.lock() = Phase::Stopped;
        let stopped = Error::new(
            Kind::Shutdown,
            format!(
                "the node at {} was stopped during the call",
                running.instance.me().address
            ),
        );
        running.end_calls(stopped, deadline);
        running.instance.stop(deadline)
    }

    /// Ends the handle's calls; the node itself stops with its last handle.
    pub(crate) fn destroy(&self) {
        let deadline = Instant::now() + self.stop_timeout.get();
        // Who is stopping it still has said so to its caller; there is nobody else left to tell.
        let _changing = self.change(deadline);
        if let Some(launch) = self.unstarted(Phase::Destroyed) {
            let _ = launch.give_up(deadline);
            return;
        }
        let phase = std::mem::replace(&mut *self.phase(), Phase::Destroyed);
        if let Phase::Running(running) = phase {
            running.end_calls(destroyed(), deadline);
            running.instance.leave(deadline);
        }
    }

    /// The start that is under way, which nobody waits for any more.
    fn unstarted(&self, then: Phase) -> Option<Arc<Launch>> {
        let mut phase = self.phase();
        let Phase::Starting(launch, _) = &*phase else {
            return None;
        };
        let launch = Arc::clone(launch);
        *phase = then;
        Some(launch)
    }

    /// Makes the database the one that exec and query work on.
    pub(crate) fn open_db(&self, name: &str) -> Result<()> {
        db::check_name(name)?;
        self.call(|running| {
            let known = running.databases.lock().get(name).cloned();
            let database = match known {
                Some(database) => database,
                None => running.open_db(name)?,
            };
            *running.current.lock() = Some(database);
            Ok(())
        })
    }

    pub(crate) fn exec(&self, sql: &str) -> Result<Changes> {
        self.call(|running| running.database()?.exec(sql, running.deadline()))
    }

    pub(crate) fn query(&self, sql: &str) -> Result<Vec<u8>> {
        self.call(|running| running.database()?.query(sql, running.deadline()))
    }

    /// A session with a transaction of its own; it ends with this handle's share of the node.
    pub(crate) fn open_session(&self, name: &str, wake: Arc<WakeSlot>) -> Result<SharedSession> {
        self.call(|running| {
            running.wake.adopt(&wake)?;
            let connector = Arc::clone(&running.connector);
            SharedSession::open(name, connector, wake, running.call_timeout.clone())
        })
    }

    /// The frame around every call on a running node.
    fn call<T>(&self, call: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
        let running = self.running()?;
        let _inside = running.calls.read();
        running.instance.check()?;
        running.wake.check()?;
        call(&running).map_err(|error| running.instance.explain(error))
    }

    fn running(&self) -> Result<Arc<Running>> {
        match &*self.phase() {
            Phase::Running(running) => Ok(Arc::clone(running)),
            Phase::Starting(..) => Err(Error::misuse(
                "the node is still starting: dqlitepy_node_start waits for it",
            )),
            Phase::Configured => Err(Error::misuse("the node is not running: call dqlitepy_node_start first")),
            Phase::Stopped => Err(Error::new(Kind::Stopped, "the node is stopped")),
            Phase::Destroyed => Err(destroyed()),
        }
    }
}

impl Running {
    fn deadline(&self) -> Instant {
        Instant::now() + self.call_timeout.get()
    }

    fn open_db(&self, name: &str) -> Result<Arc<Database>> {
        let opened = Database::open(
            name,
            Arc::clone(&self.connector),
            Arc::clone(&self.own),
            self.busy_timeout,
            self.deadline(),
        )?;
        Ok(Arc::clone(
            self.databases
                .lock()
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(opened)),
        ))
    }

    fn database(&self) -> Result<Arc<Database>> {
        let current = self.current.lock().clone();
        current.ok_or_else(|| Error::misuse("no database is open on this node: call dqlitepy_node_open_db first"))
    }

    /// So that the others do not have to notice that the leader is gone. Whatever comes of it, the node stops.
    fn give_lead_away(&self, deadline: Instant) {
        let (me, deadline) = (self.instance.me(), deadline.min(Instant::now() + limits::GIVE_LEAD));
        let (heir, lacks) = self
            .instance
            .status()
            .map_or((0, 0), |status| (status.heir, status.heir_lacks));
        let given = if lacks > limits::HEIR_LACKS {
            Err(Error::internal(format!("node {heir} lacks {lacks} bytes of the log")))
        } else {
            client::give_lead_away(&self.connector, me.id, &me.address, heir, deadline)
        };
        if let Err(error) = given {
            log::info(format_args!(
                "the node at {} stops without giving its lead away: {error}",
                me.address
            ));
        }
    }

    /// Wakes the calls in flight and waits until they have left.
    fn end_calls(&self, why: Error, deadline: Instant) {
        self.wake.close(why);
        drop(self.calls.try_write_until(deadline));
    }
}

/// What a call says that has found the node starting or running before.
fn stopped_meanwhile(error: Error) -> Error {
    match error.kind() {
        Kind::Stopped => Error::new(Kind::Shutdown, format!("{} since this call began", error.message())),
        _ => error,
    }
}

fn destroyed() -> Error {
    Error::new(Kind::Shutdown, "the node was destroyed during the call")
}

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod install_tests;
#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod tests;
