//! The threads that make the calls. Tasks of one lane run one after the other, in order; lanes run beside each other, each
//! on a thread, up to a cap. Threads come when they are needed and leave when they have had nothing to do for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::limits;
use crate::memory;
use crate::net::sys;

pub(super) trait Task: Send + 'static {
    /// Tells this task from all others.
    fn id(&self) -> u64;
    /// What has to run after each other has the same lane.
    fn lane(&self) -> u64;
    /// Others may be waiting for what this one does.
    fn is_urgent(&self) -> bool;
    /// Must not panic.
    fn run(self);
}

pub(super) struct Pool<T> {
    inner: Mutex<Inner<T>>,
    /// Told once for each lane that became ready.
    work: Condvar,
    idle: Duration,
}

struct Inner<T> {
    lanes: HashMap<u64, Lane<T>>,
    /// Lanes with a task that may run, those with an urgent one apart. A lane may have vanished or begun to run since.
    urgent: VecDeque<u64>,
    ready: VecDeque<u64>,
    threads: usize,
    idle: usize,
    /// Running tasks that are not urgent.
    ordinary: usize,
}

struct Lane<T> {
    tasks: VecDeque<T>,
    running: bool,
}

impl<T: Task> Pool<T> {
    /// A pool whose threads leave after `idle` without work.
    pub(super) fn new(idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                lanes: HashMap::new(),
                urgent: VecDeque::new(),
                ready: VecDeque::new(),
                threads: 0,
                idle: 0,
                ordinary: 0,
            }),
            work: Condvar::new(),
            idle,
        })
    }

    /// Puts a task behind those of its lane. It fails if there is no thread and none can be had.
    pub(super) fn push(self: &Arc<Self>, task: T) -> Result<()> {
        let mut inner = self.inner.lock();
        let (id, key) = (task.id(), task.lane());
        let lane = inner.lanes.entry(key).or_insert_with(|| Lane {
            tasks: VecDeque::new(),
            running: false,
        });
        let room = lane.tasks.try_reserve(1);
        room.map_err(|_| memory::none_for(size_of::<T>() * lane.tasks.len() * 2, "requests that wait"))?;
        lane.tasks.push_back(task);
        if lane.running || lane.tasks.len() > 1 {
            return Ok(());
        }
        inner.is_ready(key);
        if !inner.wants_thread() {
            self.work.notify_one();
            return Ok(());
        }
        inner.threads += 1;
        let pool = Arc::clone(self);
        match sys::spawn("dqlite-queue", move || pool.serve()) {
            Ok(_) => Ok(()),
            Err(error) => {
                inner.threads -= 1;
                if inner.threads > 0 {
                    return Ok(());
                }
                let task = inner.take_out(key, id);
                drop(inner);
                drop(task);
                Err(Error::internal(format!("no thread to run the request on: {error}")))
            }
        }
    }

    /// Takes out the tasks that are meant and have not begun, in their lanes' order. Without memory for more the rest of
    /// them stay.
    pub(super) fn remove(&self, meant: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        self.inner.lock().lanes.retain(|_, lane| {
            lane.sift(&meant, &mut taken);
            lane.running || !lane.tasks.is_empty()
        });
        taken
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.inner.lock().threads
    }

    /// What each thread does.
    fn serve(&self) {
        let mut inner = self.inner.lock();
        loop {
            if let Some((task, key, urgent)) = inner.next() {
                drop(inner);
                task.run();
                inner = self.inner.lock();
                inner.ordinary -= usize::from(!urgent);
                inner.has_run(key);
                continue;
            }
            inner.idle += 1;
            let waited = self.work.wait_for(&mut inner, self.idle);
            inner.idle -= 1;
            if waited.timed_out() && !inner.has_work() {
                inner.threads -= 1;
                return;
            }
        }
    }
}

impl<T> Lane<T> {
    /// Moves what is meant to `taken`; nothing else changes its place.
    fn sift(&mut self, meant: impl Fn(&T) -> bool, taken: &mut Vec<T>) {
        for _ in 0..self.tasks.len() {
            let Some(task) = self.tasks.pop_front() else { return };
            if meant(&task) && taken.try_reserve(1).is_ok() {
                taken.push(task);
            } else {
                self.tasks.push_back(task);
            }
        }
    }
}

impl<T: Task> Inner<T> {
    fn is_ready(&mut self, key: u64) {
        let Some(lane) = self.lanes.get(&key) else { return };
        if lane.tasks.front().is_some_and(Task::is_urgent) {
            self.urgent.push_back(key);
        } else {
            self.ready.push_back(key);
        }
    }

    fn wants_thread(&self) -> bool {
        let most = if self.urgent.is_empty() {
            limits::QUEUE_THREADS
        } else {
            limits::QUEUE_THREADS_URGENT
        };
        self.urgent.len() + self.ready.len() > self.idle && self.threads < most
    }

    fn has_work(&self) -> bool {
        !self.urgent.is_empty() || (!self.ready.is_empty() && self.ordinary < limits::QUEUE_THREADS)
    }

    /// The next task, its lane, and whether it is urgent.
    fn next(&mut self) -> Option<(T, u64, bool)> {
        loop {
            let urgent = !self.urgent.is_empty();
            if !urgent && self.ordinary >= limits::QUEUE_THREADS {
                return None;
            }
            let key = self.urgent.pop_front().or_else(|| self.ready.pop_front())?;
            let Some(lane) = self.lanes.get_mut(&key).filter(|lane| !lane.running) else {
                continue;
            };
            if let Some(task) = lane.tasks.pop_front() {
                lane.running = true;
                self.ordinary += usize::from(!urgent);
                return Some((task, key, urgent));
            }
        }
    }

    /// A lane's task is over; the next one takes its turn behind the other lanes.
    fn has_run(&mut self, key: u64) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.running = false;
        if lane.tasks.is_empty() {
            self.lanes.remove(&key);
        } else {
            self.is_ready(key);
        }
    }

    fn take_out(&mut self, key: u64, id: u64) -> Option<T> {
        let lane = self.lanes.get_mut(&key)?;
        let at = lane.tasks.iter().position(|task| task.id() == id)?;
        let task = lane.tasks.remove(at);
        if lane.tasks.is_empty() && !lane.running {
            self.lanes.remove(&key);
        }
        task
    }
}
