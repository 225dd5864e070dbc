//! Real engines in this process: what the C ABI cannot show from outside.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::client::Conn;
use crate::engine;
use crate::wire::{Params, Request, Response};

pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dqlitepy-node-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn names(&self) -> Vec<String> {
        files::list(&self.0).unwrap_or_default()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

pub(super) fn node(id: u64, address: &str, dir: &Dir) -> Node {
    Node::new(id, address, dir.path(), Vec::new()).unwrap()
}

pub(super) fn started(dir: &Dir) -> Node {
    let node = node(7, &free_address(), dir);
    node.start().unwrap();
    node.open_db("test.db").unwrap();
    node
}

pub(super) fn rows(node: &Node, sql: &str) -> String {
    String::from_utf8(node.query(sql).unwrap()).unwrap()
}

pub(super) fn instance(node: &Node) -> Arc<Instance> {
    Arc::clone(&node.running().unwrap().instance)
}

pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

pub(super) const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A connection to the engine that no door has seen, with the test's database open.
pub(super) fn connect(node: &Node) -> Conn {
    let mut conn = instance(node).dial().unwrap();
    let open = Request::Open {
        name: b"test.db",
        flags: 0,
        vfs: b"volatile",
    };
    assert!(matches!(conn.call(&open, soon()).unwrap(), Response::Db { .. }));
    conn
}

pub(super) fn query_sql(sql: &str) -> Request<'_> {
    Request::QuerySql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    }
}

/// A connection whose statement is running: its first rows have come, the next one never will.
fn occupy(node: &Node) -> Conn {
    let mut conn = connect(node);
    let sql = format!("SELECT hex(zeroblob(65536)) UNION ALL SELECT * FROM ({ENDLESS})");
    conn.query(&query_sql(&sql), soon()).unwrap();
    conn
}

/// DESCRIBE with a format that the engine answers twice, which it then asserts against. The door does not let it pass,
/// so it goes to the engine itself.
fn strike(node: &Node) {
    let _ = connect(node).call(&Request::Describe { format: 9 }, soon());
}

#[test]
fn a_start_clears_away_the_drafts_that_a_crash_left() {
    let dir = Dir::new("drafts");
    std::fs::create_dir(&dir.0).unwrap();
    std::fs::write(dir.0.join(".info.yaml.0.new"), "ID: ").unwrap();
    std::fs::write(dir.0.join(".cluster.yaml.14.new"), "").unwrap();
    started(&dir).stop().unwrap();
    assert!(
        dir.names().iter().all(|name| !name.starts_with('.')),
        "{:?}",
        dir.names()
    );
}

/// Else it would be the second of its name.
#[test]
fn a_spare_that_has_lost_its_list_founds_no_cluster() {
    let (dir, address) = (Dir::new("listless"), free_address());
    std::fs::create_dir(&dir.0).unwrap();
    let me = files::Entry {
        id: 7,
        address: address.clone(),
        role: 2,
    };
    files::store_new(&dir.0, &me).unwrap();
    for lost in ["[]\n", "\0\0\0"] {
        std::fs::write(dir.0.join("cluster.yaml"), lost).unwrap();
        let error = node(7, &address, &dir).start().unwrap_err();
        assert!(error.message().contains("does not found another one"), "{error}");
    }
    // As an interrupted founding leaves it.
    files::store_cluster(&dir.0, &[me]).unwrap();
    node(7, &address, &dir).start().unwrap();
}

