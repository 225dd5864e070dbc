//! Generated memberships: what must hold for all of them, and go-dqlite's rules as a table beside ours.

use std::collections::HashSet;

use proptest::prelude::*;

use super::tests::{targets, wanted};
use super::*;
use Role::{Spare, StandBy, Voter};

/// A membership that can be: the leader is one of the voters, and a majority of them is there.
fn memberships() -> impl Strategy<Value = (Vec<Peer>, u64)> {
    let peer = (0..3u64, any::<bool>(), 0..4u64, 0..3u64);
    (prop::collection::vec(peer, 1..10), any::<prop::sample::Index>()).prop_map(|(raw, index)| {
        let leader = index.index(raw.len()) as u64 + 1;
        let peer = |(index, (role, online, failure_domain, weight)): (usize, (u64, bool, u64, u64))| Peer {
            id: index as u64 + 1,
            address: String::new(),
            role: Role::try_from(role).unwrap(),
            online,
            failure_domain,
            weight,
        };
        let mut peers: Vec<Peer> = raw.into_iter().enumerate().map(peer).collect();
        let first = &mut peers[leader as usize - 1];
        (first.role, first.online) = (Voter, true);
        while !has_quorum(&peers) {
            peers
                .iter_mut()
                .find(|peer| votes(peer) && !peer.online)
                .unwrap()
                .online = true;
        }
        (peers, leader)
    })
}

fn any_targets() -> impl Strategy<Value = Targets> {
    (1..8usize, 0..5usize).prop_map(|(voters, standbys)| targets(voters, standbys))
}

fn has_quorum(peers: &[Peer]) -> bool {
    online(peers, Voter).count() * 2 > with_role(peers, Voter).count()
}

fn assign(peers: &mut [Peer], id: u64, role: Role) {
    let peer = peers.iter_mut().find(|peer| peer.id == id).unwrap();
    assert_ne!(peer.role, role, "the engine refuses a role that the node already has");
    peer.role = role;
}

/// Applies changes until none is left, looking at each. `pick` says which candidate accepts a promotion.
fn settle(targets: Targets, peers: &mut [Peer], leader: u64, pick: impl Fn(usize) -> usize) {
    let roles = |peers: &[Peer]| peers.iter().map(|peer| u64::from(peer.role)).collect::<Vec<_>>();
    let mut seen = HashSet::from([roles(peers)]);
    while let Some(Change { role, candidates }) = adjust(targets, peers, leader) {
        assert_eq!(candidates.iter().collect::<HashSet<_>>().len(), candidates.len());
        for id in &candidates {
            assert_ne!(*id, leader, "the leader was changed");
            assert!(
                role == Spare || find(peers, *id).unwrap().online,
                "promoted somebody who is away"
            );
        }
        let accepts = if role == Spare { 0 } else { pick(candidates.len()) };
        assign(peers, candidates[accepts], role);
        assert!(has_quorum(peers), "lost the majority: {peers:?}");
        assert!(seen.insert(roles(peers)), "came back to {peers:?}");
        assert!(seen.len() <= 4 * peers.len(), "goes on and on");
    }
}

/// What a cluster looks like when there is nothing left to do.
fn check_settled(targets: Targets, peers: &[Peer]) {
    let count = |role, online| with_role(peers, role).filter(|peer| peer.online == online).count();
    if too_small(targets, peers) {
        assert_eq!(with_role(peers, Voter).count(), 1);
        return;
    }
    let there = peers.iter().filter(|peer| peer.online).count();
    let voters = count(Voter, true);
    assert_eq!(voters, targets.voters.min(there), "{peers:?}");
    if voters == targets.voters {
        assert_eq!(count(Voter, false), 0, "{peers:?}");
        assert_eq!(count(StandBy, true), targets.standbys.min(there - voters), "{peers:?}");
        if count(StandBy, true) == targets.standbys {
            assert_eq!(count(StandBy, false), 0, "{peers:?}");
        }
    }
    let used = domains(online(peers, Voter)).len();
    let all = domains(peers.iter().filter(|peer| peer.online)).len();
    assert_eq!(used, all.min(voters), "voters crowd: {peers:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_come_to_an_end_and_never_cost_the_majority(
        (mut peers, leader) in memberships(),
        targets in any_targets(),
        pick in any::<prop::sample::Index>(),
    ) {
        settle(targets, &mut peers, leader, |count| pick.index(count));
        check_settled(targets, &peers);
    }

    /// Nodes come, go and return, and leaders change, while the roles follow.
    #[test]
    fn a_cluster_that_changes_settles_again_and_again(
        (mut peers, mut leader) in memberships(),
        targets in any_targets(),
        faults in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..8),
    ) {
        for (who, other) in faults {
            settle(targets, &mut peers, leader, |count| other.index(count));
            let index = who.index(peers.len());
            peers[index].online = !peers[index].online;
            let alive: Vec<u64> = ids(online(&peers, Voter));
            if !has_quorum(&peers) {
                peers[index].online = true;
            } else if !alive.contains(&leader) {
                leader = alive[other.index(alive.len())];
            }
        }
        settle(targets, &mut peers, leader, |_| 0);
        check_settled(targets, &peers);
    }

    #[test]
    fn who_leaves_never_costs_the_majority_and_chooses_only_who_is_there(
        (mut peers, me) in memberships(),
        targets in any_targets(),
    ) {
        for peer in &peers {
            if let Some(role) = assume(targets, &peers, peer.id) {
                prop_assert_eq!(peer.role, Spare);
                prop_assert_ne!(role, Spare);
            }
        }
        prop_assert!(next_leaders(&peers, me).iter().all(|id| votes(find(&peers, *id).unwrap())));
        if let Some(Change { role, candidates }) = successors(&peers, me) {
            prop_assert!(candidates.iter().all(|id| find(&peers, *id).unwrap().online));
            assign(&mut peers, candidates[0], role);
            assign(&mut peers, me, Spare);
            prop_assert!(has_quorum(&peers));
        } else if should_resign(&peers, me) {
            assign(&mut peers, me, Spare);
            peers[me as usize - 1].online = false;
            prop_assert!(has_quorum(&peers));
        }
    }

    #[test]
    fn go_dqlite_decides_the_same(
        (peers, leader) in memberships(),
        voters in prop::sample::select(vec![3usize, 5, 7]),
        standbys in 0..5usize,
    ) {
        let ours = adjust(targets(voters, standbys), &peers, leader);
        let theirs = go::decide(voters, standbys, &peers, leader);
        if go::would_lose_quorum(&theirs, &peers) {
            // The one difference: those who are away go first.
            prop_assert_eq!(ours, wanted(Spare, &ids(with_role(&peers, Voter).filter(|peer| !peer.online))));
        } else {
            prop_assert_eq!(ours, theirs);
        }
    }
}

