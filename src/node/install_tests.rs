//! Snapshots that a leader sends, where something comes between the two ends. One of the ends is a real node.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::engine_tests::{APPEND_ENTRIES, APPEND_ENTRIES_RESULT, INSTALL_SNAPSHOT, exec, link, words};
use super::failover_tests::Cluster;
use super::tests::{Dir, connect, free_address, instance, node, soon, wait_until};
use super::*;
use crate::engine::{Snapshots, Trailing};
use crate::net::Stream;

/// Less than the half minute after which a leader sends a snapshot again that it has heard nothing of.
const SOON: Duration = Duration::from_secs(10);

fn often(config: &mut Config) {
    config.options.snapshots = Some(Snapshots::new(4, 4, Trailing::Static).unwrap());
}

/// A member without a node: the link on which the leader sends to it.
struct Ear(TcpStream);

impl Ear {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut ear = Self(stream);
        // Version, and CONNECT.
        let hello = ear.words(2);
        ear.words(u64::from(hello[1] as u32));
        ear
    }

    fn words(&mut self, count: u64) -> Vec<u64> {
        let mut bytes = vec![0; usize::try_from(count * 8).unwrap()];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    /// The next message: its type and the words of its header. Entries and snapshots are read and forgotten.
    fn message(&mut self) -> (u64, Vec<u64>) {
        let [kind, size] = self.words(2)[..] else { panic!() };
        let (kind, header) = (u64::from(kind as u16), self.words(size / 8));
        let payload = match kind {
            // Behind term, index, term and commit: how many, and of each its term, its type and its size.
            APPEND_ENTRIES => (0..header[4] as usize).map(|entry| header[6 + 2 * entry] >> 32).sum(),
            INSTALL_SNAPSHOT => header[header.len() - 1],
            _ => 0,
        };
        self.words(payload / 8);
        (kind, header)
    }

    /// Says that it has nothing, until it has been sent a snapshot.
    fn take_snapshot(&mut self, back: &Stream) {
        loop {
            let (kind, header) = self.message();
            match kind {
                INSTALL_SNAPSHOT => return,
                APPEND_ENTRIES => {
                    let nothing = words(&[APPEND_ENTRIES_RESULT, 24, header[0], header[1], 0]);
                    back.write_all(&nothing, soon()).unwrap();
                }
                _ => {}
            }
        }
    }
}

/// A snapshot without databases, as of this index.
fn snapshot(term: u64, index: u64, members: &[(u64, &str)]) -> Vec<u8> {
    const VOTER: u8 = 1;
    let mut configuration = vec![1];
    configuration.extend(words(&[members.len() as u64]));
    for (id, address) in members {
        configuration.extend(words(&[*id]));
        configuration.extend(address.as_bytes());
        configuration.extend([0, VOTER]);
    }
    configuration.resize(configuration.len().next_multiple_of(8), 0);
    let mut header = words(&[term, index, term, 1, configuration.len() as u64]);
    header.extend(configuration);
    header.extend(words(&[16]));
    let mut bytes = words(&[INSTALL_SNAPSHOT, header.len() as u64]);
    bytes.extend(header);
    bytes.extend(words(&[1, 0]));
    bytes
}

/// The engine drops it, and tells nobody.
#[test]
fn a_snapshot_that_comes_amid_an_own_one_is_installed_behind_that() {
    let dir = Dir::new("amid");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, leader) = (free_address(), listener.local_addr().unwrap().to_string());
    let node = node(7, &address, &dir);
    node.configure(|config| {
        often(config);
        Ok(())
    })
    .unwrap();
    node.start().unwrap();
    let mut conn = connect(&node);
    exec(&mut conn, "CREATE TABLE t(a)");
    exec(&mut conn, "INSERT INTO t VALUES (randomblob(100000000))");
    wait_until("it writes one of its own", || {
        exec(&mut conn, "INSERT INTO t VALUES (1)");
        files::list(std::path::Path::new(dir.path()))
            .unwrap()
            .iter()
            .any(|name| name.starts_with("tmp-"))
    });
    let status = instance(&node).status().unwrap();
    let (term, index) = (status.term + 1, status.last_index + 1000);
    let link = link(&node, 2, &leader);
    link.write_all(&snapshot(term, index, &[(7, &address), (2, &leader)]), soon())
        .unwrap();
    let mut ear = Ear::accept(&listener);
    loop {
        let (kind, answer) = ear.message();
        if kind == APPEND_ENTRIES_RESULT {
            assert_eq!(answer[..3], [term, 0, index]);
            return;
        }
    }
}

/// The member is started again before it has installed what it was sent: its leader would wait for its answer.
#[test]
fn a_snapshot_whose_link_ended_is_sent_again() {
    let mut cluster = Cluster::with("again", often);
    let session = cluster.nodes[0].1.open_session("test.db", Arc::default()).unwrap();
    let leader = session.leader().unwrap();
    session.exec("CREATE TABLE t(a)").unwrap();
    let is_other = |(_, address): &(u64, String)| *address != leader && *address != cluster.nodes[0].0;
    let addresses = cluster.nodes.iter().map(|(address, _)| address.clone());
    let (id, away) = (1..).zip(addresses).find(is_other).unwrap();
    cluster.lose(&away);
    for _ in 0..32 {
        session.exec("INSERT INTO t VALUES (1)").unwrap();
    }
    let (_, leads) = cluster.nodes.iter().find(|(address, _)| *address == leader).unwrap();
    let listener = TcpListener::bind(&away).unwrap();
    for _ in 0..3 {
        let mut ear = Ear::accept(&listener);
        ear.take_snapshot(&link(leads, id, &away));
    }
}
