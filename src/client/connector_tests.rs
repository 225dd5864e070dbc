//! Finding the leader among nodes that hang, deny, redirect and lie.

use std::thread;

use super::*;
use crate::client::fake_tests::{Fake, Fault, connector, nobody, parsed, soon};
use crate::client::{Member, Role};

/// What a busy machine may add. Waiting for a node that hangs would take two seconds.
const SLACK: Duration = Duration::from_millis(1500);

fn found(connector: &Connector, deadline: Instant) -> String {
    connector.leader(deadline).map(|(_, address)| address).unwrap()
}

fn failed(connector: &Connector, millis: u64) -> Error {
    let began = Instant::now();
    let error = connector.leader(began + Duration::from_millis(millis)).err().unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(millis) + SLACK,
        "{:?} for {error}",
        began.elapsed()
    );
    error
}

#[test]
fn the_only_node_leads() {
    let fake = Fake::new("V");
    assert_eq!(found(&connector(&fake.addresses), soon()), fake.address(1));
}

#[test]
fn a_follower_names_the_leader() {
    let fake = Fake::new("VV");
    assert_eq!(found(&connector(&fake.addresses[1..]), soon()), fake.address(1));
}

#[test]
fn a_spare_names_the_members_and_one_of_them_leads() {
    let fake = Fake::new("VP");
    assert_eq!(found(&connector(&fake.addresses[1..]), soon()), fake.address(1));
}

/// The roles of the members that node 1 was one of. Since then it was removed, and the others changed theirs.
fn removed(fake: &Fake, roles: &str, now: &str) {
    let mut world = fake.world();
    let all = world.members.clone();
    let with = |roles: &str| -> Vec<Member> {
        let dealt = all.iter().cloned().zip(roles.chars());
        let role = |letter| match letter {
            'V' => Role::Voter,
            'S' => Role::StandBy,
            _ => Role::Spare,
        };
        dealt
            .filter(|(_, letter)| *letter != '-')
            .map(|(member, letter)| Member {
                role: role(letter),
                ..member
            })
            .collect()
    };
    world.outdated.insert(1, with(roles));
    world.members = with(now);
}

#[test]
fn one_that_was_removed_knows_those_who_lead_now() {
    let fake = Fake::new("VVVV");
    removed(&fake, "VVSP", "--VV");
    fake.fault(2, Fault::Closes);
    fake.world().leader = 3;
    let client = connector(&fake.addresses[..1]);
    assert_eq!(found(&client, soon()), fake.address(3));
    fake.world().leader = 4;
    assert_eq!(found(&client, soon()), fake.address(4));
}

/// The first list names none of those who are left, but one that names them.
#[test]
fn one_list_leads_to_the_next() {
    let fake = Fake::new("VVVVV");
    let all = fake.world().members.clone();
    removed(&fake, "VVV--", "---VV");
    fake.world().outdated.insert(2, all[1..].to_vec());
    fake.fault(3, Fault::Closes);
    fake.world().leader = 5;
    assert_eq!(found(&connector(&fake.addresses[..1]), soon()), fake.address(5));
}

/// A member lost everything and founded a cluster anew. Who names its address means it; a list of others does not.
#[test]
fn no_list_leads_into_another_cluster() {
    let fake = Fake::new("VVP");
    fake.fault(2, Fault::Closes);
    let client = connector(&fake.addresses[2..]);
    assert_eq!(found(&client, soon()), fake.address(1));
    fake.fault(1, Fault::Elsewhere);
    let error = failed(&client, 1500);
    let reason = format!(
        "{}: belongs to another cluster than the nodes that named it",
        fake.address(1)
    );
    assert!(error.message().contains(&reason), "{error}");
    assert!(error.message().contains("0 of 2 voters answered; 2 needed"), "{error}");
    assert!(
        error.message().contains(&format!("{}: the node", fake.address(2))),
        "{error}"
    );
    assert_eq!(
        found(
            &connector(&[fake.address(3).to_owned(), fake.address(1).to_owned()]),
            soon()
        ),
        fake.address(1)
    );
}

#[test]
fn a_node_that_hangs_delays_nobody() {
    let fake = Fake::new("VVV");
    fake.fault(3, Fault::Hangs);
    let hanging_first = [fake.address(3).to_owned(), fake.address(1).to_owned()];
    let began = Instant::now();
    assert_eq!(found(&connector(&hanging_first), soon()), fake.address(1));
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
}

#[test]
fn an_election_is_noticed_soon_after_it_was_decided() {
    let fake = Fake::new("VVV");
    fake.world().leader = 0;
    fake.fault(3, Fault::Hangs);
    let connector = connector(&fake.addresses);
    let searching = thread::scope(|scope| {
        let search = scope.spawn(|| (found(&connector, soon()), Instant::now()));
        fake.until(|world| world.asked(1) > 1 && world.asked(2) > 1);
        fake.world().leader = 2;
        let elected = Instant::now();
        let (address, when) = search.join().unwrap();
        assert_eq!(address, fake.address(2));
        when - elected
    });
    assert!(searching < SLACK, "{searching:?}");
}

