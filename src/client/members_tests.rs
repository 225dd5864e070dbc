//! A client's calls on a cluster that is busy, loses answers, or has members that are away.

use std::collections::HashMap;
use std::time::Instant;

use super::*;
use crate::client::fake_tests::{Fake, Fault, nobody, parsed};

fn client(fake: &Fake) -> Client {
    Client::new(parsed(&fake.addresses))
}

fn address(text: &str) -> Address {
    Address::parse_peer(text, "address").unwrap()
}

/// A node that runs and belongs to no cluster yet.
fn newcomer() -> Fake {
    let fake = Fake::new("V");
    fake.fault(1, Fault::Blank);
    fake
}

#[test]
fn a_node_that_answers_becomes_a_voter_and_once_is_enough() {
    let (fake, new) = (Fake::new("V"), newcomer());
    for _ in 0..2 {
        assert_eq!(client(&fake).add(2, &address(new.address(1))), Ok(Role::Voter));
        assert_eq!(fake.roles(), "VV");
    }
    assert_eq!(fake.log(), ["ADD 2", "ASSIGN 2 0"]);
}

#[test]
fn an_address_that_does_not_answer_becomes_a_spare() {
    let (fake, silent) = (Fake::new("V"), nobody());
    for _ in 0..2 {
        assert_eq!(client(&fake).add(2, &address(&silent)), Ok(Role::Spare));
        assert_eq!(fake.roles(), "VP");
    }
    assert_eq!(fake.log(), ["ADD 2"]);
}

#[test]
fn a_member_that_cannot_be_promoted_is_a_member_all_the_same() {
    let (fake, new) = (Fake::new("V"), newcomer());
    fake.world().stubborn.push(2);
    assert_eq!(client(&fake).add(2, &address(new.address(1))), Ok(Role::Spare));
    assert_eq!(fake.roles(), "VP");
}

#[test]
fn lost_answers_and_other_changes_do_not_matter() {
    let (fake, new) = (Fake::new("V"), newcomer());
    fake.world().busy = 3;
    fake.world().lose_answers = 2;
    assert_eq!(client(&fake).add(2, &address(new.address(1))), Ok(Role::Voter));
    assert_eq!(
        fake.log(),
        ["ADD 2", "ASSIGN 2 0"],
        "what was done is not asked for again"
    );
    fake.world().lose_answers = 1;
    assert_eq!(client(&fake).assign(2, Role::StandBy), Ok(()));
    fake.world().lose_answers = 1;
    assert_eq!(client(&fake).remove(2), Ok(()));
    assert_eq!(fake.log(), ["ASSIGN 2 1", "REMOVE 2"]);
}

#[test]
fn what_cannot_be_added() {
    let fake = Fake::new("VV");
    let (other, babbling) = (Fake::new("V"), Fake::new("V"));
    other.fault(1, Fault::Elsewhere);
    babbling.fault(1, Fault::Babbles);
    // The cluster that our first member was in before it lost its data.
    let before = Fake::new("V");
    let first = fake.world().members[0].clone();
    before.world().members.push(first.clone());
    before.world().members[0].id = 5;
    before.world().leader = 5;
    for (id, at, kind, why) in [
        (0, nobody(), Kind::Invalid, "id 0"),
        (3, fake.address(2).to_owned(), Kind::Invalid, "node 2 at"),
        (2, nobody(), Kind::Invalid, "node 2 at"),
        (3, other.address(1).to_owned(), Kind::Misuse, "77 at 10.9.9.9:9001"),
        (5, before.address(1).to_owned(), Kind::Misuse, first.address.as_str()),
        (3, babbling.address(1).to_owned(), Kind::Internal, "nothing was changed"),
    ] {
        let error = client(&fake).add(id, &address(&at)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(why), "{error}");
    }
    assert_eq!(fake.log(), [""; 0]);
}

#[test]
fn a_node_that_knows_this_cluster_already_may_come_back() {
    let fake = Fake::new("VVV");
    client(&fake).remove(3).unwrap();
    // It answers with the members of before, which are still the same world here.
    assert_eq!(client(&fake).add(3, &address(fake.address(3))), Ok(Role::Voter));
    assert_eq!(fake.roles(), "VVV");
}

