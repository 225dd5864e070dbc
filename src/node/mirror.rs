//! A node that listens elsewhere than at its address: whether what is sent to the address comes to it. If another process
//! answers there, the members would speak to that one, whatever it is, and count this one as theirs.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Conn, members};
use crate::error::{Error, Result};
use crate::net::{Address, Stream};
use crate::node::instance::Instance;
use crate::wire::{Request, VERSION};

/// How long each of both questions may take; on the way there may be more than one host.
const LOOK: Duration = Duration::from_millis(500);

/// Knows a link to this node that the node itself has opened.
pub(crate) struct Mirror {
    /// What such a link gives for an id.
    word: u64,
    seen: AtomicBool,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        Self {
            word: RandomState::new().hash_one(()),
            seen: AtomicBool::new(false),
        }
    }

    /// Whether it is one. There is nothing to be said on it.
    pub(crate) fn sees(&self, id: u64) -> bool {
        let own = id == self.word;
        self.seen.fetch_or(own, Ordering::AcqRel);
        own
    }

    fn has_seen(&self) -> bool {
        self.seen.load(Ordering::Acquire)
    }
}

/// Refuses a node behind whose address another one is. Where nobody answers it may be a way that others can go.
pub(crate) fn check(node: &Instance) -> Result<()> {
    let (mirror, me, Some(bind)) = (node.watch().mirror(), node.me(), &node.config().bind) else {
        return Ok(());
    };
    let address = Address::parse_peer(&me.address, "address")?;
    if !mirror.has_seen() {
        look(mirror.word, &me.address, &address);
    }
    let somebody = !mirror.has_seen() && answers(&address);
    // A door of ours that was slow to look at the link has come to it before it let the question in.
    if !somebody || mirror.has_seen() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "node {} cannot have the address {}: another node answers there, while this one listens at {bind}. Stop that one, \
         or give this one an address of its own (or an id of its own, if that is what they share)",
        me.id, me.address
    )))
}

/// Opens a link to the address, and waits for its end: whoever is there does not let it in.
fn look(word: u64, name: &str, address: &Address) {
    let deadline = Instant::now() + LOOK;
    let mut bytes = VERSION.to_le_bytes().to_vec();
    Request::Connect {
        id: word,
        address: name.as_bytes(),
    }
    .encode(&mut bytes);
    // What goes wrong is no answer either.
    if let Ok(stream) = Stream::connect(address, deadline)
        && stream.write_all(&bytes, deadline).is_ok()
    {
        let _ = stream.read_some(&mut [0; 8], deadline);
    }
}

/// Whether a node is there, of any cluster or none.
fn answers(address: &Address) -> bool {
    let deadline = Instant::now() + LOOK;
    Stream::connect(address, deadline)
        .and_then(|stream| members(&mut Conn::new(stream), deadline))
        .is_ok()
}
