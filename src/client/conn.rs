//! One connection to one node: requests out, responses in, in order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::client::connector::Connector;
use crate::limits;
use crate::memory;
use crate::metrics::{Count, Metrics};
use crate::net::{Cause, Stream, Waker};
use crate::wire::{HEADER_LEN, Header, Malformed, Request, Response, VERSION, When};

/// What a connection starts with, and what it goes back to after a message that was larger than `KEPT`.
const BUFFER: usize = 64 << 10;
const KEPT: usize = 1 << 20;
/// Up to here a body is copied out of the buffer rather than taken with it: a part of many small rows is some 64 KiB.
const COPIED: usize = 128 << 10;

/// A connection on which the protocol was agreed. After a [`Broken`] it is of no use any more.
pub(crate) struct Conn {
    stream: Stream,
    /// Whose bytes these are; None where nobody counts.
    metrics: Option<Arc<Metrics>>,
    /// The version word goes out together with the first request.
    out: Vec<u8>,
    buffer: Vec<u8>,
    /// The part of `buffer` that was received and not consumed.
    filled: Range<usize>,
    /// Where in `buffer` the last message's body lies.
    last: Range<usize>,
    leader: Option<Leader>,
    /// Bytes of the largest response that is taken.
    most: u64,
}

/// Whom a connection leads to as the leader, and who can tell whether it still is.
struct Leader {
    address: String,
    connector: Arc<Connector>,
}

/// The body of a message that was taken out of its connection.
#[derive(Default)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    start: usize,
}

impl Body {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// An answer that is taken piece by piece, because it may be larger than memory should be.
pub(crate) struct Incoming<'a> {
    conn: &'a mut Conn,
    header: Header,
    left: u64,
}

impl Incoming<'_> {
    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// The next bytes of the body; none behind its end.
    pub(crate) fn piece(&mut self, deadline: Instant) -> Result<&[u8], Broken> {
        if self.left == 0 {
            return Ok(&[]);
        }
        self.conn.make_room();
        self.conn.fill(1, deadline)?;
        let there = &mut self.conn.filled;
        let size = usize::try_from(self.left).map_or(there.len(), |left| there.len().min(left));
        let start = there.start;
        there.start += size;
        self.left -= size as u64;
        Ok(&self.conn.buffer[start..start + size])
    }
}

/// A call that got no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The request may have reached the node.
    pub(crate) sent: bool,
    pub(crate) cause: Cause,
    pub(crate) reason: String,
}

