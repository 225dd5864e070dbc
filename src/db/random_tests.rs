//! Sessions at leaders that fail at random, and what they say of it held against what the leaders keep: what was made is there
//! once, what was not made is not there, and only what is not known is one or the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::client::fake_tests::{failure, message, number};
use crate::db::fake_tests::*;
use crate::net::parse_csv;
use crate::wire::Request;

/// Numbers without an order, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// A connection as the leader has it.
#[derive(Default)]
struct Side {
    /// It looks at conditions, as our engine does.
    heeds: bool,
    /// The lead was lost meanwhile, and with it what the connection had.
    dead: bool,
    inside: bool,
    open: Vec<u64>,
    /// Where in `open` the batch's savepoint is.
    savepoint: Option<usize>,
    prepared: Vec<String>,
}

struct World {
    dice: Dice,
    sides: HashMap<usize, Side>,
    kept: HashMap<u64, u32>,
    /// Of a hundred requests so many go wrong.
    faults: u64,
}

impl Side {
    fn end(&mut self) {
        (self.inside, self.savepoint) = (false, None);
        self.open.clear();
    }
}

/// What a request does where nothing goes wrong.
fn apply(side: &mut Side, kept: &mut HashMap<u64, u32>, sql: &str, ids: &[u64]) -> Vec<u8> {
    let keep = |kept: &mut HashMap<u64, u32>, ids: &[u64]| ids.iter().for_each(|id| *kept.entry(*id).or_default() += 1);
    match sql {
        QUESTION => return failure(1, "no such savepoint: dqlitepy_nowhere"),
        "BEGIN" | "BEGIN DEFERRED" | "BEGIN IMMEDIATE" if side.inside => {
            return failure(1, "cannot start a transaction within a transaction");
        }
        "BEGIN" | "BEGIN DEFERRED" | "BEGIN IMMEDIATE" => side.inside = true,
        "COMMIT" | "ROLLBACK" if !side.inside => return failure(1, "no transaction is active"),
        "COMMIT" => {
            keep(kept, &side.open);
            side.end();
        }
        "ROLLBACK" => side.end(),
        "SAVEPOINT dqlitepy_batch" => side.savepoint = Some(side.open.len()),
        "RELEASE dqlitepy_batch" => side.savepoint = None,
        "ROLLBACK TO dqlitepy_batch" => side.open.truncate(side.savepoint.unwrap_or_default()),
        _ if side.inside => side.open.extend(ids),
        _ => keep(kept, ids),
    }
    result(ids.len() as u64)
}

impl World {
    fn answer(&mut self, connection: usize, request: &Request<'_>, when: u8) -> (Option<Vec<u8>>, Duration) {
        let at_once = |bytes| (Some(bytes), Duration::ZERO);
        let heeds = self.dice.below(2) == 0;
        let side = self.sides.entry(connection).or_insert_with(|| Side {
            heeds,
            ..Side::default()
        });
        if side.dead {
            return at_once(failure(if when == 0 { 10250 } else { 12 }, "not leader"));
        }
        if side.heeds && ((when == 1 && !side.inside) || (when == 2 && side.inside)) {
            return at_once(failure(12, "not wanted in this state of the transaction"));
        }
        let (text, values) = match *request {
            Request::Prepare { sql, .. } => {
                let text = std::str::from_utf8(sql).unwrap();
                side.prepared.push(text.to_owned());
                let parameters = text.matches('?').count() as u64;
                return at_once(statement(side.prepared.len() as u64 - 1, parameters));
            }
            Request::Exec { stmt, params, .. } | Request::Query { stmt, params, .. } => {
                (side.prepared[stmt as usize].clone(), params.iter().collect())
            }
            Request::Finalize { .. } => return at_once(message(8, |out| number(0, out))),
            ref other => (sql(other).to_owned(), Vec::new()),
        };
        let mut ids: Vec<u64> = text
            .split(['(', ')', ',', ' '])
            .filter_map(|word| word.parse().ok())
            .collect();
        ids.extend(values.iter().filter_map(|value| match value {
            Value::Integer(id) => Some(*id as u64),
            _ => None,
        }));
        let yields = matches!(request, Request::Query { .. } | Request::QuerySql { .. });
        self.run(connection, &text, &ids, yields)
    }

