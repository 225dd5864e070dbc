//! What the engine does on a real node when messages come that only other engines and odd clients send.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::failover_tests::Cluster;
use super::tests::{Dir, ENDLESS, connect, free_address, instance, node, query_sql, rows, soon, started, wait_until};
use super::*;
use crate::client::{Client, Conn, Role};
use crate::net::{Stream, parse_csv};
use crate::wire::{Params, Request, Response};

/// Numbers of raft's messages. [raft.h]
pub(super) const APPEND_ENTRIES: u64 = 1;
pub(super) const APPEND_ENTRIES_RESULT: u64 = 2;
const REQUEST_VOTE: u64 = 3;
pub(super) const INSTALL_SNAPSHOT: u64 = 5;

/// A link as another member opens it, past the door, where nobody asks who it is.
pub(super) fn link(node: &Node, id: u64, address: &str) -> Stream {
    let stream = instance(node).dial_stream().unwrap();
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    Request::Connect {
        id,
        address: address.as_bytes(),
    }
    .encode(&mut bytes);
    stream.write_all(&bytes, soon()).unwrap();
    stream
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn exec_sql(sql: &str) -> Request<'_> {
    Request::ExecSql {
        db: 0,
        sql: sql.as_bytes(),
        params: Params::NONE,
    }
}

pub(super) fn exec(conn: &mut Conn, sql: &str) {
    let answer = conn.call(&exec_sql(sql), soon()).unwrap();
    assert!(matches!(answer, Response::Result { .. }), "{answer:?}");
}

/// Two nodes, both of them voters.
fn two_voters(name: &str, prepare: impl Fn(&mut Config)) -> ([Dir; 2], [Node; 2], [String; 2]) {
    let dirs = [1, 2].map(|id| Dir::new(&format!("{name}-{id}")));
    let addresses = [(); 2].map(|()| free_address());
    let list = parse_csv(&addresses.join(",")).unwrap();
    let nodes = [0, 1].map(|at: usize| {
        let node = Node::new(at as u64 + 1, &addresses[at], dirs[at].path(), list.clone()).unwrap();
        node.configure(|config| {
            prepare(config);
            Ok(())
        })
        .unwrap();
        node.start().unwrap();
        node
    });
    wait_until("two voters", || {
        let members = instance(&nodes[0]).members().unwrap();
        members.iter().filter(|member| member.role == Role::Voter).count() == 2
    });
    (dirs, nodes, addresses)
}

/// The writer that waits is run when the one before it fails, while raft still calls itself leader, under the term of whoever
/// deposed it.
#[test]
fn a_leader_that_steps_down_appends_nothing_under_the_next_term() {
    let (_dirs, [leader, follower], addresses) =
        two_voters("falls", |config| config.options.network_latency_ms = Some(600));
    let status = || instance(&leader).status().unwrap();
    let (mut first, mut second) = (connect(&leader), connect(&leader));
    exec(&mut first, "CREATE TABLE t(a)");
    // Statements like these are known to be quick, and run where they arrive.
    for number in 0..100 {
        exec(&mut second, &format!("INSERT INTO t VALUES ({number})"));
    }
    assert!(status().leads);
    follower.destroy();
    // For as long as it takes to notice, 9 s, nobody confirms the first one; the second one waits for it.
    let before = status().last_index;
    std::thread::scope(|scope| {
        let run = |mut conn: Conn, sql: &'static str| {
            scope.spawn(move || match conn.call(&exec_sql(sql), soon()).unwrap() {
                Response::Failure { code, .. } => code,
                other => panic!("{other:?}"),
            })
        };
        let first = run(first, "INSERT INTO t VALUES (1000)");
        wait_until("the first entry", || status().last_index == before + 1);
        let second = run(second, "INSERT INTO t VALUES (1001)");
        std::thread::sleep(Duration::from_millis(200));
        assert!(status().leads && !first.is_finished() && !second.is_finished());
        let term = status().term + 100;
        let link = link(&leader, 2, &addresses[1]);
        let disrupt = 1;
        let vote = words(&[REQUEST_VOTE, 40, term, 2, before + 50, term - 1, disrupt]);
        link.write_all(&vote, soon()).unwrap();
        first.join().unwrap();
        second.join().unwrap();
        wait_until("it follows", || !status().leads);
        assert_eq!(status().last_index, before + 1);
        instance(&leader).watch().check().unwrap();
    });
    leader.destroy();
}

