//! What a host may want to know beyond the results of its calls: one callback, and nothing else, ever.
//!
//! Messages are queued and a thread of their own hands them over, so that whoever logs may hold a lock or serve the
//! network, and the callback may be slow or call back into this library. Without a callback a message costs one load.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::limits;

/// How much a message matters. `ffi::log` gives each its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Who is told.
pub(crate) type Sink = Box<dyn Fn(Level, &str) + Send + Sync>;

/// Whether anybody is told.
static WANTED: AtomicBool = AtomicBool::new(false);

static STATE: Mutex<State> = Mutex::new(State {
    sink: None,
    queue: VecDeque::new(),
    dropped: 0,
    calling: false,
    ending: 0,
    thread: None,
});

/// Signalled at every change that somebody may wait for: a message, a call that ended, another sink.
static CHANGED: Condvar = Condvar::new();

struct State {
    sink: Option<Arc<Sink>>,
    queue: VecDeque<(Level, String)>,
    /// Messages for which the queue had no place.
    dropped: u64,
    /// The sink is being called right now.
    calling: bool,
    /// How many callers of `set` wait for the sink's last call.
    ending: usize,
    /// The thread that hands over. It ends when there is no sink.
    thread: Option<ThreadId>,
}

#[allow(dead_code)] // the levels are complete, whoever uses them
pub(crate) fn debug(message: fmt::Arguments<'_>) {
    write(Level::Debug, message);
}

pub(crate) fn info(message: fmt::Arguments<'_>) {
    write(Level::Info, message);
}

#[allow(dead_code)] // as above
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    write(Level::Warn, message);
}

pub(crate) fn error(message: fmt::Arguments<'_>) {
    write(Level::Error, message);
}

fn write(level: Level, message: fmt::Arguments<'_>) {
    if WANTED.load(Ordering::Relaxed) {
        queue(level, message.to_string());
    }
}

/// Takes the place of the sink before, which is told what was logged until now and never called again after this
/// returns; only inside a sink this returns at once, and what is queued is forgotten. `on_thread` is the first thing
/// that the thread of the messages does.
pub(crate) fn set(sink: Option<Sink>, on_thread: fn()) -> Result<()> {
    let mut state = STATE.lock();
    if state.thread == Some(thread::current().id()) {
        state.queue.clear();
    } else {
        wait_for_last_call(&mut state);
    }
    WANTED.store(sink.is_some(), Ordering::Relaxed);
    state.sink = sink.map(Arc::new);
    CHANGED.notify_all();
    if state.sink.is_some() && state.thread.is_none() {
        let spawned = thread::Builder::new().name("dqlite-log".to_owned()).spawn(move || {
            on_thread();
            hand_over();
        });
        match spawned {
            Ok(thread) => state.thread = Some(thread.thread().id()),
            Err(error) => {
                WANTED.store(false, Ordering::Relaxed);
                state.sink = None;
                return Err(Error::internal(format!(
                    "no thread to call the log callback on: {error}"
                )));
            }
        }
    }
    Ok(())
}

/// What is queued gets a moment; the call in flight is waited for however long it takes.
fn wait_for_last_call(state: &mut MutexGuard<'_, State>) {
    let deadline = Instant::now() + limits::LOG_DRAIN;
    state.ending += 1;
    while state.sink.is_some() && !state.queue.is_empty() {
        if CHANGED.wait_until(state, deadline).timed_out() {
            break;
        }
    }
    state.queue.clear();
    while state.calling {
        CHANGED.wait(state);
    }
    state.dropped = 0;
    state.ending -= 1;
}

fn queue(level: Level, mut message: String) {
    if message.len() > limits::LOG_MESSAGE {
        let end = (0..=limits::LOG_MESSAGE)
            .rev()
            .find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push_str("...");
    }
    let mut state = STATE.lock();
    if state.sink.is_none() || state.ending > 0 {
        return;
    }
    if state.queue.len() < limits::LOG_QUEUE {
        state.queue.push_back((level, message));
        CHANGED.notify_all();
    } else {
        state.dropped += 1;
    }
}

