//! A cluster of small servers that speak the protocol and share one picture of who belongs to it, without any log. What
//! goes wrong is set per node.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::{Connector, Member};
use crate::net::Address;
use crate::wire::{Header, Request, Role, encode_failure};

pub(super) struct Fake {
    pub(super) addresses: Vec<String>,
    world: Arc<Mutex<World>>,
}

/// What the nodes agree on, and how each behaves.
#[derive(Default)]
pub(super) struct World {
    pub(super) members: Vec<Member>,
    /// 0 = nobody.
    pub(super) leader: u64,
    pub(super) faults: HashMap<u64, Fault>,
    /// What nodes believe that hear of no changes any more.
    pub(super) outdated: HashMap<u64, Vec<Member>>,
    /// What was asked of anybody, except questions: `ASSIGN 2 0`.
    pub(super) log: Vec<String>,
    /// Changes that are made, but whose answer is lost.
    pub(super) lose_answers: u32,
    /// Changes that are answered with BUSY.
    pub(super) busy: u32,
    /// Nodes that never get the role or the lead that is meant for them.
    pub(super) stubborn: Vec<u64>,
    pub(super) domains: HashMap<u64, u64>,
    pub(super) weights: HashMap<u64, u64>,
    /// Questions about the leader, by node, with those to one that hangs.
    pub(super) asked: HashMap<u64, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Takes connections and never says a word.
    Hangs,
    /// Closes every connection at once.
    Closes,
    /// Names another leader than the others do.
    Names(u64),
    /// Does not know who leads.
    Ignorant,
    /// Belongs to no cluster, or to another one that was founded at its address.
    Blank,
    Elsewhere,
    /// Says what no dqlite node says.
    Babbles,
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// An address that nobody listens on, and nobody will: its socket stays bound, so that no two calls give the same one.
pub(super) fn nobody() -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    std::mem::forget(socket);
    address
}

pub(super) fn connector(addresses: &[String]) -> Connector {
    Connector::new(None, parsed(addresses))
}

pub(super) fn parsed(addresses: &[String]) -> Vec<Address> {
    addresses
        .iter()
        .map(|address| Address::parse_peer(address, "address").unwrap())
        .collect()
}

impl Fake {
    /// Nodes 1, 2, ... with these roles: `VSP` are a voter, a stand-by and a spare. Node 1 leads.
    pub(super) fn new(roles: &str) -> Self {
        let listeners: Vec<TcpListener> = roles
            .chars()
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().to_string())
            .collect();
        let member = |(index, letter): (usize, char)| Member {
            id: index as u64 + 1,
            address: addresses[index].clone(),
            role: match letter {
                'V' => Role::Voter,
                'S' => Role::StandBy,
                _ => Role::Spare,
            },
        };
        let world = Arc::new(Mutex::new(World {
            members: roles.chars().enumerate().map(member).collect(),
            leader: 1,
            ..World::default()
        }));
        for (index, listener) in listeners.into_iter().enumerate() {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let world = Arc::clone(&world);
                    thread::spawn(move || serve(index as u64 + 1, stream.unwrap(), &world));
                }
            });
        }
        Self { addresses, world }
    }

    pub(super) fn world(&self) -> parking_lot::MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Waits until it is as somebody's questions have to make it.
    pub(super) fn until(&self, reached: impl Fn(&World) -> bool) {
        let deadline = soon();
        while !reached(&self.world()) {
            assert!(Instant::now() < deadline, "asked were {:?}", self.world().asked);
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn fault(&self, id: u64, fault: Fault) {
        self.world().faults.insert(id, fault);
    }

    pub(super) fn address(&self, id: u64) -> &str {
        &self.addresses[id as usize - 1]
    }

    /// The roles in the letters of `new`, one for each member left.
    pub(super) fn roles(&self) -> String {
        let letter = |member: &Member| match member.role {
            Role::Voter => 'V',
            Role::StandBy => 'S',
            Role::Spare => 'P',
        };
        self.world().members.iter().map(letter).collect()
    }

    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.world().log)
    }
}

fn serve(me: u64, mut stream: TcpStream, world: &Mutex<World>) {
    let fault = world.lock().faults.get(&me).copied();
    match fault {
        Some(Fault::Closes) => return,
        Some(Fault::Babbles) => drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),
        _ => {}
    }
    let mut word = [0; 8];
    let _ = stream.read_exact(&mut word);
    while stream.read_exact(&mut word).is_ok() {
        let header = Header::parse(&word);
        let mut body = vec![0; header.body_len() as usize];
        stream.read_exact(&mut body).unwrap();
        let request = Request::decode(header, &body).unwrap();
        let answer = {
            let mut world = world.lock();
            world.note(me, &request);
            let hangs = world.faults.get(&me) == Some(&Fault::Hangs);
            if hangs {
                Some(Vec::new())
            } else {
                world.answer(me, &request)
            }
        };
        match answer {
            Some(bytes) => drop(stream.write_all(&bytes)),
            None => return,
        }
    }
}