/// Half-read rows hold a lock on the database; a node that no longer leads may be sent a snapshot, which has to replace it.
#[test]
fn rows_that_nobody_reads_end_with_the_lead() {
    ends_with_the_lead("half-read", &ENDLESS.replace("count(*)", "hex(zeroblob(2000)), i"));
}

/// The same while the next ones are found, which takes long: when the lead is lost nothing waits to be sent.
#[test]
fn rows_that_are_under_way_end_with_the_lead() {
    let slow = "(WITH RECURSIVE m(j) AS (SELECT i UNION ALL SELECT j + 1 FROM m LIMIT 50000) SELECT max(j) FROM m)";
    ends_with_the_lead(
        "under-way",
        &ENDLESS.replace("count(*)", &format!("hex(zeroblob(2000)), {slow}")),
    );
}

fn ends_with_the_lead(name: &str, many: &str) {
    let cluster = Cluster::new(name);
    let session = cluster.nodes[0].1.open_session("test.db", Arc::default()).unwrap();
    let leads = session.leader().unwrap();
    let (_, leader) = cluster.nodes.iter().find(|(address, _)| *address == leads).unwrap();
    let stream = instance(leader).dial_stream().unwrap();
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    Request::Open {
        name: b"test.db",
        flags: 0,
        vfs: b"volatile",
    }
    .encode(&mut bytes);
    query_sql(many).encode(&mut bytes);
    stream.write_all(&bytes, soon()).unwrap();
    // The answer to OPEN is 16 bytes long; behind it come rows.
    let mut came = 0;
    while came <= 16 {
        came += stream.read_some(&mut [0; 64], soon()).unwrap();
    }
    leader.handover().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    // So few that they fit the socket's buffer.
    let ended = loop {
        match stream.write_all(&0_u64.to_le_bytes(), soon()) {
            Ok(()) => assert!(Instant::now() < until, "the rows still wait for their reader"),
            Err(error) => break error,
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(ended.kind(), std::io::ErrorKind::BrokenPipe, "{ended}");
}

/// A follower's connection that is kept has seen a part of the index of a large WAL during a checkpoint, which maps it for
/// itself alone. When the node leads others write there, and a snapshot begins with a checkpoint.
#[test]
fn a_checkpoint_does_not_use_an_index_of_before() {
    const SIZE: usize = 20_000_000;
    let snapshots = Snapshots::new(4, 4, crate::engine::Trailing::Static).unwrap();
    let (_dirs, [first, second], addresses) = two_voters("index", |config| config.options.snapshots = Some(snapshots));
    let client = Client::new(parse_csv(&addresses.join(",")).unwrap());
    let mut before = connect(&first);
    exec(&mut before, "CREATE TABLE t(a BLOB)");
    exec(&mut before, &format!("INSERT INTO t VALUES (zeroblob({SIZE}))"));
    client.transfer(2).unwrap();
    let (mut reader, mut writer) = (connect(&second), connect(&second));
    let many = ENDLESS.replace("count(*)", "hex(zeroblob(2000)), (SELECT count(*) FROM t)");
    reader.query(&query_sql(&many), soon()).unwrap();
    exec(&mut writer, &format!("INSERT INTO t VALUES (randomblob({SIZE}))"));
    drop(reader);
    let applied = || instance(&second).status().unwrap().applied_index;
    let until = applied() + 8;
    while applied() < until {
        // Entries that write nothing, of which a checkpoint would come before that of the snapshot.
        client.assign(1, Role::StandBy).unwrap();
        client.assign(1, Role::Voter).unwrap();
    }
    second.open_db("test.db").unwrap();
    assert_eq!(rows(&second, "PRAGMA integrity_check"), r#"[{"integrity_check":"ok"}]"#);
    let whole =
        format!("SELECT count(*) AS n FROM t WHERE length(a) = {SIZE} AND (a = zeroblob({SIZE})) = (rowid = 1)");
    assert_eq!(rows(&second, &whole), r#"[{"n":2}]"#);
}

/// A snapshot is one message. Nothing of this one's 600 MB follows; what counts is that the node waits for them.
#[test]
fn a_snapshot_of_any_size_is_taken() {
    let dir = Dir::new("snapshot");
    let waiting = started(&dir);
    let link = link(&waiting, 2, "127.0.0.1:1");
    // A configuration: its version, the number of its members, and of the one its id, address and role.
    let mut header = words(&[1, 5, 1, 5, 24]);
    header.extend(b"\x01\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0m\0\x01\0\0\0\0");
    header.extend(words(&[600 << 20]));
    let mut bytes = words(&[INSTALL_SNAPSHOT, header.len() as u64]);
    bytes.extend(header);
    bytes.resize(bytes.len() + (1 << 20), 0);
    link.write_all(&bytes, soon()).unwrap();
    let ended = link
        .read_some(&mut [0; 8], Instant::now() + Duration::from_millis(700))
        .unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut, "{ended}");
    instance(&waiting).watch().check().unwrap();
}

/// The bytes of the entries in the first message that holds several, as a member receives it that was away. Before that it
/// is asked whether it has what stands before them; `back` is its own link, on which it says that it has.
fn first_load(mut link: TcpStream, back: &Stream) -> u64 {
    let mut read = |bytes: u64| {
        let mut buffer = vec![0; usize::try_from(bytes).unwrap()];
        link.read_exact(&mut buffer).unwrap();
        buffer
    };
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at * 8..][..8].try_into().unwrap());
    // Version, and CONNECT.
    let hello = read(16);
    read(u64::from(word(&hello, 1) as u32) * 8);
    loop {
        let head = read(16);
        let header = read(word(&head, 1));
        if word(&head, 0) as u16 as u64 != APPEND_ENTRIES {
            continue;
        }
        // Behind term, index, term and commit: how many, and of each its term, its type and its size.
        let sizes: Vec<u64> = (0..word(&header, 4) as usize)
            .map(|entry| word(&header, 6 + 2 * entry) >> 32)
            .collect();
        let load = sizes.iter().sum();
        if sizes.len() > 1 {
            return load;
        }
        read(load);
        if sizes.is_empty() {
            let (term, before) = (word(&header, 0), word(&header, 1));
            let agrees = words(&[APPEND_ENTRIES_RESULT, 24, term, 0, before]);
            back.write_all(&agrees, soon()).unwrap();
        }
    }
}

/// All in one message it may be more than the member takes, and until it answers the same is sent with each heartbeat.
#[test]
fn what_a_member_lacks_is_sent_in_parts() {
    let mut cluster = Cluster::new("parts");
    let session = cluster.nodes[0].1.open_session("test.db", Arc::default()).unwrap();
    let leader = session.leader().unwrap();
    session.exec("CREATE TABLE t(a BLOB)").unwrap();
    let is_other = |(_, address): &(u64, String)| *address != leader && *address != cluster.nodes[0].0;
    let addresses = cluster.nodes.iter().map(|(address, _)| address.clone());
    let (id, away) = (1..).zip(addresses).find(is_other).unwrap();
    cluster.lose(&away);
    for _ in 0..16 {
        session.exec("INSERT INTO t VALUES (zeroblob(1000000))").unwrap();
    }
    let listener = TcpListener::bind(&away).unwrap();
    let (from_leader, _) = listener.accept().unwrap();
    from_leader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (_, leads) = cluster.nodes.iter().find(|(address, _)| *address == leader).unwrap();
    let load = first_load(from_leader, &link(leads, id, &away));
    assert!((1..6 << 20).contains(&load), "{load} bytes at once");
}

/// The engine says "nonempty statement tail", code 1, whatever the reason.
#[test]
fn a_busy_database_is_called_busy() {
    let dir = Dir::new("busy");
    let node = node(7, &free_address(), &dir);
    node.configure(|config| {
        config.options.busy_timeout_ms = 0;
        Ok(())
    })
    .unwrap();
    node.start().unwrap();
    let (mut holder, mut other) = (connect(&node), connect(&node));
    exec(&mut holder, "CREATE TABLE t(a)");
    exec(&mut holder, "BEGIN IMMEDIATE");
    match other.query(&query_sql("INSERT INTO t VALUES (1)"), soon()).unwrap() {
        Response::Failure { code, .. } => assert_eq!(code & 0xff, 5),
        answer => panic!("{answer:?}"),
    }
}

/// A candidate that was sure of its votes and did not get them has a term of its own, and takes nothing of the leader's. That
/// one steps down as it learns of it; it has its majority still, and the others would wait for it to speak until their timers.
#[test]
fn a_leader_that_hears_of_a_later_term_leads_in_one_after_that() {
    let cluster = Cluster::with("later", |config| config.options.network_latency_ms = Some(600));
    let session = cluster.nodes[0].1.open_session("test.db", Arc::default()).unwrap();
    let leads = session.leader().unwrap();
    let members = (1..).zip(&cluster.nodes);
    let (leader, others): (Vec<_>, Vec<_>) = members.partition(|(_, (address, _))| *address == leads);
    let [(candidate, (its_address, _)), (_, (_, other))] = others[..] else {
        panic!()
    };
    let status = |node: &Node| instance(node).status().unwrap();
    let (leader, began) = (&leader[0].1.1, Instant::now());
    let term = status(leader).term;
    // With a log as short as this one's nobody gets its vote.
    let link = link(other, candidate, its_address);
    let disrupt = 1;
    let vote = words(&[REQUEST_VOTE, 40, term + 1, candidate, 0, 0, disrupt]);
    link.write_all(&vote, soon()).unwrap();
    wait_until("it leads again", || {
        let now = status(leader);
        now.leads && now.term > term
    });
    // The timers are 9 s long, and its next message comes within a second.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    session.exec("CREATE TABLE t(a)").unwrap();
}

/// The disk's work is done by threads of libuv's, which all nodes share. When one of them looks for the segment that it is to
/// cut, and the directory is empty because somebody has moved it away, the engine asserts.
#[test]
fn an_assertion_on_a_thread_of_the_disk_loses_one_node_and_nothing_else() {
    let (dirs, [first, second], addresses) = two_voters("disk", |_| ());
    let mut conn = connect(&first);
    exec(&mut conn, "CREATE TABLE t(a)");
    exec(&mut conn, "INSERT INTO t VALUES (1)");
    drop(conn);
    let before = instance(&first).status().unwrap();
    second.destroy();
    // Its segments are closed then, and it leads nobody.
    first.stop().unwrap();
    first.start().unwrap();
    let (dir, away) = (dirs[0].path(), format!("{}-away", dirs[0].path()));
    std::fs::rename(dir, &away).unwrap();
    std::fs::create_dir(dir).unwrap();
    let (next, last) = (instance(&first).status().unwrap().term + 1, before.last_index);
    let barrier = 2 | 8 << 32;
    let header = [next, last - 1, before.term, 0, 1, next, barrier, 0];
    let mut entries = words(&[APPEND_ENTRIES, 64]);
    entries.extend(words(&header));
    entries.extend([0; 8]);
    link(&first, 2, &addresses[1]).write_all(&entries, soon()).unwrap();
    wait_until("lost", || instance(&first).watch().check().is_err());
    let lost = instance(&first).watch().check().unwrap_err();
    assert!(lost.message().contains("segments"), "{lost}");
    // Another one writes, and its disk is served; the lost one stops, and starts again from what is there.
    let other_dir = Dir::new("disk-other");
    let other = started(&other_dir);
    other
        .exec("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(20000000))")
        .unwrap();
    let began = Instant::now();
    first.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    std::fs::remove_dir_all(dir).unwrap();
    std::fs::rename(&away, dir).unwrap();
    first.start().unwrap();
    instance(&first).watch().check().unwrap();
    assert!(instance(&first).status().unwrap().last_index >= last);
}