impl Conn {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            metrics: None,
            out: VERSION.to_le_bytes().to_vec(),
            buffer: Vec::new(),
            filled: 0..0,
            last: 0..0,
            leader: None,
            most: limits::RESPONSE,
        }
    }

    /// From now on a call that waits for its answer ends when the cluster has another leader: one whose host vanished, or
    /// whose process is paused, never says so itself.
    pub(crate) fn ends_with_lead_of(&mut self, address: &str, connector: &Arc<Connector>) {
        self.leader = Some(Leader {
            address: address.to_owned(),
            connector: Arc::clone(connector),
        });
    }

    /// A connection that is counted, and its bytes.
    pub(crate) fn counted(stream: Stream, metrics: Arc<Metrics>) -> Self {
        metrics.add(Count::Connections, 1);
        Self {
            metrics: Some(metrics),
            ..Self::new(stream)
        }
    }

    fn count(&self, what: Count, bytes: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.add(what, bytes as u64);
        }
    }

    /// Wakes whoever waits on this connection.
    pub(crate) fn waker(&self) -> Waker {
        self.stream.waker()
    }

    /// From now on no response is taken that is larger than so many bytes.
    pub(crate) fn take_at_most(&mut self, bytes: u64) {
        self.most = bytes.min(limits::RESPONSE);
    }

    /// Sends a request and waits for its response.
    pub(crate) fn call(&mut self, request: &Request<'_>, deadline: Instant) -> Result<Response<'_>, Broken> {
        self.send(request, deadline)?;
        self.answer(request.name(), deadline)
    }

    /// Puts a request behind those that `flush` will send; each one's answer has to be read.
    /// Without memory for it nothing is left that waits.
    pub(crate) fn queue(&mut self, request: &Request<'_>, when: When) -> Result<(), Broken> {
        self.make_room_for(request)?;
        request.encode_when(when, &mut self.out);
        Ok(())
    }

    fn make_room_for(&mut self, request: &Request<'_>) -> Result<(), Broken> {
        let size = request.room();
        self.out.try_reserve(size).map_err(|_| {
            self.out.clear();
            no_memory(false, size, request.name())
        })
    }

    /// How many bytes wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.out.len()
    }

    /// The answer to the next request that was sent and not yet answered.
    pub(crate) fn answer(&mut self, name: &str, deadline: Instant) -> Result<Response<'_>, Broken> {
        let (header, body) = self.receive(deadline)?;
        Response::decode(header, &self.buffer[body]).map_err(|fault| garbled(name, &fault))
    }

    /// Like `call` for QUERY and QUERY_SQL, whose failures have a layout of their own.
    pub(crate) fn query(&mut self, request: &Request<'_>, deadline: Instant) -> Result<Response<'_>, Broken> {
        self.send(request, deadline)?;
        self.next_part(deadline)
    }

    /// The part behind one that ended with "more".
    pub(crate) fn next_part(&mut self, deadline: Instant) -> Result<Response<'_>, Broken> {
        let (header, body) = self.receive(deadline)?;
        Response::decode_query(header, &self.buffer[body]).map_err(|fault| garbled("a query", &fault))
    }

    /// Sends a request and waits for the header of its response. The whole body has to be taken.
    pub(crate) fn begin(&mut self, request: &Request<'_>, deadline: Instant) -> Result<Incoming<'_>, Broken> {
        self.send(request, deadline)?;
        let header = self.header(deadline)?;
        self.filled.start += HEADER_LEN;
        Ok(Incoming {
            conn: self,
            header,
            left: header.body_len(),
        })
    }

    /// Moves the body of the last message out: a small one is copied, a large one goes with its buffer.
    pub(crate) fn take_body(&mut self, into: &mut Body) -> Result<(), Broken> {
        let last = std::mem::take(&mut self.last);
        if last.len() <= COPIED {
            into.bytes.clear();
            into.bytes.shrink_to(COPIED);
            into.bytes.extend_from_slice(&self.buffer[last]);
            into.start = 0;
            return Ok(());
        }
        let rest = &self.buffer[self.filled.clone()];
        let copied = memory::copy(rest, "what came behind the rows");
        let rest = copied.map_err(|_| no_memory(true, self.filled.len(), "what came behind the rows"))?;
        into.bytes = std::mem::take(&mut self.buffer);
        into.bytes.truncate(last.end);
        into.start = last.start;
        self.filled = 0..rest.len();
        self.buffer = rest.into_vec();
        Ok(())
    }

    /// Sends a request; its answer has to be read.
    pub(crate) fn send(&mut self, request: &Request<'_>, deadline: Instant) -> Result<(), Broken> {
        self.make_room_for(request)?;
        request.encode(&mut self.out);
        if self.took_shortcut() {
            return Ok(());
        }
        // Seen before a byte was written, it is certain that the request did not run. What nobody has asked for, the last words
        // of a node that ends the connection for one, would be read as its answer.
        let spoke = match self.stream.was_just_heard() {
            _ if !self.filled.is_empty() => Some(true),
            true => None,
            false => self.stream.speaks(),
        };
        let (cause, reason) = match spoke {
            None => return self.flush(request.name(), deadline),
            Some(true) => (Cause::Other, "the node says what nobody has asked for"),
            Some(false) => (Cause::Closed, "the node has closed the connection"),
        };
        self.out.clear();
        Err(Broken {
            sent: false,
            cause,
            reason: reason.to_owned(),
        })
    }

    /// True: the other end, in this process, has begun with the request, and has often answered it already.
    fn took_shortcut(&mut self) -> bool {
        if !self.stream.has_shortcut() || !self.filled.is_empty() || self.out.len() > BUFFER {
            return false;
        }
        self.make_room();
        if self.buffer.is_empty() {
            if self.buffer.try_reserve_exact(BUFFER).is_err() {
                return false;
            }
            self.buffer.resize(BUFFER, 0);
        }
        let Some(came) = self.stream.ask(&self.out, &mut self.buffer) else {
            return false;
        };
        self.filled = 0..came;
        self.count(Count::BytesReceived, came);
        self.count(Count::BytesSent, self.out.len());
        self.out.clear();
        true
    }

    /// Sends what is queued.
    pub(crate) fn flush(&mut self, name: &str, deadline: Instant) -> Result<(), Broken> {
        let sent = self.stream.write_all(&self.out, deadline);
        self.count(Count::BytesSent, self.out.len());
        self.out.clear();
        if self.out.capacity() > KEPT {
            self.out.shrink_to(BUFFER);
        }
        sent.map_err(|error| Broken {
            sent: true,
            cause: Cause::of(&error),
            reason: format!("sending {name}: {error}"),
        })
    }

    /// The next message, as its header and where in the buffer its body lies.
    fn receive(&mut self, deadline: Instant) -> Result<(Header, Range<usize>), Broken> {
        let header = self.header(deadline)?;
        let length = usize::try_from(header.body_len()).unwrap_or(usize::MAX);
        if header.body_len() > self.most {
            return Err(Broken {
                sent: true,
                cause: Cause::TooLong,
                reason: format!(
                    "the node announced a response of {length} bytes, more than the {} to be taken",
                    self.most
                ),
            });
        }
        self.fill(HEADER_LEN + length, deadline)?;
        let body = self.filled.start + HEADER_LEN..self.filled.start + HEADER_LEN + length;
        self.filled.start = body.end;
        self.last = body.clone();
        Ok((header, body))
    }

    /// The header of the next message, which stays where it is.
    fn header(&mut self, deadline: Instant) -> Result<Header, Broken> {
        self.make_room();
        self.fill(HEADER_LEN, deadline)?;
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&self.buffer[self.filled.start..self.filled.start + HEADER_LEN]);
        Ok(Header::parse(&bytes))
    }

    fn make_room(&mut self) {
        if self.filled.is_empty() {
            self.filled = 0..0;
            if self.buffer.len() > KEPT {
                self.buffer.truncate(BUFFER);
                self.buffer.shrink_to_fit();
            }
        }
    }

    /// Receives until `needed` bytes are there. The buffer grows with what came, not with what was announced.
    fn fill(&mut self, needed: usize, deadline: Instant) -> Result<(), Broken> {
        while self.filled.len() < needed {
            if self.buffer.len() - self.filled.start < needed && self.filled.start > 0 {
                self.buffer.copy_within(self.filled.clone(), 0);
                self.filled = 0..self.filled.len();
            }
            if self.filled.end == self.buffer.len() {
                let larger = (self.buffer.len() * 2).clamp(BUFFER, needed.max(BUFFER));
                let room = self.buffer.try_reserve_exact(larger - self.buffer.len());
                room.map_err(|_| no_memory(true, larger, "the answer"))?;
                self.buffer.resize(larger, 0);
            }
            let came = self.read(deadline)?;
            self.filled.end += came;
            self.count(Count::BytesReceived, came);
        }
        Ok(())
    }

    /// What is there, once something is. Waits in slices, to see between them whether there is still somebody to wait for.
    fn read(&mut self, deadline: Instant) -> Result<usize, Broken> {
        loop {
            let slice = match self.leader {
                Some(_) => deadline.min(Instant::now() + limits::LEADER_LOOK),
                None => deadline,
            };
            let error = match self.stream.read_some(&mut self.buffer[self.filled.end..], slice) {
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            let cause = Cause::of(&error);
            let broken = |cause, reason| Broken {
                sent: true,
                cause,
                reason,
            };
            return Err(match cause {
                Cause::TimedOut if slice < deadline => match self.successor(deadline) {
                    Some(other) => broken(Cause::Closed, format!("the node leads no more, {other} does")),
                    None => continue,
                },
                Cause::TimedOut => broken(cause, "no answer before the deadline".to_owned()),
                Cause::Closed => broken(cause, "the node closed the connection".to_owned()),
                Cause::Woken => broken(cause, "the call was ended by another thread".to_owned()),
                Cause::TooLong | Cause::NoMemory | Cause::Other => broken(cause, format!("receiving: {error}")),
            });
        }
    }

    fn successor(&self, deadline: Instant) -> Option<String> {
        let leader = self.leader.as_ref()?;
        // Where its answer came meanwhile there is no need to ask those who may not answer.
        let waits = || self.stream.speaks().is_none();
        leader.connector.successor(&leader.address, waits, deadline)
    }
}

fn garbled(request: &str, fault: &Malformed) -> Broken {
    Broken {
        sent: true,
        cause: Cause::Other,
        reason: format!("the answer to {request} makes no sense: {fault}"),
    }
}

/// The host lives on without its answer.
fn no_memory(sent: bool, bytes: usize, what: &str) -> Broken {
    Broken {
        sent,
        cause: Cause::NoMemory,
        reason: memory::none_for(bytes, what).message().to_owned(),
    }
}
