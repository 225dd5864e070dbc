//! The search for a leader among several nodes. All are asked at once, each again a while after its answer, so that a node
//! that hangs delays nobody; whom they name as leader or member is asked too. It ends with a leader or at the deadline.
//!
//! A list of members may be old, and at one of its addresses another cluster may have been founded since. So a node that is
//! known from such a list only has to belong to the cluster that it was listed for: see `Search::cluster`.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::client::conn::Conn;
use crate::client::connector::{Answer, Ways};
use crate::client::members::{Member, members};
use crate::client::wake::{Wake, WakeSlot};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::net::sys;
use crate::wire::Role;

/// The pause between two questions to one node: a quarter of the time that the search has taken, within these bounds. So a
/// leader that was elected quickly is found quickly, and nodes that have none for long are left alone.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// More members than any cluster has; who names more is no dqlite node.
const MOST_CANDIDATES: usize = 100;

pub(super) struct Search<'a> {
    ways: &'a Ways,
    began: Instant,
    deadline: Instant,
    candidates: Vec<Candidate>,
    /// The addresses of the cluster's voters, as the last node that knew them said.
    voters: Vec<String>,
    /// All members that were named by nodes that the caller named, and then by those that were named so and belong to them.
    cluster: Vec<Member>,
    asked: usize,
    replies: Receiver<News>,
    reply: Sender<News>,
    /// Tells threads that come late that nobody waits.
    over: Arc<AtomicBool>,
}

/// A leader that was found.
pub(super) struct Found {
    pub(super) conn: Conn,
    pub(super) address: String,
    /// Other nodes' lists led there, and that it belongs to them is true of this connection only.
    pub(super) hearsay: bool,
}

struct Candidate {
    address: String,
    /// Known only from what other nodes listed.
    hearsay: bool,
    /// When to ask again; nothing while its answer is awaited.
    due: Option<Instant>,
    answered: bool,
    why: Option<Error>,
}

/// What ends a wait.
enum News {
    Reply(Reply),
    /// Whoever asked for the leader has given up.
    GivenUp,
}

struct Reply {
    from: usize,
    said: std::result::Result<Conn, Denial>,
}

/// Why a node is not the leader, and what it knows of others.
struct Denial {
    why: Error,
    leader: Option<String>,
    /// Nothing if it did not answer, or does not belong to the cluster.
    members: Option<Vec<Member>>,
}

impl<'a> Search<'a> {
    pub(super) fn new(ways: &'a Ways, addresses: Vec<String>, deadline: Instant) -> Self {
        let (reply, replies) = mpsc::channel();
        let mut search = Self {
            ways,
            began: Instant::now(),
            deadline,
            candidates: Vec::new(),
            voters: Vec::new(),
            cluster: Vec::new(),
            asked: 0,
            replies,
            reply,
            over: Arc::default(),
        };
        search.add(addresses, false);
        search
    }

    pub(super) fn run(mut self, waiting: &WakeSlot) -> Result<Found> {
        waiting.watch(Box::new(Bell {
            search: Arc::downgrade(&self.over),
            news: self.reply.clone(),
        }))?;
        loop {
            self.ask_those_due();
            let Some(wait) = self.wait() else {
                return Err(self.no_leader(Kind::NoLeader));
            };
            let reply = match self.replies.recv_timeout(wait) {
                Ok(News::Reply(reply)) => reply,
                Ok(News::GivenUp) => {
                    waiting.check()?;
                    continue;
                }
                Err(_) => continue,
            };
            match reply.said {
                Ok(conn) => {
                    let Candidate { address, hearsay, .. } = self.candidates.swap_remove(reply.from);
                    return Ok(Found { conn, address, hearsay });
                }
                Err(denial) if denial.why.kind() == Kind::Shutdown => {
                    self.note(reply.from, denial);
                    return Err(self.no_leader(Kind::Shutdown));
                }
                Err(denial) => self.note(reply.from, denial),
            }
        }
    }