#[test]
fn the_leader_is_removed_after_another_one_leads() {
    let fake = Fake::new("VVV");
    client(&fake).remove(1).unwrap();
    assert_eq!(fake.log(), ["TRANSFER 2", "REMOVE 1"]);
    assert_eq!(client(&fake).leader().as_deref(), Ok(fake.address(2)));
    client(&fake).remove(2).unwrap();
    let error = client(&fake).remove(3).unwrap_err();
    assert_eq!(error.kind(), Kind::Misuse);
    assert!(error.message().contains("last"), "{error}");
}

#[test]
fn a_leader_without_another_voter_gets_a_successor() {
    let fake = Fake::new("VPS");
    client(&fake).remove(1).unwrap();
    assert_eq!(fake.log(), ["ASSIGN 3 0", "TRANSFER 3", "REMOVE 1"]);
}

#[test]
fn a_voter_is_not_removed_if_the_cluster_would_stand_still() {
    let fake = Fake::new("VVVP");
    fake.fault(3, Fault::Closes);
    for error in [
        client(&fake).remove(2),
        client(&fake).remove(1),
        client(&fake).assign(2, Role::Spare),
    ] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::Misuse);
        assert!(
            error.message().contains(&format!("3 at {}", fake.address(3))),
            "{error}"
        );
    }
    assert_eq!(fake.log(), [""; 0]);
    client(&fake).remove(3).unwrap();
    client(&fake).remove(2).unwrap();
    assert_eq!(fake.roles(), "VP");
    assert_eq!(client(&fake).remove(9).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn roles_are_assigned() {
    let fake = Fake::new("VPS");
    client(&fake).assign(2, Role::Voter).unwrap();
    client(&fake).assign(2, Role::Voter).unwrap();
    assert_eq!(fake.log(), ["ASSIGN 2 0"]);
    client(&fake).assign(1, Role::Spare).unwrap();
    assert_eq!(fake.log(), ["TRANSFER 2", "ASSIGN 1 2"]);
    assert_eq!(
        client(&fake).assign(2, Role::StandBy).unwrap_err().kind(),
        Kind::Misuse,
        "the only voter"
    );
    assert_eq!(
        client(&fake).assign(9, Role::StandBy).unwrap_err().kind(),
        Kind::NotFound
    );
    fake.fault(3, Fault::Hangs);
    let began = Instant::now();
    assert_eq!(
        client(&fake).assign(3, Role::Voter).unwrap_err().kind(),
        Kind::Retry,
        "it does not answer"
    );
    assert!(began.elapsed() < limits::PROBE * 2);
    assert_eq!(fake.roles(), "PVS");
}

#[test]
fn the_lead_is_moved() {
    let fake = Fake::new("VVVP");
    fake.world().weights = HashMap::from([(2, 5), (3, 1)]);
    let leader = |fake: &Fake| fake.world().leader;
    client(&fake).transfer(0).unwrap();
    assert_eq!(leader(&fake), 3, "the lightest");
    client(&fake).transfer(2).unwrap();
    client(&fake).transfer(2).unwrap();
    assert_eq!(leader(&fake), 2);
    assert_eq!(fake.log(), ["TRANSFER 3", "TRANSFER 2"]);
    fake.world().stubborn.push(1);
    client(&fake).transfer(0).unwrap();
    assert_eq!(fake.log(), ["TRANSFER 1", "TRANSFER 3"], "the next one, if one fails");
    let failed = |id| client(&fake).transfer(id).unwrap_err().kind();
    assert_eq!(
        (failed(1), failed(4), failed(9)),
        (Kind::Internal, Kind::Misuse, Kind::NotFound)
    );
    assert_eq!(
        Client::new(parsed(&Fake::new("V").addresses))
            .transfer(0)
            .unwrap_err()
            .kind(),
        Kind::Retry
    );
}

#[test]
fn a_node_is_described_and_weighed() {
    let fake = Fake::new("VV");
    fake.world().domains.insert(2, u64::MAX);
    let second = address(fake.address(2));
    client(&fake).set_weight(&second, 7).unwrap();
    let found = client(&fake).describe(&second).unwrap();
    assert_eq!((found.failure_domain, found.weight), (u64::MAX, 7));
    let error = client(&fake).describe(&address(&nobody())).unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
}