/// The thread of the messages.
fn hand_over() {
    let mut state = STATE.lock();
    loop {
        let Some(sink) = state.sink.clone() else {
            state.thread = None;
            return;
        };
        if state.queue.is_empty() && state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            let text = format!("{dropped} messages were dropped here: the log callback is slower than what it is told");
            state.queue.push_back((Level::Warn, text));
        }
        let Some((level, message)) = state.queue.pop_front() else {
            drop(sink);
            CHANGED.wait(&mut state);
            continue;
        };
        state.calling = true;
        MutexGuard::unlocked(&mut state, || {
            // Nobody is left to hear of a panic.
            let _ = catch_unwind(AssertUnwindSafe(|| sink(level, &message)));
            let _ = catch_unwind(AssertUnwindSafe(|| drop(sink)));
        });
        state.calling = false;
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::time::Duration;

    use super::*;

    /// There is one callback per process, so its tests follow one another.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    const SOON: Duration = Duration::from_secs(10);

    fn set_to(sink: impl Fn(Level, &str) + Send + Sync + 'static) {
        set(Some(Box::new(sink)), || {}).unwrap();
    }

    fn remove() {
        set(None, || {}).unwrap();
    }

    /// Only this thread's messages: tests of nodes run at the same time and log too.
    fn mine(text: &str) -> bool {
        text.starts_with("test ")
    }

    fn collecting() -> Receiver<(Level, String)> {
        let (told, heard): (Sender<(Level, String)>, _) = mpsc::channel();
        set_to(move |level, text| {
            if mine(text) {
                told.send((level, text.to_owned())).unwrap();
            }
        });
        heard
    }

    #[test]
    fn messages_arrive_in_order_with_their_level() {
        let _alone = ONE_AT_A_TIME.lock();
        let heard = collecting();
        debug(format_args!("test {}", 1));
        info(format_args!("test {}", 2));
        warn(format_args!("test {}", 3));
        error(format_args!("test {}", 4));
        for (number, expected) in [Level::Debug, Level::Info, Level::Warn, Level::Error]
            .into_iter()
            .enumerate()
        {
            assert_eq!(
                heard.recv_timeout(SOON).unwrap(),
                (expected, format!("test {}", number + 1))
            );
        }
        remove();
    }

    #[test]
    fn without_a_callback_a_message_is_not_even_formatted() {
        struct Never;
        impl fmt::Display for Never {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("formatted")
            }
        }
        let _alone = ONE_AT_A_TIME.lock();
        remove();
        error(format_args!("{Never}"));
    }

    #[test]
    fn removal_hands_over_what_was_logged_and_then_the_sink_is_gone() {
        let _alone = ONE_AT_A_TIME.lock();
        for _ in 0..200 {
            let heard = collecting();
            for number in 0..20 {
                info(format_args!("test {number}"));
            }
            remove();
            info(format_args!("test too late"));
            // The channel is closed: the sink, which owned its other end, was dropped.
            let all: Vec<String> = heard.iter().map(|(_, text)| text).collect();
            let expected: Vec<String> = (0..20).map(|number| format!("test {number}")).collect();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn removal_waits_for_the_call_in_flight() {
        let _alone = ONE_AT_A_TIME.lock();
        let (inside, is_inside) = mpsc::channel();
        let left = Arc::new(AtomicBool::new(false));
        let leaving = Arc::clone(&left);
        set_to(move |_, text| {
            if mine(text) {
                inside.send(()).unwrap();
                thread::sleep(Duration::from_millis(200));
                leaving.store(true, Ordering::SeqCst);
            }
        });
        info(format_args!("test slow"));
        is_inside.recv_timeout(SOON).unwrap();
        remove();
        assert!(left.load(Ordering::SeqCst));
    }

    #[test]
    fn a_removal_from_inside_returns_at_once_and_is_the_last_call() {
        let _alone = ONE_AT_A_TIME.lock();
        let (told, heard) = mpsc::channel();
        let told = Mutex::new(told);
        set_to(move |_, text| {
            if mine(text) {
                remove();
                info(format_args!("test from inside"));
                told.lock().send(text.to_owned()).unwrap();
            }
        });
        info(format_args!("test first"));
        assert_eq!(heard.recv_timeout(SOON).unwrap(), "test first");
        info(format_args!("test second"));
        assert!(
            heard
                .recv_timeout(SOON)
                .is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected)
        );
        remove();
    }

    #[test]
    fn a_panic_inside_is_caught_and_the_next_message_comes() {
        let _alone = ONE_AT_A_TIME.lock();
        let (told, heard) = mpsc::channel();
        let told = Mutex::new(told);
        set_to(move |_, text| {
            if mine(text) {
                told.lock().send(()).unwrap();
                std::panic::resume_unwind(Box::new("without the hook's output"));
            }
        });
        info(format_args!("test one"));
        info(format_args!("test two"));
        heard.recv_timeout(SOON).unwrap();
        heard.recv_timeout(SOON).unwrap();
        remove();
    }

    #[test]
    fn a_slow_callback_costs_messages_and_not_the_callers() {
        let _alone = ONE_AT_A_TIME.lock();
        let (go, wait) = mpsc::channel::<()>();
        let (told, heard) = mpsc::channel();
        let (wait, told) = (Mutex::new(wait), Mutex::new(told));
        set_to(move |_, text| {
            let _ = wait.lock().recv();
            let _ = told.lock().send(text.to_owned());
        });
        for number in 0..limits::LOG_QUEUE + 100 {
            info(format_args!("test {number}"));
        }
        info(format_args!("test {}", "x".repeat(limits::LOG_MESSAGE * 2)));
        drop(go);
        let all: Vec<String> = std::iter::from_fn(|| heard.recv_timeout(SOON).ok())
            .take_while(|text| !text.contains("dropped here"))
            .collect();
        assert!(
            (limits::LOG_QUEUE..=limits::LOG_QUEUE + 1).contains(&all.len()),
            "{}",
            all.len()
        );
        info(format_args!("test {}", "\u{e4}".repeat(limits::LOG_MESSAGE)));
        let long = std::iter::from_fn(|| heard.recv_timeout(SOON).ok())
            .find(|text| mine(text))
            .unwrap();
        assert!(long.len() <= limits::LOG_MESSAGE + 3 && long.ends_with("..."));
        remove();
    }

    #[test]
    fn calls_are_serialised_while_threads_log_set_and_remove() {
        let _alone = ONE_AT_A_TIME.lock();
        let inside = Arc::new(AtomicBool::new(false));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        info(format_args!("test"));
                    }
                });
            }
            let setters: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..300 {
                            let inside = Arc::clone(&inside);
                            set_to(move |_, _| {
                                assert!(!inside.swap(true, Ordering::SeqCst));
                                inside.store(false, Ordering::SeqCst);
                            });
                            remove();
                        }
                    })
                })
                .collect();
            for setter in setters {
                setter.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(!inside.load(Ordering::SeqCst), "two calls at a time");
        remove();
    }
}
