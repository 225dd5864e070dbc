//! Network addresses as people write them: `1.2.3.4:9001`, `[::1]:9001`, `db1.example:9001`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::net::sys;

const FORMS: &str = "write host:port, for example 127.0.0.1:9001, [::1]:9001 or db1.example.com:9001";

/// A resolver that never answers keeps its thread; more than this many are a sign that asking again
/// is no use.
const MAX_RESOLVERS: usize = 32;
static RESOLVERS: AtomicUsize = AtomicUsize::new(0);

/// A checked address. Prints as it was written, because nodes know each other by that text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    text: String,
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Address {
    /// An address to dial: it needs a real port and a real host.
    pub(crate) fn parse_peer(text: &str, what: &str) -> Result<Self> {
        let address = Self::parse_node(text, what)?;
        if address.port == 0 {
            return Err(refuse(text, what, "port 0 cannot be dialled"));
        }
        Ok(address)
    }

    /// An address under which others reach a node that listens on it; port 0 lets the kernel
    /// choose.
    pub(crate) fn parse_node(text: &str, what: &str) -> Result<Self> {
        let address = Self::parse_listen(text, what)?;
        if address.is_unspecified() {
            return Err(Error::invalid(format!(
                "{what} {text:?} means every interface, which no other node can dial: \
                 give the address at which the others reach this node, \
                 and set_bind_address to listen on every interface"
            )));
        }
        Ok(address)
    }

    /// An address to listen on: port 0 and the unspecified hosts are welcome.
    pub(crate) fn parse_listen(text: &str, what: &str) -> Result<Self> {
        split(text.trim())
            .and_then(|(host, port)| {
                Ok(Self {
                    text: text.trim().to_owned(),
                    host: parse_host(host)?,
                    port: parse_port(port)?,
                })
            })
            .map_err(|reason| refuse(text, what, &reason))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The host part as written, without brackets: the name to verify in TLS.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The same host with another port, for a listener that let the kernel choose.
    pub(crate) fn with_port(&self, port: u16) -> Self {
        let host = self.text.rsplit_once(':').map_or("", |(host, _)| host);
        Self {
            text: format!("{host}:{port}"),
            host: self.host.clone(),
            port,
        }
    }

    pub(crate) fn is_unspecified(&self) -> bool {
        matches!(self.host, Host::Ip(ip) if ip.is_unspecified())
    }

    /// The numeric address, where no resolver is needed.
    #[cfg(test)]
    pub(crate) fn numeric(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// The socket addresses behind this address, at least one.
    pub(crate) fn resolve(&self, deadline: Instant) -> Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => look_up(name, deadline, {
                let (name, port) = (name.clone(), self.port);
                move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter)
            }),
        }
    }
}

/// The C library's resolver has no deadline, so it runs on a thread that may be left behind.
fn look_up(
    name: &str,
    deadline: Instant,
    resolver: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>> {
    if RESOLVERS.fetch_add(1, Ordering::Relaxed) >= MAX_RESOLVERS {
        RESOLVERS.fetch_sub(1, Ordering::Relaxed);
        return Err(Error::new(
            Kind::Timeout,
            format!("resolving {name:?}: {MAX_RESOLVERS} earlier look-ups still wait for an answer"),
        ));
    }
    let (answer, waiting) = mpsc::sync_channel(1);
    let started = sys::spawn("dqlite-resolve", move || {
        let found = resolver();
        RESOLVERS.fetch_sub(1, Ordering::Relaxed);
        let _ = answer.send(found);
    });
    if let Err(error) = started {
        RESOLVERS.fetch_sub(1, Ordering::Relaxed);
        return Err(Error::internal(format!("no thread to resolve {name:?}: {error}")));
    }
    let (kind, reason) = match waiting.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(found)) if !found.is_empty() => return Ok(found),
        Ok(Ok(_)) => (Kind::Invalid, "it has no address".to_owned()),
        Ok(Err(error)) => (Kind::Invalid, error.to_string()),
        Err(RecvTimeoutError::Timeout) => (Kind::Timeout, "no answer before the deadline".to_owned()),
        Err(RecvTimeoutError::Disconnected) => (Kind::Internal, "the look-up failed".to_owned()),
    };
    Err(Error::new(kind, format!("resolving the host name {name:?}: {reason}")))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A comma-separated list of addresses to dial: without duplicates, in the order given, at least
/// one.
pub(crate) fn parse_csv(csv: &str) -> Result<Vec<Address>> {
    let mut list: Vec<Address> = Vec::new();
    for (index, entry) in csv.split(',').enumerate() {
        if entry.trim().is_empty() {
            continue;
        }
        let what = format!("entry {} of the address list,", index + 1);
        let address = Address::parse_peer(entry, &what)?;
        if !list.contains(&address) {
            list.push(address);
        }
    }
    if list.is_empty() {
        return Err(Error::invalid(format!(
            "the address list {csv:?} names no address: {FORMS}, separated by commas"
        )));
    }
    Ok(list)
}

fn refuse(text: &str, what: &str, reason: &str) -> Error {
    Error::invalid(format!("{what} {text:?}: {reason}; {FORMS}"))
}

type Checked<T> = std::result::Result<T, String>;

fn split(text: &str) -> Checked<(&str, &str)> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.starts_with('@') {
        return Err("it names an abstract Unix socket, which only its own process could reach".into());
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it contains a blank or a control character".into());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
        let port = rest.strip_prefix(':').ok_or("there is no port after the bracket")?;
        if host.contains('%') {
            return Err("an IPv6 zone has a meaning on one host only".into());
        }
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is not an IPv6 address"));
        }
        return Ok((host, port));
    }
    let (host, port) = text.rsplit_once(':').ok_or("there is no port")?;
    if host.contains(':') {
        return Err("an IPv6 address needs brackets, and a port after them".into());
    }
    Ok((host, port))
}

fn parse_port(port: &str) -> Checked<u16> {
    if port.is_empty() {
        return Err("there is no port after the colon".into());
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("the port {port:?} is not a number"));
    }
    port.parse()
        .map_err(|_| format!("the port {port} is larger than 65535"))
}

fn parse_host(host: &str) -> Checked<Host> {
    if host.is_empty() {
        return Err("there is no host before the port".into());
    }
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    // Resolvers read 1.2.3 or 010.0.0.1 in ways of their own; nobody who writes them means that.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("{host:?} is not an IPv4 address"));
    }
    match bad_name(host) {
        None => Ok(Host::Name(host.to_owned())),
        Some(reason) => Err(format!("the host name {host:?} {reason}")),
    }
}

fn bad_name(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("is longer than 253 characters");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        if label.is_empty() || label.len() > 63 {
            return Some("has a part that is empty or longer than 63 characters");
        }
        if !label.bytes().all(allowed) {
            return Some("has characters other than letters, digits, '-', '_' and '.'");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("has a part that starts or ends with '-'");
        }
    }
    None
}

#[cfg(test)]
#[path = "addr_tests.rs"]
mod tests;
