//! The rules by example.

use super::*;
use Role::{Spare, StandBy, Voter};

const DEFAULT: Targets = Targets { voters: 3, standbys: 3 };

pub(super) fn targets(voters: usize, standbys: usize) -> Targets {
    Targets { voters, standbys }
}

/// Members 1, 2, ... from words such as `V`, `v`, `s@2`, `P+5`: voter, stand-by or spare (`p`), offline if small,
/// in a failure domain, with a weight.
fn members(text: &str) -> Vec<Peer> {
    let peer = |(index, word): (usize, &str)| {
        let number = |mark: char| {
            let digits = word.split(mark).nth(1).unwrap_or("0");
            digits.split(['@', '+']).next().unwrap().parse().unwrap()
        };
        let letter = word.chars().next().unwrap();
        Peer {
            id: index as u64 + 1,
            address: format!("10.0.0.{}:9001", index + 1),
            role: match letter.to_ascii_uppercase() {
                'V' => Voter,
                'S' => StandBy,
                _ => Spare,
            },
            online: letter.is_ascii_uppercase(),
            failure_domain: number('@'),
            weight: number('+'),
        }
    };
    text.split_whitespace().enumerate().map(peer).collect()
}

pub(super) fn wanted(role: Role, candidates: &[u64]) -> Option<Change> {
    Some(Change {
        role,
        candidates: candidates.to_vec(),
    })
}

/// The change that the leader, member 1, makes.
fn adjusted(targets: Targets, text: &str) -> Option<Change> {
    adjust(targets, &members(text), 1)
}

#[test]
fn a_node_that_joins_asks_for_what_is_missing() {
    let asks = |targets, text: &str| assume(targets, &members(text), members(text).len() as u64);
    assert_eq!(asks(DEFAULT, "V P"), None, "a cluster of two");
    assert_eq!(
        asks(targets(2, 0), "V P"),
        Some(Voter),
        "a cluster that is to have two voters"
    );
    assert_eq!(asks(targets(1, 1), "V P"), Some(StandBy));
    assert_eq!(asks(DEFAULT, "V P P"), Some(Voter));
    assert_eq!(asks(DEFAULT, "V V V P"), Some(StandBy));
    assert_eq!(asks(DEFAULT, "V V v P"), Some(Voter), "a voter is away");
    assert_eq!(asks(DEFAULT, "V V V S S S P"), None);
    assert_eq!(asks(DEFAULT, "V V V S S s P"), Some(StandBy));
    assert_eq!(asks(DEFAULT, "V P V"), None, "a voter already");
    assert_eq!(asks(DEFAULT, "V P S"), None, "a stand-by already");
    assert_eq!(assume(DEFAULT, &members("V P P"), 9), None, "no member");
}

#[test]
fn the_third_node_brings_the_second_along() {
    let brings = |targets, text: &str| assume_with(targets, &members(text), members(text).len() as u64);
    assert_eq!(brings(DEFAULT, "V P P"), wanted(Voter, &[2]));
    assert_eq!(brings(DEFAULT, "V p P"), None, "nobody is there");
    assert_eq!(
        brings(DEFAULT, "V P@2 S P P@1"),
        wanted(Voter, &[2, 3, 4]),
        "another domain first"
    );
    assert_eq!(brings(DEFAULT, "V V P P"), None, "there were two");
    assert_eq!(brings(targets(2, 0), "V P P"), None, "two are enough");
    assert_eq!(brings(DEFAULT, "V V V P"), None, "it became a stand-by");
}

#[test]
fn a_small_cluster_has_one_voter_unless_two_were_asked_for() {
    assert_eq!(adjusted(DEFAULT, "V"), None);
    assert_eq!(adjusted(DEFAULT, "V P"), None);
    assert_eq!(adjusted(DEFAULT, "V V"), wanted(Spare, &[2]));
    assert_eq!(adjusted(DEFAULT, "V v"), wanted(Spare, &[2]));
    assert_eq!(adjusted(targets(2, 0), "V P"), wanted(Voter, &[2]));
    assert_eq!(adjusted(targets(2, 0), "V V"), None);
    assert_eq!(adjusted(targets(1, 0), "V V"), wanted(Spare, &[2]));
    assert_eq!(adjusted(targets(1, 1), "V P"), wanted(StandBy, &[2]));
}

#[test]
fn a_domain_without_voter_gets_one_from_where_they_crowd() {
    assert_eq!(adjusted(DEFAULT, "V@1 V@1 V@2 S@3 P@3"), wanted(Voter, &[4, 5]));
    assert_eq!(
        adjusted(DEFAULT, "V@1 V@1 V@2 P@3 S@3"),
        wanted(Voter, &[5, 4]),
        "stand-bys first"
    );
    assert_eq!(
        adjusted(DEFAULT, "V@1 V@1 V@2 S@3+2 P@3+1"),
        wanted(Voter, &[5, 4]),
        "lighter first"
    );
    assert_eq!(adjusted(DEFAULT, "V@1 V@2 V@3 P@4"), wanted(StandBy, &[4]), "no crowd");
    assert_eq!(adjusted(targets(3, 0), "V@1 V@1 V@2 p@3"), None, "nobody is there");
    assert_eq!(
        adjusted(DEFAULT, "V@1 V@1 V@2 V@3"),
        wanted(Spare, &[2, 3, 4]),
        "the leader makes the crowd"
    );
}

