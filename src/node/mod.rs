//! A node as one handle sees it: configured, running, stopped. Several handles may stand for one running node.

mod duties;
mod figures;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod identity;
mod instance;
mod join;
mod plan;
mod rival;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::client::{self, Connector, Targets};
use crate::db::{self, Changes, Database, SharedSession, WakeSlot};
use crate::engine::Snapshots;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::log;
use crate::metrics::Metrics;
use crate::net::Address;
use crate::node::instance::Instance;

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
    pub(crate) call_timeout: Duration,
    /// How many members vote and stand by.
    pub(crate) targets: Targets,
    pub(crate) failure_domain: u64,
    pub(crate) weight: u64,
    pub(crate) snapshots: Option<Snapshots>,
    pub(crate) block_size: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auto_recovery: true,
            busy_timeout_ms: limits::BUSY_TIMEOUT_MS,
            snapshot_compression: true,
            network_latency_ms: None,
            call_timeout: limits::NODE_CALL,
            targets: Targets::default(),
            failure_domain: 0,
            weight: 0,
            snapshots: None,
            block_size: None,
        }
    }
}

pub(crate) use figures::figures;
pub(crate) use join::add;

pub(crate) struct Node {
    config: Mutex<Config>,
    phase: Mutex<Phase>,
    /// Held through start, stop and destroy, which exclude each other.
    changing: Mutex<()>,
    /// What its calls did, over all starts.
    metrics: Arc<Metrics>,
}

enum Phase {
    Configured,
    Running(Arc<Running>),
    Stopped,
    Destroyed,
}

/// A handle's share of a running node.
struct Running {
    instance: Arc<Instance>,
    connector: Arc<Connector>,
    wake: Arc<WakeSlot>,
    databases: Mutex<HashMap<String, Arc<Database>>>,
    current: Mutex<Option<Arc<Database>>>,
    call_timeout: Duration,
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
            metrics: Metrics::new(),
        })
    }

    /// Changes the configuration of a node that does not run.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Config) -> Result<()>) -> Result<()> {
        if let Phase::Running(running) = &*self.phase.lock() {
            return Err(Error::misuse(format!(
                "the node at {} is running; its options can be set before start only",
                running.instance.me().address
            )));
        }
        change(&mut self.config.lock())
    }

    /// Starts the node, or attaches to it if it runs in this process already. Returns when it belongs to a cluster.
    pub(crate) fn start(&self) -> Result<()> {
        let deadline = Instant::now() + limits::START;
        let instance = {
            let _changing = self.changing.lock();
            self.start_or_attach()?
        };
        instance.duties().wait_joined(deadline)
    }

    fn start_or_attach(&self) -> Result<Arc<Instance>> {
        match &*self.phase.lock() {
            // The start before this one ended while the node was still waiting to join.
            Phase::Running(running) if running.instance.duties().waits() => return Ok(Arc::clone(&running.instance)),
            // Another handle has stopped it.
            Phase::Running(running) if running.instance.is_stopped() => {}
            Phase::Running(running) => {
                return Err(Error::misuse(format!(
                    "the node at {} is running already",
                    running.instance.me().address
                )));
            }
            Phase::Destroyed => return Err(destroyed()),
            Phase::Configured | Phase::Stopped => {}
        }
        let config = self.config.lock().clone();
        let instance = match Instance::running_on(&config.dir).filter(|instance| instance.enter()) {
            Some(instance) => attach(&config, instance)?,
            None => Instance::start(&config)?,
        };
        let wake = Arc::new(WakeSlot::default());
        instance.register(&wake)?;
        let running = Running {
            connector: Arc::new(instance.connector(Arc::clone(&self.metrics))),
            instance: Arc::clone(&instance),
            wake,
            databases: Mutex::new(HashMap::new()),
            current: Mutex::new(None),
            call_timeout: config.options.call_timeout,
            busy_timeout: Duration::from_millis(config.options.busy_timeout_ms.into()),
            calls: RwLock::new(()),
        };
        *self.phase.lock() = Phase::Running(Arc::new(running));
        Ok(instance)
    }

    /// Gives the lead and the vote away, if there is anybody to take them.
    pub(crate) fn handover(&self) -> Result<()> {
        self.call(|running| client::handover(&running.connector, running.instance.me().id, running.deadline()))
    }

    /// Stops the node, for all its handles. It can be started again.
    pub(crate) fn stop(&self) -> Result<()> {
        let _changing = self.changing.lock();
        let deadline = Instant::now() + limits::STOP;
        let running = self.running()?;
        running.give_lead_away();
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
        let _changing = self.changing.lock();
        let phase = std::mem::replace(&mut *self.phase.lock(), Phase::Destroyed);
        if let Phase::Running(running) = phase {
            let deadline = Instant::now() + limits::STOP;
            running.end_calls(destroyed(), deadline);
            running.instance.leave(deadline);
        }
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
            SharedSession::open(name, connector, wake, running.call_timeout)
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
        match &*self.phase.lock() {
            Phase::Running(running) => Ok(Arc::clone(running)),
            Phase::Configured => Err(Error::misuse("the node is not running: call dqlitepy_node_start first")),
            Phase::Stopped => Err(Error::new(Kind::Stopped, "the node is stopped")),
            Phase::Destroyed => Err(destroyed()),
        }
    }
}

impl Running {
    fn deadline(&self) -> Instant {
        Instant::now() + self.call_timeout
    }

    fn open_db(&self, name: &str) -> Result<Arc<Database>> {
        let opened = Database::open(
            name,
            Arc::clone(&self.connector),
            Arc::clone(&self.wake),
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
    fn give_lead_away(&self) {
        let (me, deadline) = (self.instance.me(), Instant::now() + limits::GIVE_LEAD);
        let heir = self.instance.status().map_or(0, |status| status.heir);
        if let Err(error) = client::give_lead_away(&self.connector, me.id, &me.address, heir, deadline) {
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

/// A node that runs in this process is joined, not started a second time, if it is the one that was asked for.
fn attach(config: &Config, instance: Arc<Instance>) -> Result<Arc<Instance>> {
    let same_host = config.address.port() == 0 && instance.me().address.starts_with(&config.address.host());
    if config.address.to_string() != instance.me().address && !same_host {
        let error = Error::invalid(format!(
            "data_dir {} is in use by the node {} at {} of this process",
            config.dir.display(),
            instance.me().id,
            instance.me().address
        ));
        instance.leave(Instant::now() + limits::STOP);
        return Err(error);
    }
    Ok(instance)
}

fn destroyed() -> Error {
    Error::new(Kind::Shutdown, "the node was destroyed during the call")
}

#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod tests;