    fn run(&mut self, connection: usize, text: &str, ids: &[u64], yields: bool) -> (Option<Vec<u8>>, Duration) {
        let wrong = self.dice.below(100) < self.faults;
        let (fault, with_effect) = (self.dice.below(13), self.dice.below(2) == 0);
        let Some(side) = self.sides.get_mut(&connection) else {
            unreachable!()
        };
        if text == NUMBERS || text.starts_with("SELECT") {
            let zeros = if text == NUMBERS { &[0, 0][..] } else { &[0] };
            return (Some(rows(zeros.len(), zeros, COMPLETE)), Duration::ZERO);
        }
        let mut done = Duration::ZERO;
        let answered = |bytes: Vec<u8>| match yields && bytes[4] == 6 {
            true => rows(1, ids, COMPLETE),
            false => bytes,
        };
        let behind = |answer: Vec<u8>| match yields {
            true => [rows(1, ids, MORE), answer].concat(),
            false => answer,
        };
        let lost = |side: &mut Side, kept: &mut HashMap<u64, u32>| {
            if with_effect {
                apply(side, kept, text, ids);
            }
            side.end();
            side.dead = true;
        };
        let answer = match fault {
            _ if !wrong => Some(answered(apply(side, &mut self.kept, text, ids))),
            0 => None,
            1 => {
                apply(side, &mut self.kept, text, ids);
                None
            }
            2 => {
                side.end();
                side.dead = true;
                Some(if with_effect {
                    failure(10250, "not leader")
                } else {
                    failure(12, "no database opened")
                })
            }
            3 => {
                side.end();
                side.dead = true;
                Some(behind(failure(10250, "not leader")))
            }
            4 => {
                lost(side, &mut self.kept);
                Some(behind(failure(10506, "leadership lost")))
            }
            5 => {
                lost(side, &mut self.kept);
                Some(failure(10, "leader exec failed"))
            }
            6 => Some(failure(5, "database is locked")),
            7 => Some(behind(failure(5, "database is locked"))),
            // ON CONFLICT ROLLBACK, and ABORT.
            8 if text.starts_with("INSERT") => {
                side.end();
                Some(behind(failure(2067, "UNIQUE constraint failed: t.a")))
            }
            9 if text.starts_with("INSERT") => Some(failure(2067, "UNIQUE constraint failed: t.a")),
            10 => {
                done = LATE;
                Some(answered(apply(side, &mut self.kept, text, ids)))
            }
            11 => {
                apply(side, &mut self.kept, text, ids);
                Some(message(10, |out| [0, 0].iter().for_each(|word| number(*word, out))))
            }
            _ => Some([answered(apply(side, &mut self.kept, text, ids)), result(99)].concat()),
        };
        (answer, done)
    }
}

const PATIENCE_MS: u32 = 400;
const LATE: Duration = Duration::from_millis(500);

/// What was said of statements.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Made,
    NotMade,
    Unknown,
}

fn said<T>(outcome: &Result<T>) -> Said {
    match outcome {
        Ok(_) => Said::Made,
        Err(error) if error.kind() == Kind::Unknown => Said::Unknown,
        Err(error) => {
            assert_ne!(error.kind(), Kind::Shutdown, "{error}");
            Said::NotMade
        }
    }
}

struct Record {
    next: AtomicU64,
    said: Mutex<Vec<(Vec<u64>, Said)>>,
}

impl Record {
    fn ids(&self, count: u64) -> Vec<u64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first..first + count).collect()
    }

    fn note(&self, ids: Vec<u64>, said: Said) {
        self.said.lock().push((ids, said));
    }
}

fn insert(ids: &[u64]) -> String {
    let values: Vec<String> = ids.iter().map(|id| format!("({id})")).collect();
    format!("INSERT INTO t VALUES {}", values.join(", "))
}

fn batch(session: &Arc<SharedSession>, ids: &[u64]) -> Result<()> {
    let (Some(statement), _) = session.prepare("INSERT INTO t VALUES (?)")? else {
        unreachable!()
    };
    for id in ids {
        statement.bind(1, Value::Integer(*id as i64))?;
        statement.add_batch()?;
    }
    statement.exec_batch().map(drop)
}

fn returning(session: &Arc<SharedSession>, ids: &[u64]) -> Result<()> {
    let rows = session.query(&format!("{} RETURNING a", insert(ids)))?;
    while rows.step()? == Next::Row {}
    Ok(())
}

/// One of the ways to write.
fn write(session: &Arc<SharedSession>, dice: &mut Dice, ids: &[u64]) -> Result<()> {
    match dice.below(4) {
        0 => session.exec(&insert(ids)).map(drop),
        1 => session.exec(&format!("{} RETURNING a", insert(ids))).map(drop),
        2 => returning(session, ids),
        _ => batch(session, ids),
    }
}