impl World {
    fn note(&mut self, me: u64, request: &Request<'_>) {
        if matches!(request, Request::Leader) {
            *self.asked.entry(me).or_default() += 1;
        }
    }

    /// How often the node was asked who leads.
    pub(super) fn asked(&self, id: u64) -> u32 {
        self.asked.get(&id).copied().unwrap_or(0)
    }

    fn answer(&mut self, me: u64, request: &Request<'_>) -> Option<Vec<u8>> {
        let fault = self.faults.get(&me).copied();
        Some(match *request {
            Request::Leader => {
                let votes = self.member(me).is_some_and(|member| member.role == Role::Voter);
                let id = match fault {
                    Some(Fault::Names(id)) => id,
                    Some(Fault::Ignorant | Fault::Blank) => 0,
                    _ if votes => self.leader,
                    _ => 0,
                };
                let address = self.member(id).map_or(String::new(), |leader| leader.address.clone());
                message(1, |out| {
                    number(id, out);
                    text(&address, out);
                })
            }
            Request::Cluster { .. } => message(3, |out| match fault {
                Some(Fault::Blank) => number(0, out),
                Some(Fault::Elsewhere) => {
                    let founder = self.members.iter().filter(|member| member.id == me);
                    nodes(&founder.chain([&stranger()]).collect::<Vec<_>>(), out);
                }
                _ => {
                    let list = self.outdated.get(&me).unwrap_or(&self.members);
                    nodes(&list.iter().collect::<Vec<_>>(), out);
                }
            }),
            Request::Describe { .. } => message(10, |out| {
                number(self.domains.get(&me).copied().unwrap_or(0), out);
                number(self.weights.get(&me).copied().unwrap_or(0), out);
            }),
            Request::Weight { weight } => {
                self.weights.insert(me, weight);
                empty()
            }
            _ => return self.change(me, request),
        })
    }

    fn change(&mut self, me: u64, request: &Request<'_>) -> Option<Vec<u8>> {
        if me != self.leader {
            return Some(failure(10250, "not leader"));
        }
        if self.busy > 0 {
            self.busy -= 1;
            return Some(failure(5, "a configuration change is already in progress"));
        }
        let refused = self.apply(request);
        if self.lose_answers > 0 {
            self.lose_answers -= 1;
            return None;
        }
        Some(refused.map_or_else(empty, |why| failure(1, why)))
    }

    /// Makes the change, or says why not, in the engine's words.
    fn apply(&mut self, request: &Request<'_>) -> Option<&'static str> {
        match *request {
            Request::Add { id, address } => {
                let address = String::from_utf8(address.to_vec()).unwrap();
                self.log.push(format!("ADD {id}"));
                if self.members.iter().any(|member| member.id == id) {
                    return Some("server ID already in use");
                }
                self.members.push(Member {
                    id,
                    address,
                    role: Role::Spare,
                });
            }
            Request::Assign { id, role } => {
                self.log.push(format!("ASSIGN {id} {role}"));
                let role = Role::try_from(role).unwrap();
                if self.stubborn.contains(&id) {
                    return Some("no connection to remote server available");
                }
                match self.members.iter_mut().find(|member| member.id == id) {
                    Some(member) if member.role != role => member.role = role,
                    _ => return Some("server role is not valid"),
                }
            }
            Request::Remove { id } => {
                self.log.push(format!("REMOVE {id}"));
                if self.member(id).is_none() {
                    return Some("server ID is not valid");
                }
                self.members.retain(|member| member.id != id);
            }
            Request::Transfer { id } => {
                self.log.push(format!("TRANSFER {id}"));
                if self.stubborn.contains(&id) {
                    return Some("leadership transfer failed");
                }
                self.leader = id;
            }
            _ => return Some("what?"),
        }
        None
    }

    fn member(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

fn stranger() -> Member {
    Member {
        id: 77,
        address: "10.9.9.9:9001".to_owned(),
        role: Role::Voter,
    }
}

fn nodes(list: &[&Member], out: &mut Vec<u8>) {
    number(list.len() as u64, out);
    for member in list {
        number(member.id, out);
        text(&member.address, out);
        number(member.role.into(), out);
    }
}

pub(crate) fn message(kind: u8, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    fields(&mut body);
    let mut out = ((body.len() / 8) as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend(body);
    out
}

pub(crate) fn number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn text(value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(value.as_bytes());
    out.resize(
        out.len().next_multiple_of(8) + if value.len().is_multiple_of(8) { 8 } else { 0 },
        0,
    );
}

fn empty() -> Vec<u8> {
    message(8, |out| number(0, out))
}

pub(crate) fn failure(code: u64, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode_failure(code, why, &mut out);
    out
}
