//! Requests on a real node of this process, and the threads alone.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::db::{BoundStatement, Next, ResultRows, SharedSession, Value};
use crate::net::sys::{Epoll, Events, Interest};
use crate::node::Node;

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    node: Arc<Node>,
    dir: PathBuf,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("dqlitepy-queue-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let node = Node::new(7, &free.to_string(), dir.to_str().unwrap(), Vec::new()).unwrap();
        node.start().unwrap();
        Self {
            node: Arc::new(node),
            dir,
        }
    }

    fn session(&self, queue: &Queue) -> Arc<SharedSession> {
        submit(queue, 0, Work::OpenOnNode(Arc::clone(&self.node), "test.db".to_owned()));
        match next(queue).outcome.unwrap() {
            Outcome::Session(session) => Arc::new(session),
            _ => panic!("no session"),
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.node.destroy();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn submit(queue: &Queue, token: u64, work: Work) {
    queue.reserve().unwrap().submit(token, work).unwrap();
}

fn script(session: &Arc<SharedSession>, sql: &str) -> Work {
    Work::Script(Arc::clone(session), sql.to_owned())
}

/// Waits as a host does: on the descriptor.
fn next(queue: &Queue) -> Completion {
    let epoll = Epoll::new().unwrap();
    epoll.add(&queue.0.ready, 0, Interest::READ_LEVEL).unwrap();
    let mut events = Events::with_capacity(1);
    epoll.wait(&mut events, Some(PATIENCE)).unwrap();
    assert_eq!(events.len(), 1, "nothing has come");
    queue
        .poll(1)
        .pop()
        .expect("the descriptor is readable without a result")
}

fn is_readable(queue: &Queue) -> bool {
    let epoll = Epoll::new().unwrap();
    epoll.add(&queue.0.ready, 0, Interest::READ_LEVEL).unwrap();
    let mut events = Events::with_capacity(1);
    epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
    events.len() > 0
}

fn kind(completion: Completion) -> (u64, Option<Kind>) {
    (completion.token, completion.outcome.err().map(|error| error.kind()))
}

fn rows(completion: Completion) -> Arc<ResultRows> {
    match completion.outcome.unwrap() {
        Outcome::Rows(rows) => Arc::new(rows),
        _ => panic!("no rows"),
    }
}

fn integer(rows: &ResultRows) -> i64 {
    rows.look(|part| match ResultRows::value(part, 0)? {
        Value::Integer(number) => Ok(number),
        other => panic!("{other:?}"),
    })
    .unwrap()
}

#[test]
fn a_session_keeps_the_order_of_its_requests() {
    let fixture = Fixture::new("order");
    let queue = Queue::new(0).unwrap();
    assert!(!is_readable(&queue));
    let session = fixture.session(&queue);
    submit(&queue, 1, script(&session, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"));
    for number in 2..100 {
        let value = [[Ok(Value::Integer(number))].into_iter()].into_iter();
        let bound = BoundStatement::of_text(&session, "INSERT INTO t(a) VALUES (?)", value).unwrap();
        submit(&queue, number as u64, Work::Exec(bound));
    }
    submit(
        &queue,
        100,
        Work::Select(
            Arc::clone(&session),
            "SELECT count(*) FROM t WHERE id + 1 = a".to_owned(),
        ),
    );
    submit(&queue, 101, Work::CloseSession(session));
    for token in 1..100 {
        assert_eq!(kind(next(&queue)), (token, None));
    }
    let rows = rows(next(&queue));
    assert_eq!(rows.step().unwrap(), Next::Row);
    assert_eq!(integer(&rows), 98);
    assert_eq!(kind(next(&queue)), (101, None));
    assert!(!is_readable(&queue));
}

#[test]
fn rows_are_loaded_part_by_part_and_never_waited_for() {
    let fixture = Fixture::new("rows");
    let queue = Queue::new(0).unwrap();
    let session = fixture.session(&queue);
    let many =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, 'row ' || i FROM n";
    submit(&queue, 1, Work::Select(Arc::clone(&session), many.to_owned()));
    let rows = rows(next(&queue));
    let (mut seen, mut loads) = (0, 0);
    loop {
        match rows.step().unwrap() {
            Next::Row => {
                seen += 1;
                assert_eq!(integer(&rows), seen);
                // Too early: nothing is thrown away.
                if seen == 10 {
                    submit(&queue, 2, Work::LoadRows(Arc::clone(&rows)));
                    assert_eq!(kind(next(&queue)), (2, None));
                }
            }
            Next::Later => {
                loads += 1;
                submit(&queue, 3, script(&session, "SELECT 1"));
                submit(&queue, 4, Work::LoadRows(Arc::clone(&rows)));
                assert_eq!(kind(next(&queue)), (3, Some(Kind::Misuse)));
                assert_eq!(kind(next(&queue)), (4, None));
            }
            Next::Done => break,
        }
    }
    assert!(seen == 20_000 && loads >= 3, "{seen} rows in {loads} parts");
    submit(&queue, 5, Work::CloseRows(rows));
    submit(&queue, 6, script(&session, "SELECT 1"));
    assert_eq!(kind(next(&queue)), (5, None));
    assert_eq!(kind(next(&queue)), (6, None));
}

/// A request that runs, known from the session being in its call.
fn running(queue: &Queue, session: &Arc<SharedSession>, token: u64, work: Work) {
    submit(queue, token, work);
    let until = Instant::now() + PATIENCE;
    while !session.wake().is_under_way() {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_is_cancelled_ends_or_never_runs() {
    let fixture = Fixture::new("cancel");
    let queue = Queue::new(0).unwrap();
    let session = fixture.session(&queue);
    let endless = || Work::Select(Arc::clone(&session), ENDLESS.to_owned());
    running(&queue, &session, 1, endless());
    submit(&queue, 2, script(&session, "CREATE TABLE never(a)"));
    submit(&queue, 3, script(&session, "CREATE TABLE t(a)"));
    assert!(queue.cancel(2) && !queue.cancel(2) && !queue.cancel(9));
    assert_eq!(kind(next(&queue)), (2, Some(Kind::Interrupted)));
    assert!(queue.cancel(1));
    assert_eq!(kind(next(&queue)), (1, Some(Kind::Interrupted)));
    assert_eq!(kind(next(&queue)), (3, None));
    submit(&queue, 4, script(&session, "SELECT 1 FROM never"));
    assert_eq!(kind(next(&queue)), (4, Some(Kind::Sql)));
    // Whenever a cancel comes, it is that request alone that it ends.
    for _ in 0..200 {
        submit(&queue, 10, script(&session, "INSERT INTO t VALUES (1)"));
        submit(&queue, 11, script(&session, "INSERT INTO t VALUES (2)"));
        submit(&queue, 12, script(&session, "INSERT INTO t VALUES (3)"));
        queue.cancel(11);
        let mut ended: Vec<_> = (0..3).map(|_| kind(next(&queue))).collect();
        ended.sort_unstable_by_key(|it| it.0);
        assert_eq!((ended[0], ended[2]), ((10, None), (12, None)));
        assert!(matches!(ended[1].1, None | Some(Kind::Interrupted | Kind::Unknown)));
    }
    // A session that is being opened from nowhere.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nowhere.local_addr().unwrap().to_string();
    for wait in [50, 1000] {
        let connector = crate::client::Connector::new(None, crate::net::parse_csv(&address).unwrap());
        submit(&queue, 6, Work::OpenAt(Arc::new(connector), "test.db".to_owned()));
        thread::sleep(Duration::from_millis(wait));
        let began = Instant::now();
        assert!(queue.cancel(6));
        assert_eq!(kind(next(&queue)), (6, Some(Kind::Interrupted)));
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
}

#[test]
fn a_full_queue_refuses_until_it_is_polled() {
    let fixture = Fixture::new("full");
    let queue = Queue::new(2).unwrap();
    let session = fixture.session(&queue);
    assert_eq!(Queue::new(u64::MAX).err().unwrap().kind(), Kind::Invalid);
    submit(&queue, 1, script(&session, "SELECT 1"));
    submit(&queue, 2, script(&session, "SELECT 1"));
    assert_eq!(queue.reserve().err().unwrap().kind(), Kind::Full);
    assert_eq!(kind(next(&queue)), (1, None));
    // A place that is not filled is free again.
    drop(queue.reserve().unwrap());
    submit(&queue, 3, script(&session, "SELECT 1"));
    assert_eq!(queue.reserve().err().unwrap().kind(), Kind::Full);
    assert_eq!((kind(next(&queue)), kind(next(&queue))), ((2, None), (3, None)));
}

#[test]
fn the_end_of_a_queue_ends_its_requests_and_leaves_the_sessions() {
    let fixture = Fixture::new("close");
    let queue = Queue::new(0).unwrap();
    let (session, other) = (fixture.session(&queue), fixture.session(&queue));
    submit(&queue, 1, script(&session, "CREATE TABLE t(a)"));
    assert_eq!(kind(next(&queue)), (1, None));
    submit(&queue, 2, Work::Select(Arc::clone(&other), "SELECT 1".to_owned()));
    running(
        &queue,
        &session,
        3,
        Work::Select(Arc::clone(&session), ENDLESS.to_owned()),
    );
    submit(&queue, 4, script(&session, "INSERT INTO t VALUES (1)"));
    submit(&queue, 5, Work::CloseSession(Arc::clone(&other)));
    let place = queue.reserve().unwrap();
    let began = Instant::now();
    queue.close();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(
        place.submit(6, script(&session, "SELECT 1")).unwrap_err().kind(),
        Kind::Shutdown
    );
    assert_eq!(queue.reserve().err().unwrap().kind(), Kind::Shutdown);
    assert!(other.is_closed() && !session.is_closed());
    assert_eq!(number(&session, "SELECT count(*) FROM t"), 0);
    // Its threads let go of it as they end, which nobody waits for.
    while Arc::strong_count(&queue.0) > 1 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "a thread of the queue is still there"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn number(session: &Arc<SharedSession>, sql: &str) -> i64 {
    let rows = session.query(sql).unwrap();
    rows.step().unwrap();
    integer(&rows)
}

#[test]
fn nothing_runs_without_what_stood_before_it() {
    const SESSIONS: usize = 8;
    const ORPHANS: &str = "SELECT count(*) FROM t WHERE n > 1 AND (session, round, n - 1) NOT IN (SELECT * FROM t)";
    let fixture = Fixture::new("orphans");
    let first = Queue::new(0).unwrap();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| fixture.session(&first)).collect();
    sessions[0].exec("CREATE TABLE t(session, round, n)").unwrap();
    for round in 0..40 {
        let queue = Queue::new(0).unwrap();
        for (at, session) in sessions.iter().enumerate() {
            for n in 1..=8 {
                let insert = format!("INSERT INTO t VALUES ({at}, {round}, {n})");
                submit(&queue, 1, script(session, &insert));
            }
        }
        // At any time: threads come for the first of them meanwhile.
        if round % 2 == 0 {
            queue.cancel(1);
        }
        queue.close();
        assert_eq!(number(&sessions[0], ORPHANS), 0, "round {round}");
    }
}

#[test]
fn many_that_wait_for_one_session_end_at_once() {
    let fixture = Fixture::new("many");
    let queue = Queue::new(limits::QUEUE_MOST as u64).unwrap();
    let session = fixture.session(&queue);
    running(
        &queue,
        &session,
        1,
        Work::Select(Arc::clone(&session), ENDLESS.to_owned()),
    );
    for _ in 0..1 << 17 {
        submit(&queue, 2, script(&session, ""));
    }
    let began = Instant::now();
    assert!(queue.cancel(2));
    assert_eq!(queue.poll(usize::MAX).len(), 1 << 17);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    queue.close();
}

#[test]
fn the_end_of_the_node_or_the_session_ends_what_was_asked_of_it() {
    let fixture = Fixture::new("ends");
    let queue = Queue::new(0).unwrap();
    let (session, other) = (fixture.session(&queue), fixture.session(&queue));
    let endless = |session: &Arc<SharedSession>| Work::Select(Arc::clone(session), ENDLESS.to_owned());
    running(&queue, &session, 1, endless(&session));
    submit(&queue, 2, script(&session, "SELECT 1"));
    session.close();
    assert_eq!(kind(next(&queue)), (1, Some(Kind::Shutdown)));
    assert_eq!(kind(next(&queue)), (2, Some(Kind::Shutdown)));
    running(&queue, &other, 1, endless(&other));
    submit(&queue, 2, script(&other, "SELECT 1"));
    submit(&queue, 3, script(&other, "SELECT 1"));
    fixture.node.destroy();
    submit(
        &queue,
        4,
        Work::OpenOnNode(Arc::clone(&fixture.node), "test.db".to_owned()),
    );
    let mut ended: Vec<_> = (0..4).map(|_| kind(next(&queue))).collect();
    ended.sort_unstable_by_key(|it| it.0);
    assert_eq!(ended, [1, 2, 3, 4].map(|token| (token, Some(Kind::Shutdown))));
}

/// Tells that it began and waits until it may end.
struct Step {
    id: u64,
    lane: u64,
    urgent: bool,
    began: mpsc::Sender<u64>,
    gate: Arc<Mutex<()>>,
}

impl Task for Step {
    fn id(&self) -> u64 {
        self.id
    }

    fn lane(&self) -> u64 {
        self.lane
    }

    fn is_urgent(&self) -> bool {
        self.urgent
    }

    fn run(self) {
        self.began.send(self.id).unwrap();
        drop(self.gate.lock());
    }
}

#[test]
fn threads_come_up_to_a_cap_beyond_it_for_the_urgent_and_leave() {
    let pool = Pool::new(Duration::from_millis(50));
    let gate = Arc::new(Mutex::new(()));
    let (began, begun) = mpsc::channel();
    let step = |id, lane, urgent| Step {
        id,
        lane,
        urgent,
        began: began.clone(),
        gate: Arc::clone(&gate),
    };
    let shut = gate.lock();
    let lanes = limits::QUEUE_THREADS as u64 + 10;
    for id in 0..lanes * 2 {
        pool.push(step(id, id % lanes, false)).unwrap();
    }
    let first: Vec<u64> = begun.iter().take(limits::QUEUE_THREADS).collect();
    pool.push(step(5000, 5000, true)).unwrap();
    // Nothing else had begun, so this is the next that does.
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(5000));
    assert_eq!(pool.threads(), limits::QUEUE_THREADS + 1);
    let remove = |id| pool.remove(|step| step.id == id).len();
    assert_eq!((remove(lanes + 3), remove(lanes + 3), remove(3)), (1, 0, 0));
    drop(shut);
    let rest = begun.iter().take(lanes as usize * 2 - limits::QUEUE_THREADS - 1);
    let order: Vec<u64> = first.into_iter().chain(rest).collect();
    for lane in (0..lanes).filter(|lane| *lane != 3) {
        let at = |id| order.iter().position(|it| *it == id).unwrap();
        assert!(at(lane) < at(lane + lanes));
    }
    let until = Instant::now() + PATIENCE;
    while pool.threads() > 0 {
        assert!(Instant::now() < until, "{} threads stay", pool.threads());
        thread::sleep(Duration::from_millis(5));
    }
    pool.push(step(1, 1, false)).unwrap();
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(1));
}