/// Its followers name it until they miss it, and then one of them leads.
#[test]
fn a_leader_that_vanished_delays_nobody() {
    let fake = Fake::new("VVV");
    fake.fault(1, Fault::Hangs);
    for first in [1, 2, 3] {
        fake.world().leader = 1;
        fake.world().asked.clear();
        let connector = connector(&fake.addresses[first - 1..]);
        let waited = thread::scope(|scope| {
            let search = scope.spawn(|| (found(&connector, soon()), Instant::now()));
            fake.until(|world| world.asked(1) > 0 && world.asked(2) > 2);
            fake.world().leader = 2;
            let elected = Instant::now();
            let (address, when) = search.join().unwrap();
            assert_eq!(address, fake.address(2));
            when - elected
        });
        assert!(waited < SLACK, "{waited:?}");
    }
}

#[test]
fn the_last_leader_is_asked_first_and_alone() {
    let fake = Fake::new("VVV");
    let connector = connector(&fake.addresses);
    // They hang so that none of them is asked again by a thread that comes late.
    fake.fault(2, Fault::Hangs);
    fake.fault(3, Fault::Hangs);
    found(&connector, soon());
    fake.until(|world| world.asked.len() == 3);
    fake.world().faults.clear();
    fake.world().asked.clear();
    assert_eq!(found(&connector, soon()), fake.address(1));
    assert_eq!(fake.world().asked.keys().copied().collect::<Vec<_>>(), [1]);

    fake.world().leader = 3;
    assert_eq!(found(&connector, soon()), fake.address(3), "it names its successor");
    fake.fault(3, Fault::Hangs);
    fake.world().leader = 2;
    let began = Instant::now();
    assert_eq!(found(&connector, soon()), fake.address(2), "it hangs");
    assert!(began.elapsed() < limits::QUICK + SLACK, "{:?}", began.elapsed());
}

#[test]
fn each_node_has_its_own_reason_and_the_votes_are_counted() {
    let fake = Fake::new("VVVSP");
    fake.world().leader = 0;
    fake.fault(2, Fault::Names(3));
    fake.fault(3, Fault::Hangs);
    let nobody = nobody();
    let mut addresses = fake.addresses.clone();
    addresses.push(nobody.clone());
    let error = failed(&connector(&addresses), 1500);
    assert_eq!(error.kind(), Kind::NoLeader);
    let text = error.message();
    for part in [
        "(2 of 3 voters answered; 2 needed)".to_owned(),
        format!("{}: knows no leader", fake.address(1)),
        format!("{}: says {} leads", fake.address(2), fake.address(3)),
        format!("{}: no answer", fake.address(3)),
        format!("{}: has no vote", fake.address(4)),
        format!("{}: has no vote", fake.address(5)),
        format!("{nobody}: connecting to {nobody}: Connection refused"),
    ] {
        assert!(text.contains(&part), "{part} is not in {text}");
    }
}

#[test]
fn one_that_names_another_which_denies_it_is_no_way() {
    let fake = Fake::new("VV");
    fake.fault(1, Fault::Names(2));
    fake.fault(2, Fault::Ignorant);
    let error = failed(&connector(&fake.addresses[..1]), 1500);
    let denied = format!(
        "{}: says {} leads; {}: knows no leader",
        fake.address(1),
        fake.address(2),
        fake.address(2)
    );
    assert!(error.message().contains(&denied), "{error}");
    assert!(error.message().contains("2 of 2 voters answered; 2 needed"), "{error}");
}

#[test]
fn strangers_and_the_silent_are_named() {
    let fake = Fake::new("VVV");
    fake.fault(1, Fault::Blank);
    fake.fault(2, Fault::Closes);
    fake.fault(3, Fault::Babbles);
    let error = failed(&connector(&fake.addresses), 1500);
    let text = error.message();
    assert!(!text.contains("voters answered"), "{text}");
    assert!(
        text.contains(&format!("{}: knows neither leader nor members", fake.address(1))),
        "{text}"
    );
    assert!(text.contains(&format!("{}: the node", fake.address(2))), "{text}");
    // Its words may come before the question or behind it.
    let babbles = |what| text.contains(&format!("{}: the node {what}", fake.address(3)));
    assert!(
        babbles("announced") || babbles("says what nobody has asked for"),
        "{text}"
    );
}

#[test]
fn without_a_leader_the_deadline_ends_it() {
    for (millis, hangs) in [(0, false), (1, false), (150, false), (150, true), (700, true)] {
        let fake = Fake::new("V");
        fake.fault(1, if hangs { Fault::Hangs } else { Fault::Ignorant });
        let error = failed(&connector(&fake.addresses), millis);
        assert!(error.message().contains(fake.address(1)), "{error}");
    }
}

