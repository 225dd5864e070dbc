//! A start on a thread of its own: a log is loaded for as long as it takes, and a disk may not answer at all. Whoever waits
//! for it can give up; it goes on, and whoever comes next waits for it, or says that the node is not wanted any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::client::{Wake, WakeSlot};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::net;
use crate::node::Config;
use crate::node::instance::Instance;

pub(crate) struct Launch {
    place: String,
    dir: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<()>>,
    /// Until it is taken.
    instance: Option<Arc<Instance>>,
    unwanted: bool,
    /// How often somebody was to look whether he still waits.
    rung: u64,
}

impl Launch {
    pub(crate) fn begin(config: Config) -> Result<Arc<Self>> {
        let launch = Arc::new(Self {
            place: config.address.to_string(),
            dir: config.dir.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let doing = Arc::clone(&launch);
        net::sys::spawn("dqlite-start", move || doing.run(&config))
            .map_err(|error| Error::internal(format!("no thread to start the node on: {error}")))?;
        Ok(launch)
    }

    fn run(&self, config: &Config) {
        let _turn = Turn::wait(&config.dir);
        let unwanted = self.state.lock().unwanted;
        let outcome = match unwanted {
            true => Err(self.given_up()),
            false => catch_unwind(AssertUnwindSafe(|| Instance::start_or_attach(config))).unwrap_or_else(|_| {
                Err(Error::internal(
                    "a bug in libdqlitepy: the start panicked; please report it",
                ))
            }),
        };
        let mut state = self.state.lock();
        let outcome = match outcome {
            Ok(instance) if state.unwanted => {
                drop(state);
                instance.leave(Instant::now() + limits::STOP.get());
                state = self.state.lock();
                Err(self.given_up())
            }
            Ok(instance) => {
                state.instance = Some(instance);
                Ok(())
            }
            Err(error) => Err(error),
        };
        state.outcome = Some(outcome);
        self.changed.notify_all();
    }

    fn given_up(&self) -> Error {
        Error::new(
            Kind::Shutdown,
            format!("the node at {} was stopped while it started", self.place),
        )
    }

    /// What came of it, if it is over.
    pub(crate) fn outcome(&self) -> Option<Result<()>> {
        self.state.lock().outcome.clone()
    }

    /// What runs now, for the first who asks.
    pub(crate) fn take(&self) -> Option<Arc<Instance>> {
        self.state.lock().instance.take()
    }

    /// Waits for its end, for a call that another thread may interrupt.
    pub(crate) fn wait(self: &Arc<Self>, call: &WakeSlot, deadline: Instant) -> Result<()> {
        call.watch(Box::new(Bell(Arc::downgrade(self))))?;
        loop {
            let rung = self.state.lock().rung;
            // Not with the lock held: the bell is rung with the call's.
            call.check()?;
            let mut state = self.state.lock();
            if state.outcome.is_some() {
                return Ok(());
            }
            if state.rung == rung && self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "the node at {} has not started before the deadline: its log in {} takes longer to load, or the \
                         disk does not answer. It goes on in the background; start waits again, stop ends it",
                        self.place,
                        self.dir.display()
                    ),
                ));
            }
        }
    }

    /// If it is not over, the node stops as soon as it has started. Waits for that until the deadline.
    pub(crate) fn give_up(&self, deadline: Instant) -> Result<()> {
        let mut state = self.state.lock();
        state.unwanted = true;
        while state.outcome.is_none() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "the node at {} is still starting; it stops as soon as it has, and {} stays locked until then",
                        self.place,
                        self.dir.display()
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Wakes who waits for a start.
struct Bell(Weak<Launch>);

impl Wake for Bell {
    fn wake(&self) {
        if let Some(launch) = self.0.upgrade() {
            launch.state.lock().rung += 1;
            launch.changed.notify_all();
        }
    }

    fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The directories in which a start is under way. Of two in the same one the second attaches to what the first made; a node
/// whose disk does not answer keeps no other from starting.
static STARTING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static ENDED: Condvar = Condvar::new();

struct Turn(PathBuf);

impl Turn {
    fn wait(dir: &Path) -> Self {
        let mut starting = STARTING.lock();
        while starting.iter().any(|other| other == dir) {
            ENDED.wait(&mut starting);
        }
        starting.push(dir.to_owned());
        Self(dir.to_owned())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        STARTING.lock().retain(|dir| *dir != self.0);
        ENDED.notify_all();
    }
}