/// A transaction of some writes, and what it is said to have come to.
fn transaction(session: &Arc<SharedSession>, dice: &mut Dice, record: &Record) {
    let mut inside = Vec::new();
    let mut going = session.begin(Mode::Immediate).is_ok();
    for _ in 0..dice.below(5) {
        let ids = record.ids(1 + dice.below(3));
        if !going {
            break;
        }
        match write(session, dice, &ids) {
            Ok(()) => inside.extend(ids),
            Err(_) => record.note(ids, Said::NotMade),
        }
        // Some errors end a transaction; what follows would stand alone.
        going = session.in_transaction().unwrap();
    }
    let ended = match going {
        true => said(&session.commit()),
        false => Said::NotMade,
    };
    record.note(inside, ended);
    // Refused, and so still open; or lost, by this one too.
    while session.in_transaction().unwrap() {
        let _ = session.rollback();
    }
}

/// Ends the thread that interrupts, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one_session(address: &str, seed: u64, rounds: u32, record: &Record) {
    let mut dice = Dice(seed);
    let session = session(address, PATIENCE_MS);
    session.set_busy_timeout(Duration::from_millis(50)).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(seed + 1);
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(dice.below(20_000)));
                session.interrupt().unwrap();
            }
        });
        let _end = End(&over);
        for _ in 0..rounds {
            if dice.below(3) == 0 {
                transaction(&session, &mut dice, record);
            } else {
                let ids = record.ids(1 + dice.below(4));
                let outcome = write(&session, &mut dice, &ids);
                record.note(ids, said(&outcome));
            }
        }
    });
}

/// Writers of one handle, who are committed together.
fn group(address: &str, seed: u64, rounds: u32, record: &Record) {
    let connector = Arc::new(Connector::new(None, parse_csv(address).unwrap()));
    let deadline = || Instant::now() + Duration::from_millis(PATIENCE_MS.into());
    let busy = Duration::from_millis(50);
    let Ok(database) = Database::open("test.db", connector, Arc::default(), busy, deadline()) else {
        return;
    };
    thread::scope(|scope| {
        for writer in 0..4 {
            let database = &database;
            scope.spawn(move || {
                let mut dice = Dice(seed + writer);
                for _ in 0..rounds {
                    let ids = record.ids(1 + dice.below(2));
                    let outcome = match dice.below(4) {
                        0 => database
                            .query(&format!("{} RETURNING a", insert(&ids)), deadline())
                            .map(|json| {
                                let counted = json.iter().filter(|byte| **byte == b'{').count();
                                assert_eq!(counted, ids.len(), "rows that come twice");
                            }),
                        _ => database.exec(&insert(&ids), deadline()).map(drop),
                    };
                    record.note(ids, said(&outcome));
                }
            });
        }
    });
}

#[test]
fn what_is_said_of_writes_is_so() {
    // OUTCOMES=1000 cargo test ... for as many.
    let seeds = std::env::var("OUTCOMES").map_or(3, |count| count.parse().unwrap());
    for (seed, faults) in (7..7 + seeds).zip([5, 15, 40].into_iter().cycle()) {
        let world = Arc::new(Mutex::new(World {
            dice: Dice(seed),
            sides: HashMap::new(),
            kept: HashMap::new(),
            faults,
        }));
        let leaders = Arc::clone(&world);
        let address = leader_when(move |connection, request, when| {
            let (answer, late) = leaders.lock().answer(connection, request, when);
            thread::sleep(late);
            answer
        });
        let record = Record {
            next: AtomicU64::new(1),
            said: Mutex::default(),
        };
        thread::scope(|scope| {
            scope.spawn(|| one_session(&address, seed + 100, 300, &record));
            scope.spawn(|| group(&address, seed + 200, 60, &record));
        });
        let (world, said) = (world.lock(), record.said.into_inner());
        let mut counts = [0; 3];
        for (ids, said) in &said {
            let there: Vec<u32> = ids.iter().map(|id| world.kept.get(id).copied().unwrap_or(0)).collect();
            let so = match said {
                Said::Made => there.iter().all(|count| *count == 1),
                Said::NotMade => there.iter().all(|count| *count == 0),
                Said::Unknown => there.iter().all(|count| *count == 0) || there.iter().all(|count| *count == 1),
            };
            assert!(
                so,
                "seed {seed}: {said:?} is said of {ids:?}, which are there {there:?} times"
            );
            counts[*said as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        eprintln!("seed {seed}: made, not made, unknown: {counts:?}");
    }
}