#[test]
fn a_large_write_that_a_crash_cut_off_is_dropped() {
    let (dir, crashed) = (Dir::new("large"), Dir::new("cut-off"));
    let node = started(&dir);
    let address = instance(&node).me().address.clone();
    node.exec("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(1)); INSERT INTO t VALUES (zeroblob(12000000))")
        .unwrap();
    // What a crash would have left.
    std::fs::create_dir(&crashed.0).unwrap();
    for name in dir.names() {
        std::fs::copy(dir.0.join(&name), crashed.0.join(&name)).unwrap();
    }
    node.stop().unwrap();
    let segment =
        |name: &String| files::is_segment(name) && crashed.0.join(name).metadata().unwrap().len() > 12_000_000;
    let large = crashed.0.join(crashed.names().into_iter().find(segment).unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(large).unwrap();
    file.set_len(9_000_000).unwrap();

    let node = Node::new(7, &address, crashed.path(), Vec::new()).unwrap();
    node.start().unwrap();
    node.open_db("test.db").unwrap();
    assert_eq!(rows(&node, "SELECT length(a) AS n FROM t"), r#"[{"n":1}]"#);
    node.exec("INSERT INTO t VALUES (zeroblob(2))").unwrap();
    node.stop().unwrap();
    node.start().unwrap();
    node.open_db("test.db").unwrap();
    assert_eq!(rows(&node, "SELECT length(a) AS n FROM t"), r#"[{"n":1},{"n":2}]"#);
}

#[test]
fn an_assertion_loses_one_node_and_nothing_else() {
    let (dir, other_dir) = (Dir::new("lost"), Dir::new("other"));
    let (victim, other) = (started(&dir), started(&other_dir));
    victim.exec("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    other.exec("CREATE TABLE t(a)").unwrap();

    strike(&victim);
    wait_until("losing the node", || victim.exec("INSERT INTO t VALUES (2)").is_err());
    let error = victim.query("SELECT 1").unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.message().contains("assertion"), "{error}");

    other.exec("INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(rows(&other, "SELECT a FROM t"), r#"[{"a":3}]"#);

    // Remote clients must not wait for a node that is lost.
    let address = instance(&victim).me().address.clone();
    wait_until("closing the door", || TcpStream::connect(&address).is_err());

    victim.stop().unwrap();
    victim.start().unwrap();
    victim.open_db("test.db").unwrap();
    assert_eq!(rows(&victim, "SELECT a FROM t WHERE a = 1"), r#"[{"a":1}]"#);
}

#[test]
fn an_assertion_ends_a_call_that_waits() {
    let dir = Dir::new("waiting");
    let victim = started(&dir);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| victim.query(ENDLESS));
        strike(&victim);
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Internal, "{error}");
    });
    victim.destroy();
}

#[test]
fn an_assertion_leaves_open_whether_the_write_that_waits_was_made() {
    let dir = Dir::new("amid");
    let victim = node(7, &free_address(), &dir);
    let briefly = |config: &mut Config| {
        config.options.busy_timeout_ms = 10;
        Ok(())
    };
    victim.configure(briefly).unwrap();
    victim.start().unwrap();
    victim.open_db("test.db").unwrap();
    victim.exec("CREATE TABLE t(a)").unwrap();
    let mut other = connect(&victim);
    let mut refused = |sql: &str| {
        let (db, sql, params) = (0, sql.as_bytes(), Params::NONE);
        let request = Request::ExecSql { db, sql, params };
        matches!(other.call(&request, soon()).unwrap(), Response::Failure { .. })
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| victim.exec(&format!("INSERT INTO t {ENDLESS}")));
        wait_until("the write has the lock", || {
            refused("BEGIN IMMEDIATE") || refused("ROLLBACK")
        });
        strike(&victim);
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Unknown, "{error}");
        assert!(error.message().contains("assertion"), "{error}");
    });
    victim.destroy();
}

#[test]
fn stop_ends_a_statement_that_would_never_end() {
    let dir = Dir::new("endless");
    let node = started(&dir);
    let _running = occupy(&node);
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| node.query(ENDLESS));
        let began = Instant::now();
        node.stop().unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "stop waited for the statement"
        );
        let error = endless.join().unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::Shutdown | Kind::Stopped), "{error}");
    });
}

#[test]
fn long_statements_of_one_node_leave_the_others_alone() {
    let (dir, other_dir) = (Dir::new("slow"), Dir::new("quick"));
    let (slow, quick) = (started(&dir), started(&other_dir));
    quick.exec("CREATE TABLE t(a)").unwrap();
    let _running: Vec<Conn> = (0..8).map(|_| occupy(&slow)).collect();
    for round in 0..20 {
        quick.exec(&format!("INSERT INTO t VALUES ({round})")).unwrap();
    }
    slow.stop().unwrap();
}

