//! The search for a leader among several nodes. All are asked at once, each again a while after its answer, so that a node
//! that hangs delays nobody; whom they name as leader or member is asked too. It ends with a leader or at the deadline.

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
    asked: usize,
    replies: Receiver<News>,
    reply: Sender<News>,
    /// Tells threads that come late that nobody waits.
    over: Arc<AtomicBool>,
}

struct Candidate {
    address: String,
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
    /// Nothing if it did not answer.
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
            asked: 0,
            replies,
            reply,
            over: Arc::default(),
        };
        search.add(addresses);
        search
    }

    pub(super) fn run(mut self, waiting: &WakeSlot) -> Result<(Conn, String)> {
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
                Ok(conn) => return Ok((conn, self.candidates[reply.from].address.clone())),
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
        let ask = move || {
            // Nobody may be listening any more; a leader's connection is closed then.
            let said = question(&ways, &address, &over, deadline);
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
        let voters: Vec<String> = denial
            .members
            .into_iter()
            .flatten()
            .filter(|member| member.role == Role::Voter)
            .map(|member| member.address)
            .collect();
        if !voters.is_empty() {
            self.add(voters.clone());
            self.voters = voters;
        }
        if let Some(leader) = denial.leader {
            self.ask_soon(leader);
        }
    }

    fn add(&mut self, addresses: Vec<String>) {
        for address in addresses {
            let known = self.candidates.iter().any(|candidate| candidate.address == address);
            if !known && self.candidates.len() < MOST_CANDIDATES {
                self.candidates.push(Candidate {
                    address,
                    due: Some(Instant::now()),
                    answered: false,
                    why: None,
                });
            }
        }
    }

    fn ask_soon(&mut self, address: String) {
        match self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.address == address)
        {
            Some(known) => known.due = known.due.map(|_| Instant::now()),
            None => self.add(vec![address]),
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

/// What is asked on a thread: who leads, and if it is another one, who else there is.
fn question(ways: &Ways, address: &str, over: &AtomicBool, deadline: Instant) -> std::result::Result<Conn, Denial> {
    let (mut conn, leader) = match ways.ask(address, limits::PROBE, deadline) {
        Ok(Answer::Leads(conn)) => return Ok(conn),
        Ok(Answer::Follows(conn, leader)) => (conn, Some(leader)),
        Ok(Answer::Unknown(conn)) => (conn, None),
        Err(why) => return Err(Denial::silent(why)),
    };
    let limit = deadline.min(Instant::now() + limits::PROBE);
    let asked = (!over.load(Ordering::Relaxed)).then(|| members(&mut conn, limit).ok());
    let known = asked.flatten();
    let has_vote = |list: &Vec<Member>| list.iter().any(|it| it.address == address && it.role == Role::Voter);
    let why = match (&leader, &known) {
        (Some(leader), _) => format!("says {leader} leads"),
        (None, Some(list)) if list.is_empty() => {
            "knows neither leader nor members, like a spare, or a node that waits to be added".to_owned()
        }
        (None, Some(list)) if !has_vote(list) => "has no vote, and so does not know who leads".to_owned(),
        (None, _) => "knows no leader".to_owned(),
    };
    Err(Denial {
        why: Error::internal(why),
        leader,
        members: Some(known.unwrap_or_default()),
    })
}

/// Of many that lost their leader not all shall ask in the same moment.
fn pause(elapsed: Duration) -> Duration {
    let longest = (elapsed / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let share = u32::try_from(RandomState::new().hash_one(()) % 512).unwrap_or(0);
    longest / 2 + longest * share / 1024
}