    /// Whoever has waited longest first, so that many addresses do not keep each other from being asked at all.
    fn ask_those_due(&mut self) {
        while self.asked < limits::PROBES {
            let waiting = self.candidates.iter().enumerate();
            let longest = waiting
                .filter_map(|(index, candidate)| Some((candidate.due?, index)))
                .min();
            let Some((_, index)) = longest.filter(|(due, _)| *due <= Instant::now()) else {
                return;
            };
            self.candidates[index].due = None;
            self.asked += 1;
            self.ask(index);
        }
    }

    /// Asks on a thread, so that whoever waits for the search can give it up.
    fn ask(&self, index: usize) {
        let (ways, deadline) = (self.ways.clone(), self.deadline);
        let (reply, over) = (self.reply.clone(), Arc::clone(&self.over));
        let address = self.candidates[index].address.clone();
        let listed_with = self.candidates[index].hearsay.then(|| self.cluster.clone());
        let ask = move || {
            // Nobody may be listening any more; a leader's connection is closed then.
            let said = question(&ways, &address, listed_with.as_deref(), &over, deadline);
            let _ = reply.send(News::Reply(Reply { from: index, said }));
        };
        if let Err(error) = sys::spawn("dqlite-probe", ask) {
            let why = Error::internal(format!("no thread to ask on: {error}"));
            let said = Err(Denial::silent(why));
            let _ = self.reply.send(News::Reply(Reply { from: index, said }));
        }
    }

    /// How long until something can happen; nothing if that is too late.
    fn wait(&self) -> Option<Duration> {
        let now = Instant::now();
        let next = self.candidates.iter().filter_map(|candidate| candidate.due).min();
        match next {
            _ if now >= self.deadline => None,
            _ if self.asked == limits::PROBES => Some(self.deadline - now),
            Some(next) if next < self.deadline => Some(next.saturating_duration_since(now)),
            // A question without time for an answer would only hide the reasons of the last one.
            _ if self.asked == 0 => None,
            _ => Some(self.deadline - now),
        }
    }

    fn note(&mut self, from: usize, denial: Denial) {
        self.asked -= 1;
        let due = Instant::now() + pause(self.began.elapsed());
        let candidate = &mut self.candidates[from];
        candidate.due = Some(due);
        if candidate.why.is_some() && denial.why.kind() == Kind::Timeout && Instant::now() >= self.deadline {
            // What it said before tells more than that there was no time left to say it again.
            return;
        }
        candidate.answered = denial.members.is_some();
        candidate.why = Some(denial.why);
        let hearsay = candidate.hearsay;
        self.learn(denial.members.unwrap_or_default());
        if let Some(leader) = denial.leader {
            self.ask_soon(leader, hearsay);
        }
    }

    /// The others of a list are asked too: by now one of them may vote, or even lead.
    fn learn(&mut self, mut members: Vec<Member>) {
        members.sort_by_key(|member| member.role != Role::Voter);
        let addresses = |list: &[Member]| list.iter().map(|member| member.address.clone()).collect();
        let voters = members.iter().take_while(|member| member.role == Role::Voter).count();
        if voters > 0 {
            self.voters = addresses(&members[..voters]);
        }
        self.add(addresses(&members), true);
        members.retain(|member| !self.cluster.iter().any(|known| is_same(known, member)));
        members.truncate(MOST_CANDIDATES.saturating_sub(self.cluster.len()));
        self.cluster.append(&mut members);
    }

    fn add(&mut self, addresses: Vec<String>, hearsay: bool) {
        for address in addresses {
            let known = self.candidates.iter().any(|candidate| candidate.address == address);
            if !known && self.candidates.len() < MOST_CANDIDATES {
                self.candidates.push(Candidate {
                    address,
                    hearsay,
                    due: Some(Instant::now()),
                    answered: false,
                    why: None,
                });
            }
        }
    }