#[test]
fn any_id_bootstraps_and_info_decides_afterwards() {
    for id in [1, 7, engine::BOOTSTRAP_ID, u64::MAX] {
        let (dir, address) = (Dir::new(&format!("id-{id}")), free_address());
        let first = node(id, &address, &dir);
        first.start().unwrap();
        first.open_db("a").unwrap();
        first.exec("CREATE TABLE t(a)").unwrap();
        let members = instance(&first).members().unwrap();
        assert_eq!((members[0].id, members[0].address.as_str()), (id, address.as_str()));
        first.stop().unwrap();

        let other_id = node(id ^ 2, &address, &dir).start().unwrap_err();
        assert!(other_id.message().contains(&id.to_string()), "{other_id}");
        let other_address = node(id, &free_address(), &dir).start().unwrap_err();
        assert!(other_address.message().contains(&address), "{other_address}");

        // Nobody chose a generated id, so the directory's own counts.
        let generated = node(engine::generate_id(&address).unwrap(), &address, &dir);
        generated.start().unwrap();
        assert_eq!(instance(&generated).me().id, id);
    }
}

#[test]
fn an_interrupted_founding_is_taken_up_again() {
    let (dir, address) = (Dir::new("founding"), free_address());
    let node = node(7, &address, &dir);
    node.start().unwrap();
    node.stop().unwrap();
    // As if the process had been killed between the engine's first file and its second.
    for name in dir
        .names()
        .iter()
        .filter(|name| name.starts_with("0000") || name.starts_with("open-"))
    {
        std::fs::remove_file(dir.0.join(name)).unwrap();
    }
    assert!(dir.names().contains(&"metadata1".to_owned()));
    node.start().unwrap();
    node.open_db("test.db").unwrap();
    node.exec("CREATE TABLE t(a)").unwrap();
}

#[test]
fn port_zero_is_remembered() {
    let dir = Dir::new("port");
    let first = node(7, "127.0.0.1:0", &dir);
    first.start().unwrap();
    let address = instance(&first).me().address.clone();
    assert!(!address.ends_with(":0"));
    first.stop().unwrap();
    first.start().unwrap();
    assert_eq!(instance(&first).me().address, address);
}

