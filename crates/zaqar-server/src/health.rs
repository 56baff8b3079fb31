//! `zaqar-server health`: asks the server that the configuration describes, for health checks of
//! containers, which have no other HTTP client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::config::Settings;

/// The timeout of each step: connecting, and every read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the answer that are read.
const MAX_ANSWER: u64 = 16 * 1024;

/// The request to send.
struct Probe<'a> {
    host: &'a str,
    port: u16,
    path: &'a str,
    /// Whether a status means that the server is healthy.
    is_well: fn(u16) -> bool,
}

/// Asks the first available listener: the operators' one whether the server is ready, HTTP for a
/// ping, WebSocket for any answer.
///
/// # Errors
/// Why the server is not healthy, as text.
pub(crate) fn ask(settings: &Settings) -> Result<String, String> {
    let probe = probe(settings)?;
    let (host, port) = (probe.host, probe.port);
    let (status, said) =
        get(&probe).map_err(|error| format!("{host} port {port} does not answer: {error}"))?;
    let text = format!("{host} port {port}: GET {} is {status}", probe.path);
    if (probe.is_well)(status) { Ok(text) } else { Err(format!("{text}\n{said}")) }
}

fn probe(settings: &Settings) -> Result<Probe<'_>, String> {
    if let Some(admin) = &settings.admin {
        let (host, port) = (admin.bind.as_str(), admin.port);
        return Ok(Probe { host, port, path: "/ready", is_well: |status| status == 200 });
    }
    let has = |name: &str| settings.drivers.transports.iter().any(|transport| transport == name);
    if has("wsgi") {
        let (host, port) = (settings.wsgi.bind.as_str(), settings.wsgi.port);
        // A server that requires tokens answers 401 without checking its stores.
        return Ok(Probe { host, port, path: "/v2/ping", is_well: |status| status < 500 });
    }
    if has("websocket") {
        let (host, port) = (settings.websocket.bind.as_str(), settings.websocket.port);
        return Ok(Probe { host, port, path: "/", is_well: |status| status < 500 });
    }
    Err("there is no listener to ask: set [admin] port".to_owned())
}

/// The status and body of the answer.
fn get(probe: &Probe<'_>) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address(probe)?, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let path = probe.path;
    let client = "Client-ID: 00000000-0000-4000-8000-000000000000\r\nX-Project-ID: health";
    let head = format!("Host: localhost\r\n{client}\r\nConnection: close");
    write!(stream, "GET {path} HTTP/1.1\r\n{head}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// The address to connect to for a listening address: "any address" becomes this machine.
fn address(probe: &Probe<'_>) -> io::Result<SocketAddr> {
    let found = (probe.host, probe.port).to_socket_addrs()?.next();
    let mut address = found.ok_or_else(|| io::Error::other("the host has no address"))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nwhy\n";
        assert_eq!(parse(answer), Some((503, "why".to_owned())));
        for text in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn any_address_means_this_machine() {
        for (host, expected) in
            [("0.0.0.0", "127.0.0.1:7"), ("::", "[::1]:7"), ("192.0.2.1", "192.0.2.1:7")]
        {
            let probe = Probe { host, port: 7, path: "/", is_well: |_| true };
            assert_eq!(address(&probe).unwrap().to_string(), expected);
        }
    }
}
