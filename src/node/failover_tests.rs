//! Sessions on three nodes of this process, whose leader goes away amid what they do.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::tests::{free_address, instance, wait_until};
use super::*;
use crate::client::Client;
use crate::db::{Mode, Next, PreparedStatement};
use crate::wire::{Role, Value};

pub(super) struct Cluster {
    pub(super) nodes: Vec<(String, Node)>,
    dir: PathBuf,
}

impl Cluster {
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(super) fn with(name: &str, prepare: impl Fn(&mut Config)) -> Self {
        let dir = std::env::temp_dir().join(format!("dqlitepy-failover-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        // All at once, so that no port is given twice.
        let ports: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = ports
            .iter()
            .map(|port| port.local_addr().unwrap().to_string())
            .collect();
        drop(ports);
        let list = crate::net::parse_csv(&addresses.join(",")).unwrap();
        let nodes: Vec<_> = (1..)
            .zip(addresses)
            .map(|(id, address)| {
                let own = dir.join(id.to_string());
                let node = Node::new(id, &address, own.to_str().unwrap(), list.clone()).unwrap();
                prepared(&node, &prepare);
                node.start().unwrap();
                (address, node)
            })
            .collect();
        let voters = || {
            let members = nodes[0].1.running().unwrap().instance.members().unwrap_or_default();
            members.iter().filter(|member| member.role == Role::Voter).count()
        };
        let until = Instant::now() + Duration::from_secs(20);
        while voters() < 3 {
            assert!(Instant::now() < until, "the nodes do not come together");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { nodes, dir }
    }

    /// One more node, which joins.
    fn add(&mut self, id: u64, prepare: impl Fn(&mut Config)) -> String {
        let (address, own) = (free_address(), self.dir.join(id.to_string()));
        let list = crate::net::parse_csv(&self.nodes[0].0).unwrap();
        let node = Node::new(id, &address, own.to_str().unwrap(), list).unwrap();
        prepared(&node, &prepare);
        node.start().unwrap();
        self.nodes.push((address.clone(), node));
        address
    }

    pub(super) fn lose(&mut self, address: &str) {
        let at = self.nodes.iter().position(|(own, _)| own == address).unwrap();
        self.nodes.remove(at).1.destroy();
    }

    /// Sessions by way of two nodes that follow, and the leader's address.
    fn sessions(&self) -> (Arc<SharedSession>, Arc<SharedSession>, String) {
        let open = |node: &Node| Arc::new(node.open_session("test.db", Arc::default()).unwrap());
        let leader = open(&self.nodes[0].1).leader().unwrap();
        let mut followers = self.nodes.iter().filter(|(address, _)| *address != leader);
        let mut next = || open(&followers.next().unwrap().1);
        (next(), next(), leader)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|(_, node)| node.destroy());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn prepared(node: &Node, prepare: &impl Fn(&mut Config)) {
    let set = |config: &mut Config| {
        prepare(config);
        Ok(())
    };
    node.configure(set).unwrap();
}

fn one(session: &Arc<SharedSession>, sql: &str) -> i64 {
    let rows = session.query(sql).unwrap();
    assert_eq!(rows.step().unwrap(), Next::Row);
    rows.look(|part| match crate::db::ResultRows::value(part, 0)? {
        Value::Integer(number) => Ok(number),
        other => panic!("{other:?}"),
    })
    .unwrap()
}

fn prepare(session: &Arc<SharedSession>, sql: &str) -> PreparedStatement {
    session.prepare(sql).unwrap().0.unwrap()
}

#[test]
fn statements_go_on_and_a_transaction_does_not() {
    let mut cluster = Cluster::new("transaction");
    let (plain, inner, leader) = cluster.sessions();
    plain.exec("CREATE TABLE t(a)").unwrap();
    let (insert, inner_insert) = (
        prepare(&plain, "INSERT INTO t VALUES (?)"),
        prepare(&inner, "INSERT INTO t VALUES (?)"),
    );
    insert.bind(1, Value::Integer(1)).unwrap();
    insert.exec().unwrap();
    inner.begin(Mode::Immediate).unwrap();
    inner_insert.bind(1, Value::Integer(10)).unwrap();
    inner_insert.exec().unwrap();
    cluster.lose(&leader);
    for _ in 0..2 {
        assert_eq!(inner_insert.exec().unwrap_err().kind(), Kind::TransactionLost);
        assert_eq!(inner.commit().unwrap_err().kind(), Kind::TransactionLost);
        assert!(inner.in_transaction().unwrap());
    }
    insert.exec().unwrap();
    inner.rollback().unwrap();
    inner_insert.exec().unwrap();
    for session in [&plain, &inner] {
        assert_ne!(session.leader().unwrap(), leader);
        assert_eq!(one(session, "SELECT sum(a) FROM t"), 12);
    }
}

/// Whatever a batch or a COMMIT in flight is told, it is so.
#[test]
fn what_is_in_flight_is_told_the_truth() {
    let mut cluster = Cluster::new("flight");
    let (batcher, writer, leader) = cluster.sessions();
    writer.exec("CREATE TABLE batch(a); CREATE TABLE t(a)").unwrap();
    let insert = prepare(&batcher, "INSERT INTO batch VALUES (?)");
    let stop = AtomicBool::new(false);
    let under_way = AtomicUsize::new(0);
    let going = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let batches = scope.spawn(|| {
            let (mut kept, mut unknown) = (0, 0);
            while going() {
                for value in 0..1000 {
                    insert.bind(1, Value::Integer(value)).unwrap();
                    insert.add_batch().unwrap();
                }
                under_way.fetch_add(1, Ordering::Relaxed);
                match insert.exec_batch() {
                    Ok(rows) => kept += rows,
                    Err(error) if error.kind() == Kind::Unknown => unknown += 1000,
                    Err(error) => assert!(matches!(error.kind(), Kind::Retry | Kind::NoLeader), "{error}"),
                }
            }
            (kept, unknown)
        });
        let commits = scope.spawn(|| {
            let (mut kept, mut unknown) = (0, 0);
            while going() {
                let done = writer
                    .begin(Mode::Immediate)
                    .and_then(|()| writer.exec("INSERT INTO t VALUES (1), (2)"))
                    .and_then(|_| writer.commit());
                match done {
                    Ok(()) => kept += 2,
                    Err(error) if error.kind() == Kind::Unknown => unknown += 2,
                    Err(_) => {}
                }
                under_way.fetch_add(1, Ordering::Relaxed);
                if writer.in_transaction().unwrap() {
                    writer.rollback().unwrap();
                }
            }
            (kept, unknown)
        });
        let wait_for = |count| {
            let until = Instant::now() + Duration::from_secs(20);
            while under_way.load(Ordering::Relaxed) < count {
                assert!(Instant::now() < until, "the writers stand still");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        wait_for(20);
        cluster.lose(&leader);
        wait_for(under_way.load(Ordering::Relaxed) + 20);
        stop.store(true, Ordering::Relaxed);
        let ((kept, unknown), (committed, open)) = (batches.join().unwrap(), commits.join().unwrap());
        let (in_batch, in_t) = (
            one(&writer, "SELECT count(*) FROM batch"),
            one(&writer, "SELECT count(*) FROM t"),
        );
        assert!(kept > 0 && committed > 0);
        assert!(
            (kept..=kept + unknown).contains(&in_batch) && in_batch % 1000 == 0,
            "{kept} {unknown} {in_batch}"
        );
        assert!(
            (committed..=committed + open).contains(&in_t) && in_t % 2 == 0,
            "{committed} {open} {in_t}"
        );
    });
}

/// Its log holds nothing. What it heard when it joined would name neither those who came later nor who leads then.
#[test]
fn who_knows_only_a_spare_finds_the_leader_and_hears_of_all_members() {
    let no_standbys = |config: &mut Config| config.options.targets.standbys = 0;
    let mut cluster = Cluster::with("spare", no_standbys);
    let spare = cluster.add(4, no_standbys);
    let client = Client::new(crate::net::parse_csv(&spare).unwrap());
    let listed = client.cluster().unwrap();
    assert!(
        listed.iter().any(|member| member.id == 4 && member.role == Role::Spare),
        "{listed:?}"
    );
    assert!(
        cluster.nodes[..3]
            .iter()
            .any(|(address, _)| *address == client.leader().unwrap())
    );

    cluster.add(5, no_standbys);
    let own = crate::net::parse_csv(&spare).unwrap().remove(0);
    wait_until("the spare hears of another one", || {
        rival::members_of(&own, limits::PROBE) == client.cluster().unwrap()
    });
    // To itself it says what its log says: whether it belongs to a cluster is for others to decide.
    assert_eq!(instance(&cluster.nodes[3].1).members().unwrap(), []);
}

/// The duties ask for the members only when the engine's number for them is another one.
#[test]
fn a_change_of_the_members_is_noticed_by_its_number() {
    let mut cluster = Cluster::new("configuration");
    let first = Arc::clone(&instance(&cluster.nodes[0].1));
    let number = || first.status().unwrap().configuration;
    let listed = |address: &str| files::load_cluster(first.dir()).iter().any(|it| it.address == address);
    let third = cluster.nodes[2].0.clone();
    wait_until("cluster.yaml names all three", || listed(&third));

    let before = number();
    let added = cluster.add(4, |_| {});
    wait_until("the number changes", || number() != before);
    wait_until("cluster.yaml names the fourth", || listed(&added));
}