#[test]
fn a_second_handle_attaches_and_the_last_one_stops_the_node() {
    let (dir, address) = (Dir::new("attach"), free_address());
    let first = node(7, &address, &dir);
    first.start().unwrap();
    first.open_db("a").unwrap();
    first
        .exec("CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES (1)")
        .unwrap();

    let second = node(7, &address, &dir);
    second.start().unwrap();
    assert_eq!(second.start().unwrap_err().kind(), Kind::Misuse);
    second.open_db("a").unwrap();
    // Its session is its own: the other one's transaction is not visible here.
    assert_eq!(rows(&second, "SELECT a FROM t"), "[]");
    first.exec("COMMIT").unwrap();
    assert_eq!(rows(&second, "SELECT a FROM t"), r#"[{"a":1}]"#);

    first.destroy();
    assert_eq!(rows(&second, "SELECT a FROM t"), r#"[{"a":1}]"#);
    second.destroy();
    assert!(Instance::running_on(&dir.0).is_none());
    let third = node(7, &address, &dir);
    third.start().unwrap();

    let elsewhere = node(7, &free_address(), &dir).start().unwrap_err();
    assert!(elsewhere.message().contains(&address), "{elsewhere}");
}

#[test]
fn a_failed_start_leaves_nothing() {
    let dir = Dir::new("nothing");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let blocked = node(7, &address, &dir);
    let error = blocked.start().unwrap_err();
    assert!(error.message().contains("in use"), "{error}");
    assert!(!dir.0.exists());

    // The same handle works once the port is free.
    drop(taken);
    blocked.start().unwrap();
    blocked.stop().unwrap();

    std::fs::write(dir.0.join("info.yaml"), "ID: nonsense\n").unwrap();
    let before = dir.names();
    assert!(blocked.start().unwrap_err().message().contains("info.yaml"));
    assert_eq!(dir.names().len(), before.len());
}

#[test]
fn damaged_engine_files_fail_the_start_and_leave_no_descriptor() {
    let (dir, address) = (Dir::new("damaged"), free_address());
    let node = node(7, &address, &dir);
    node.configure(|config| {
        config.options.auto_recovery = false;
        Ok(())
    })
    .unwrap();
    node.start().unwrap();
    node.stop().unwrap();
    std::fs::write(dir.0.join("0000000000000001-0000000000000001"), [0xff; 64]).unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let error = node.start().unwrap_err();
    assert!(error.message().contains("0000000000000001-0000000000000001"), "{error}");
    let before = descriptors();
    for _ in 0..20 {
        node.start().unwrap_err();
    }
    // Other tests of this process open and close their own; a leak would be several for each round.
    assert!(descriptors() < before + 40, "{before} before, {} after", descriptors());
}

#[test]
fn a_client_that_vanishes_amid_its_rows_keeps_nothing_open() {
    let dir = Dir::new("vanish");
    let node = started(&dir);
    node.exec(
        "CREATE TABLE t(a); INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) \
         SELECT i FROM n",
    )
    .unwrap();
    for _ in 0..10 {
        connect(&node).query(&query_sql("SELECT a FROM t"), soon()).unwrap();
    }
    // The engine asserts in destroy that nobody is left; a stop succeeds all the same.
    let stopped = instance(&node);
    node.stop().unwrap();
    stopped.watch().check().unwrap();
    node.start().unwrap();
    node.open_db("test.db").unwrap();
    assert_eq!(rows(&node, "SELECT count(*) AS n FROM t"), r#"[{"n":50000}]"#);
}

#[test]
fn stop_does_not_wait_for_a_client_that_does_not_read() {
    let dir = Dir::new("deaf");
    let node = started(&dir);
    const MANY: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT hex(zeroblob(2000)), i FROM n";
    // One with a connection to the engine itself, whose end no door brings about.
    let mut local = connect(&node);
    local.query(&query_sql(MANY), soon()).unwrap();
    let mut client = TcpStream::connect(instance(&node).me().address.clone()).unwrap();
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    Request::Open {
        name: b"test.db",
        flags: 0,
        vfs: b"volatile",
    }
    .encode(&mut bytes);
    query_sql(MANY).encode(&mut bytes);
    client.write_all(&bytes).unwrap();
    let mut first = [0; 64];
    client.read_exact(&mut first).unwrap();
    let began = Instant::now();
    node.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// No member's address.
const OTHER: &str = "10.0.0.9:9000";

/// What becomes of a stranger who wants a raft link: true if it was let in.
fn is_admitted(node: &Node, id: u64, address: &str) -> bool {
    let mut stranger = TcpStream::connect(&instance(node).me().address).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    Request::Connect {
        id,
        address: address.as_bytes(),
    }
    .encode(&mut bytes);
    stranger.write_all(&bytes).unwrap();
    // An admitted link stays open, and nothing comes back on it.
    matches!(stranger.read(&mut [0; 8]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn the_door_admits_members_only() {
    let dir = Dir::new("admit");
    let member = started(&dir);
    let own = &instance(&member).me().clone();
    for (id, address) in [
        (99, OTHER),
        (own.id, &own.address),
        (own.id, OTHER),
        (99, &own.address),
        (0, OTHER),
    ] {
        assert!(!is_admitted(&member, id, address), "{id} at {address}");
    }
    member.exec("CREATE TABLE t(a)").unwrap();
}

#[test]
fn a_node_that_waits_to_join_admits_only_whom_it_was_told_of() {
    // The engine would found a cluster with the first two of these ids by itself.
    for id in [1, engine::BOOTSTRAP_ID, 7] {
        let (dir, absent) = (Dir::new(&format!("waits-{id}")), free_address());
        let own = free_address();
        let list = crate::net::parse_csv(&format!("{absent},{own}")).unwrap();
        let waiting = Node::new(id, &own, dir.path(), list).unwrap();
        std::thread::scope(|scope| {
            let start = scope.spawn(|| waiting.start());
            wait_until("running", || waiting.running().is_ok());
            for (id, address) in [(99, OTHER), (id, &absent), (99, &own)] {
                assert!(!is_admitted(&waiting, id, address), "{id} at {address}");
            }
            assert!(instance(&waiting).members().unwrap().is_empty());
            waiting.stop().unwrap();
            assert_eq!(start.join().unwrap().unwrap_err().kind(), Kind::Shutdown);
        });
    }
}