    /// Whom a node follows it hears from, so it is of the same cluster.
    fn ask_soon(&mut self, address: String, hearsay: bool) {
        match self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.address == address)
        {
            Some(known) => {
                known.hearsay &= hearsay;
                known.due = known.due.map(|_| Instant::now());
            }
            None => self.add(vec![address], hearsay),
        }
    }

    fn no_leader(&self, kind: Kind) -> Error {
        let tried: Vec<String> = self
            .candidates
            .iter()
            .map(|candidate| {
                let why = candidate.why.as_ref().map_or("no answer", Error::message);
                format!("{}: {why}", candidate.address)
            })
            .collect();
        let votes = match self.voters.len() {
            0 => String::new(),
            all => {
                let votes = |candidate: &&Candidate| candidate.answered && self.voters.contains(&candidate.address);
                let answered = self.candidates.iter().filter(votes).count();
                format!(" ({answered} of {all} voters answered; {} needed)", all / 2 + 1)
            }
        };
        Error::new(
            kind,
            format!("no leader found before the deadline{votes}; tried {}", tried.join("; ")),
        )
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Wakes a search.
struct Bell {
    /// Lives as long as the search and the questions that it asks.
    search: Weak<AtomicBool>,
    news: Sender<News>,
}

impl Wake for Bell {
    fn wake(&self) {
        // It may be over.
        let _ = self.news.send(News::GivenUp);
    }

    fn is_alive(&self) -> bool {
        self.search.strong_count() > 0
    }
}

impl Denial {
    fn silent(why: Error) -> Self {
        Self {
            why,
            leader: None,
            members: None,
        }
    }
}

/// What is asked on a thread: who leads, and if it is another one, who else there is. A node that was `listed_with` others
/// has to belong to them.
fn question(
    ways: &Ways,
    address: &str,
    listed_with: Option<&[Member]>,
    over: &AtomicBool,
    deadline: Instant,
) -> std::result::Result<Conn, Denial> {
    let (mut conn, leads, leader) = match ways.ask(address, limits::PROBE, deadline) {
        Ok(Answer::Leads(conn)) if listed_with.is_none() => return Ok(conn),
        Ok(Answer::Leads(conn)) => (conn, true, None),
        Ok(Answer::Follows(conn, leader)) => (conn, false, Some(leader)),
        Ok(Answer::Unknown(conn)) => (conn, false, None),
        Err(why) => return Err(Denial::silent(why)),
    };
    let limit = deadline.min(Instant::now() + limits::PROBE);
    let asked = (!over.load(Ordering::Relaxed)).then(|| members(&mut conn, limit).ok());
    let known = asked.flatten();
    let alien = matches!((listed_with, &known), (Some(cluster), Some(list)) if !belongs(address, list, cluster));
    if leads && known.is_some() && !alien {
        return Ok(conn);
    }
    let has_vote = |list: &Vec<Member>| list.iter().any(|it| it.address == address && it.role == Role::Voter);
    let why = match (&leader, &known) {
        _ if alien => "belongs to another cluster than the nodes that named it: none of their other members is in its \
                       list; name its address if that cluster is meant"
            .to_owned(),
        _ if leads => "leads, and does not say whom".to_owned(),
        (Some(leader), _) => format!("says {leader} leads"),
        (None, Some(list)) if list.is_empty() => {
            "knows neither leader nor members, like a node that waits to be added".to_owned()
        }
        (None, Some(list)) if !has_vote(list) => "has no vote, and so does not know who leads".to_owned(),
        (None, _) => "knows no leader".to_owned(),
    };
    Err(Denial {
        why: Error::internal(why),
        leader: leader.filter(|_| !alien),
        members: (!alien).then(|| known.unwrap_or_default()),
    })
}

/// Whether the node at `address`, which names the members in `list`, can be of the same cluster as those in `cluster`. It
/// is in both itself, which means nothing: who wiped it may have founded another cluster there.
fn belongs(address: &str, list: &[Member], cluster: &[Member]) -> bool {
    let others = |member: &&Member| member.address != address;
    list.is_empty()
        || list
            .iter()
            .filter(others)
            .any(|member| cluster.iter().any(|it| is_same(it, member)))
}

fn is_same(one: &Member, other: &Member) -> bool {
    one.id == other.id && one.address == other.address
}

/// Of many that lost their leader not all shall ask in the same moment.
fn pause(elapsed: Duration) -> Duration {
    let longest = (elapsed / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let share = u32::try_from(RandomState::new().hash_one(()) % 512).unwrap_or(0);
    longest / 2 + longest * share / 1024
}