/// app-behaviour 4.2 once more, rule by rule, with lists instead of sets and counts instead of names.
mod go {
    use super::*;

    type Rule = fn(&World<'_>) -> Option<(Role, Vec<u64>)>;

    struct World<'a> {
        voters: usize,
        standbys: usize,
        all: &'a [Peer],
        leader: u64,
    }

    const RULES: [Rule; 10] = [
        |w| (w.all.len() == 1).then(nothing),
        |w| (w.all.len() < 3).then(|| (Spare, w.pick(|p| p.role == Voter && p.id != w.leader))),
        |w| {
            let candidates = [w.get(StandBy, true), w.get(Spare, true)].concat();
            let used = w.areas(&w.get(Voter, true));
            let all = w.areas(&w.pick(|p| p.online));
            let fresh: Vec<u64> = candidates
                .into_iter()
                .filter(|id| !used.contains(&w.area(*id)))
                .collect();
            let crowded = used.len() < all.len() && used.len() < w.get(Voter, true).len();
            (crowded && !fresh.is_empty()).then(|| (Voter, w.by_weight(fresh)))
        },
        |w| {
            let missing = w.get(Voter, true).len() < w.voters;
            let candidates = [w.get(StandBy, true), w.get(Spare, true)].concat();
            missing.then(|| (Voter, w.against(candidates, &w.areas(&w.get(Voter, true)))))
        },
        |w| {
            let mut found = Vec::new();
            for size in (1..=w.all.len()).rev() {
                let crowd = |id: &u64| {
                    let area = w.area(*id);
                    w.get(Voter, true)
                        .iter()
                        .filter(|other| w.area(**other) == area)
                        .count()
                        == size
                };
                let mut group: Vec<u64> = w.get(Voter, true).into_iter().filter(crowd).collect();
                group.sort_by_key(|id| std::cmp::Reverse(w.weight(*id)));
                found.extend(group.into_iter().filter(|id| *id != w.leader));
            }
            (w.get(Voter, true).len() > w.voters).then_some((Spare, found))
        },
        |w| (!w.get(Voter, false).is_empty()).then(|| (Spare, w.get(Voter, false))),
        |w| {
            let missing = w.get(StandBy, true).len() < w.standbys;
            missing.then(|| (StandBy, w.against(w.get(Spare, true), &w.areas(&w.get(StandBy, true)))))
        },
        |w| (w.get(StandBy, true).len() > w.standbys).then(|| (Spare, w.get(StandBy, true))),
        |w| (!w.get(StandBy, false).is_empty()).then(|| (Spare, w.get(StandBy, false))),
        |_| Some(nothing()),
    ];

    fn nothing() -> (Role, Vec<u64>) {
        (Spare, Vec::new())
    }

    pub(super) fn decide(voters: usize, standbys: usize, all: &[Peer], leader: u64) -> Option<Change> {
        let world = World {
            voters,
            standbys,
            all,
            leader,
        };
        let (role, candidates) = RULES.iter().find_map(|rule| rule(&world)).unwrap();
        (!candidates.is_empty()).then_some(Change { role, candidates })
    }

    pub(super) fn would_lose_quorum(change: &Option<Change>, all: &[Peer]) -> bool {
        change.as_ref().is_some_and(|change| {
            let mut after = all.to_vec();
            after[change.candidates[0] as usize - 1].role = change.role;
            !has_quorum(&after)
        })
    }

    impl World<'_> {
        fn pick(&self, wanted: impl Fn(&Peer) -> bool) -> Vec<u64> {
            self.all
                .iter()
                .filter(|peer| wanted(peer))
                .map(|peer| peer.id)
                .collect()
        }

        fn get(&self, role: Role, online: bool) -> Vec<u64> {
            self.pick(|peer| peer.role == role && peer.online == online)
        }

        fn area(&self, id: u64) -> u64 {
            self.all[id as usize - 1].failure_domain
        }

        fn weight(&self, id: u64) -> u64 {
            self.all[id as usize - 1].weight
        }

        fn areas(&self, ids: &[u64]) -> Vec<u64> {
            let mut areas: Vec<u64> = ids.iter().map(|id| self.area(*id)).collect();
            areas.sort_unstable();
            areas.dedup();
            areas
        }

        fn by_weight(&self, mut ids: Vec<u64>) -> Vec<u64> {
            ids.sort_by_key(|id| self.weight(*id));
            ids
        }

        fn against(&self, ids: Vec<u64>, taken: &[u64]) -> Vec<u64> {
            let (old, new): (Vec<u64>, Vec<u64>) = ids.into_iter().partition(|id| taken.contains(&self.area(*id)));
            [self.by_weight(new), self.by_weight(old)].concat()
        }
    }
}