#[test]
fn voters_are_promoted_and_demoted() {
    assert_eq!(adjusted(DEFAULT, "V P S P"), wanted(Voter, &[3, 2, 4]));
    assert_eq!(
        adjusted(DEFAULT, "V@1 S@1 P@2"),
        wanted(Voter, &[3, 2]),
        "another domain first"
    );
    assert_eq!(
        adjusted(DEFAULT, "V S+3 P+1 s+0"),
        wanted(Voter, &[3, 2]),
        "lighter first"
    );
    assert_eq!(adjusted(DEFAULT, "V V v p"), None, "the voter that is away may return");
    assert_eq!(
        adjusted(DEFAULT, "V V V V+7"),
        wanted(Spare, &[4, 2, 3]),
        "the heaviest"
    );
    assert_eq!(
        adjusted(DEFAULT, "V@1 V@2 V@2 V@3+9"),
        wanted(Spare, &[2, 3, 4]),
        "the crowd before the weight"
    );
    assert_eq!(adjusted(DEFAULT, "V V V v"), wanted(Spare, &[4]));
    assert_eq!(
        adjusted(DEFAULT, "V V V V v v v"),
        wanted(Spare, &[5, 6, 7]),
        "or three of six would be left"
    );
    assert_eq!(
        adjusted(targets(1, 0), "V V v"),
        wanted(Spare, &[3]),
        "or one of two would be left"
    );
}

#[test]
fn standbys_are_promoted_and_demoted() {
    let one = targets(3, 1);
    assert_eq!(adjusted(one, "V V V P p P"), wanted(StandBy, &[4, 6]));
    assert_eq!(
        adjusted(targets(3, 2), "V V V S@1 P@1 P@2"),
        wanted(Voter, &[4, 5, 6]),
        "the voters' domains first"
    );
    assert_eq!(
        adjusted(targets(3, 2), "V@0 V@1 V@2 S@1 P@1 P@2+9"),
        wanted(StandBy, &[6, 5]),
        "another domain first"
    );
    assert_eq!(adjusted(one, "V V V S S"), wanted(Spare, &[4, 5]));
    assert_eq!(adjusted(one, "V V V S s"), wanted(Spare, &[5]));
    assert_eq!(adjusted(one, "V V V s"), None, "it may return");
    assert_eq!(adjusted(one, "V V V S P"), None);
}

#[test]
fn a_leader_that_did_not_hear_itself_is_there_and_one_without_vote_changes_nothing() {
    assert_eq!(adjusted(targets(3, 0), "v V V"), None);
    assert_eq!(adjusted(targets(3, 0), "v V V V"), wanted(Spare, &[2, 3, 4]));
    assert_eq!(adjusted(DEFAULT, "S V V"), None);
    assert_eq!(adjust(DEFAULT, &members("V P P"), 9), None);
}

#[test]
fn who_leaves_hands_its_role_to_somebody_who_is_there() {
    let heirs = |text: &str| successors(&members(text), 1);
    assert_eq!(heirs("V"), None);
    assert_eq!(heirs("V P"), wanted(Voter, &[2]), "a cluster of two");
    assert_eq!(heirs("V V V"), None, "nobody is left to give it to");
    assert_eq!(heirs("V V V P S p s"), wanted(Voter, &[5, 4]));
    assert_eq!(
        heirs("V@1 V@2 V@3 S@2 P@1"),
        wanted(Voter, &[5, 4]),
        "in the domain that it leaves"
    );
    assert_eq!(heirs("S V P S P"), wanted(StandBy, &[3, 5]));
    assert_eq!(heirs("P V P"), None);
    assert_eq!(successors(&members("V V P"), 9), None);
}

#[test]
fn one_of_two_voters_resigns_before_it_leaves() {
    let resigns = |text: &str| should_resign(&members(text), 1);
    assert!(resigns("V V"));
    assert!(resigns("V V V v"), "two of three go on, two of four would not");
    assert!(!resigns("V V V"));
    assert!(!resigns("V V v"), "lost either way");
    assert!(!resigns("V"));
    assert!(!resigns("V v"));
    assert!(!resigns("S V V"));
}

#[test]
fn the_lightest_voter_that_is_there_leads_next() {
    assert_eq!(next_leaders(&members("V V+2 V+1 v S P"), 1), [3, 2]);
    assert_eq!(next_leaders(&members("V P"), 1), [0; 0]);
}

#[test]
fn a_voter_can_be_spared_while_the_others_have_a_majority() {
    let spares = |text: &str| can_spare(&members(text), 1);
    assert!(spares("V V"));
    assert!(spares("V V V"));
    assert!(spares("v V V v V"));
    assert!(!spares("V V v"), "one of two would be left");
    assert!(!spares("V"), "none would be left");
    assert!(!spares("V S P"));
}