#[test]
fn more_addresses_than_are_asked_at_a_time() {
    let fake = Fake::new("V");
    let mut addresses: Vec<String> = (0..3 * limits::PROBES).map(|_| nobody()).collect();
    addresses.push(fake.address(1).to_owned());
    assert_eq!(found(&connector(&addresses), soon()), fake.address(1));
    fake.world().leader = 0;
    let error = failed(&connector(&addresses), 1500);
    assert_eq!(error.message().matches(": connecting to").count(), 3 * limits::PROBES);
}

/// Without a leader each is asked again ever later, from 10 ms on up to a quarter of a second: some 25 times in two seconds.
#[test]
fn nodes_without_a_leader_are_left_alone_ever_longer() {
    let fake = Fake::new("VVV");
    fake.world().leader = 0;
    failed(&connector(&fake.addresses), 2000);
    for (id, asked) in &fake.world().asked {
        assert!((5..60).contains(asked), "node {id} was asked {asked} times");
    }
    assert_eq!(fake.world().asked.len(), 3);
}

/// The node of this process, which the fake plays.
struct Here {
    address: String,
    peers: Vec<Address>,
    members: Vec<Address>,
    closed: bool,
}

impl Local for Here {
    fn address(&self) -> &str {
        &self.address
    }

    fn dial(&self) -> Result<Stream> {
        if self.closed {
            return Err(Error::new(Kind::Shutdown, "the door is closed"));
        }
        Stream::connect(&Address::parse_peer(&self.address, "address")?, soon())
    }

    fn peers(&self) -> Vec<Address> {
        self.peers.clone()
    }

    fn members(&self) -> Vec<Address> {
        self.members.clone()
    }
}

/// A connector that knows no other address than that of node `id`, which knows the others.
fn at(fake: &Fake, id: u64, closed: bool) -> Connector {
    knowing(fake, id, &fake.addresses, closed)
}

/// The same, but members are those only; of the others it was told.
fn knowing(fake: &Fake, id: u64, members: &[String], closed: bool) -> Connector {
    let here = Here {
        address: fake.address(id).to_owned(),
        peers: parsed(&fake.addresses),
        members: parsed(members)
            .into_iter()
            .filter(|member| member.to_string() != fake.address(id))
            .collect(),
        closed,
    };
    Connector::new(Some(Arc::new(here)), Vec::new())
}

#[test]
fn the_node_of_this_process_is_asked_before_all_others() {
    let fake = Fake::new("VVVV");
    assert_eq!(found(&at(&fake, 2, false), soon()), fake.address(1));
    let mut asked: Vec<u64> = fake.world().asked.keys().copied().collect();
    asked.sort_unstable();
    assert_eq!(asked, [1, 2]);
}

/// A member that lost everything and founded a cluster anew.
#[test]
fn a_leader_of_another_cluster_is_none() {
    let fake = Fake::new("VVV");
    fake.fault(1, Fault::Elsewhere);
    let error = at(&fake, 2, false).leader(Instant::now() + SLACK).err().unwrap();
    let reason = format!(
        "{}: leads a cluster to which {} does not belong",
        fake.address(1),
        fake.address(2)
    );
    assert!(error.message().contains(&reason), "{error}");
    fake.world().asked.clear();
    thread::scope(|scope| {
        let search = scope.spawn(|| found(&at(&fake, 2, false), soon()));
        fake.until(|world| world.asked(1) > 1 && world.asked(2) > 1);
        fake.world().leader = 3;
        assert_eq!(search.join().unwrap(), fake.address(3));
    });
}

/// This node lost everything and founded a cluster anew; the one before it lists it still.
#[test]
fn a_leader_of_the_cluster_before_is_none() {
    let fake = Fake::new("VVV");
    let newer = [fake.address(2).to_owned(), nobody()];
    let error = knowing(&fake, 2, &newer, false)
        .leader(Instant::now() + SLACK)
        .err()
        .unwrap();
    assert!(error.message().contains("does not belong"), "{error}");
    let shares_one = [fake.address(2).to_owned(), fake.address(3).to_owned(), nobody()];
    assert_eq!(found(&knowing(&fake, 2, &shares_one, false), soon()), fake.address(1));
}

#[test]
fn the_members_that_it_knows_are_asked_too() {
    let fake = Fake::new("VVV");
    fake.fault(2, Fault::Hangs);
    assert_eq!(found(&at(&fake, 2, false), soon()), fake.address(1));
}

#[test]
fn a_node_of_this_process_that_stops_ends_the_search() {
    let fake = Fake::new("VV");
    fake.world().leader = 0;
    let began = Instant::now();
    let error = at(&fake, 2, true).leader(soon()).err().unwrap();
    assert_eq!(error.kind(), Kind::Shutdown, "{error}");
    assert!(began.elapsed() < SLACK);
}
