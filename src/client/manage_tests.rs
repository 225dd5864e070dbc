//! Taking, dealing and handing over roles, on clusters where some do not answer or refuse.

use std::time::Duration;

use super::*;
use crate::client::fake_tests::{Fake, Fault, connector, soon};

const DEFAULT: Targets = Targets { voters: 3, standbys: 3 };

fn adjust(fake: &Fake, me: u64) -> Result<bool> {
    adjust_once(&connector(&fake.addresses), me, fake.address(me), DEFAULT, soon())
}

fn leave(fake: &Fake, me: u64) -> Result<()> {
    handover(&connector(&fake.addresses), me, soon())
}

#[test]
fn the_third_node_becomes_a_voter_and_brings_the_second_along() {
    let fake = Fake::new("VPP");
    let connector = connector(&fake.addresses);
    take_role(&connector, 3, DEFAULT, soon()).unwrap();
    assert_eq!(fake.roles(), "VVV");
    take_role(&connector, 3, DEFAULT, soon()).unwrap();
    take_role(&connector, 9, DEFAULT, soon()).unwrap();
    assert_eq!(fake.log(), ["ASSIGN 3 0", "ASSIGN 2 0"]);
}

#[test]
fn nobody_to_bring_along_is_no_failure() {
    let fake = Fake::new("VPP");
    fake.world().stubborn.push(2);
    take_role(&connector(&fake.addresses), 3, DEFAULT, soon()).unwrap();
    assert_eq!(fake.roles(), "VPV");
}

#[test]
fn the_leader_deals_roles_until_all_is_well() {
    let fake = Fake::new("VPPPP");
    while adjust(&fake, 1).unwrap() {}
    assert_eq!(fake.roles(), "VVVSS");
    fake.fault(2, Fault::Closes);
    while adjust(&fake, 1).unwrap() {}
    assert_eq!(fake.roles(), "VPVVS");
}

#[test]
fn only_the_leader_deals() {
    let fake = Fake::new("VPPP");
    assert_eq!(adjust(&fake, 2), Ok(false));
    fake.world().leader = 0;
    assert_eq!(adjust(&fake, 1), Ok(false));
    assert_eq!(fake.log(), [""; 0]);
}

#[test]
fn a_node_that_hangs_costs_two_seconds_and_no_role() {
    let fake = Fake::new("VPPP");
    fake.fault(2, Fault::Hangs);
    let began = Instant::now();
    assert_eq!(adjust(&fake, 1), Ok(true));
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    assert_eq!(fake.log(), ["ASSIGN 3 0"]);
}

#[test]
fn the_next_candidate_gets_what_the_first_one_refuses() {
    let fake = Fake::new("VPPP");
    fake.world().stubborn.extend([2, 3]);
    assert_eq!(adjust(&fake, 1), Ok(true));
    assert_eq!(fake.log(), ["ASSIGN 2 0", "ASSIGN 3 0", "ASSIGN 4 0"]);
    fake.world().stubborn.push(4);
    let error = adjust(&fake, 1).unwrap_err();
    assert!(
        error.message().contains("node 2") && error.message().contains("node 3"),
        "{error}"
    );
}

#[test]
fn while_another_change_is_made_there_is_none() {
    let fake = Fake::new("VPPP");
    fake.world().busy = 1;
    assert_eq!(adjust(&fake, 1), Ok(false), "the other one may take long");
    fake.world().lose_answers = 1;
    assert_eq!(adjust(&fake, 1).unwrap_err().kind(), Kind::Unknown);
    assert_eq!(fake.roles(), "VVPP", "it was made, and is seen the next time");
}

#[test]
fn who_leaves_gives_its_role_and_its_lead_away() {
    let fake = Fake::new("VVVSP");
    leave(&fake, 1).unwrap();
    assert_eq!(fake.log(), ["ASSIGN 4 0", "TRANSFER 2", "ASSIGN 1 2"]);
    assert_eq!(fake.roles(), "PVVVP");
    leave(&fake, 1).unwrap();
    assert_eq!(fake.log(), [""; 0], "nothing is left to give");
    leave(&fake, 3).unwrap();
    assert_eq!(fake.log(), ["ASSIGN 1 0", "ASSIGN 3 2"]);
}

#[test]
fn every_candidate_is_tried() {
    let fake = Fake::new("VVVSPP");
    fake.world().stubborn.extend([2, 4, 5]);
    leave(&fake, 1).unwrap();
    assert_eq!(
        fake.log(),
        [
            "ASSIGN 4 0",
            "ASSIGN 5 0",
            "ASSIGN 6 0",
            "TRANSFER 2",
            "TRANSFER 3",
            "ASSIGN 1 2"
        ]
    );
}

#[test]
fn the_lead_moves_even_if_nobody_takes_the_vote() {
    let fake = Fake::new("VVVS");
    fake.world().stubborn.push(4);
    let error = leave(&fake, 1).unwrap_err();
    assert!(error.message().contains("node 4"), "{error}");
    assert_eq!(fake.log(), ["ASSIGN 4 0", "TRANSFER 2"]);
    assert_eq!(fake.roles(), "VVVS");
}

#[test]
fn of_two_voters_the_one_that_stays_goes_on() {
    let fake = Fake::new("VV");
    leave(&fake, 1).unwrap();
    assert_eq!(fake.log(), ["TRANSFER 2", "ASSIGN 1 2"]);
}

#[test]
fn three_voters_keep_their_votes() {
    let fake = Fake::new("VVV");
    leave(&fake, 1).unwrap();
    assert_eq!(fake.log(), ["TRANSFER 2"]);
    leave(&fake, 1).unwrap();
    assert_eq!(fake.log(), [""; 0]);
}

#[test]
fn alone_or_among_the_silent_there_is_nobody_to_hand_over_to() {
    let alone = Fake::new("V");
    leave(&alone, 1).unwrap();
    leave(&alone, 9).unwrap();
    let fake = Fake::new("VP");
    fake.fault(2, Fault::Closes);
    let error = leave(&fake, 1).unwrap_err();
    assert_eq!(error.kind(), Kind::Retry, "{error}");
    assert_eq!(fake.log(), [""; 0]);
}
