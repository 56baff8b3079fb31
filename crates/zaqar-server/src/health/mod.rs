//! `zaqar-server health`: asks the server that the configuration describes, for health checks of
//! containers, which have no other HTTP client.

mod connection;
mod websocket;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use zaqar_core::limits::ClientIds;
use zaqar_transport::TlsFiles;

use crate::config::Settings;
use connection::{Connected, Duplex, connect};

/// Bytes of the answer that are read.
const MAX_ANSWER: u64 = 16 * 1024;
/// The caller of the requests. An id of another length repeats or cuts this one.
const CLIENT: &str = "00000000-0000-4000-8000-000000000000";
const PROJECT: &str = "health";

/// Where a server listens, and what it is asked there.
struct Probe<'a> {
    place: Place<'a>,
    /// The server's own files, if it serves TLS there.
    tls: Option<&'a TlsFiles>,
    question: Question,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Tcp { host: &'a str, port: u16 },
    Unix(&'a Path),
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// The operators' listener, whether the server is ready.
    Ready,
    /// HTTP, for a ping, which asks the stores.
    Ping,
    /// WebSocket, for the same.
    PingNode,
}

/// The status and body of an answer.
type Answer = (u16, String);

/// Asks the first available listener: the operators' one whether the server is ready, HTTP or
/// WebSocket for a ping.
///
/// # Errors
/// Why the server is not healthy, as text.
pub(crate) fn ask(settings: &Settings) -> Result<String, String> {
    let probe = probe(settings)?;
    let Probe { place, tls, question } = &probe;
    let failed = |error: io::Error| format!("{place} does not answer: {error}");
    let mut stream = match connect(place, *tls).map_err(failed)? {
        Connected::Open(stream) => stream,
        Connected::CertificateRequired => {
            return Ok(format!(
                "{place}: TLS is served, with the certificate of cert_file; clients need \
                 certificates, so no request was sent, and no store was asked"
            ));
        }
    };
    let client = client_id(settings.limits.client_ids);
    let answer = match question {
        Question::PingNode => websocket::ping(&mut *stream, &client),
        Question::Ready | Question::Ping => get(&mut *stream, question.path(), &client),
    };
    question.judge(place, answer.map_err(failed)?)
}

fn probe(settings: &Settings) -> Result<Probe<'_>, String> {
    if let Some(admin) = &settings.admin {
        let place = Place::Tcp { host: &admin.bind, port: admin.port };
        return Ok(Probe { place, tls: None, question: Question::Ready });
    }
    let has = |name: &str| settings.drivers.transports.iter().any(|transport| transport == name);
    let place = |unix_socket, host, port| match unix_socket {
        Some(path) => Place::Unix(path),
        None => Place::Tcp { host, port },
    };
    if has("wsgi") {
        let own = &settings.wsgi;
        let place = place(own.unix_socket.as_deref(), own.bind.as_str(), own.port);
        return Ok(Probe { place, tls: own.tls.as_ref(), question: Question::Ping });
    }
    if has("websocket") {
        let own = &settings.websocket;
        let place = place(own.unix_socket.as_deref(), own.bind.as_str(), own.port);
        return Ok(Probe { place, tls: own.tls.as_ref(), question: Question::PingNode });
    }
    Err("there is no listener to ask: set [admin] port".to_owned())
}

/// An id that the configuration accepts.
fn client_id(accepted: ClientIds) -> String {
    match accepted {
        ClientIds::Strict => CLIENT.to_owned(),
        ClientIds::Off { min, max } => {
            CLIENT.chars().cycle().take(CLIENT.len().clamp(min, max)).collect()
        }
    }
}

impl Question {
    const fn path(self) -> &'static str {
        match self {
            Self::Ready => "/ready",
            Self::Ping => "/v2/ping",
            Self::PingNode => "/",
        }
    }

    /// What an answer says about the server.
    fn judge(self, place: &Place<'_>, (status, said): Answer) -> Result<String, String> {
        let asked = match self {
            Self::Ready | Self::Ping => format!("GET {}", self.path()),
            Self::PingNode => "ping_node".to_owned(),
        };
        let text = format!("{place}: {asked} is {status}");
        match (self, status) {
            (Self::Ready, 200) | (Self::Ping | Self::PingNode, 204) => Ok(text),
            // It needs a token, or the policy allows it to few.
            (Self::Ping | Self::PingNode, 401 | 403) => {
                Ok(format!("{text}: the server answers; no store was asked"))
            }
            _ => Err(format!("{text}\n{said}")),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host} port {port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

fn get(stream: &mut dyn Duplex, path: &str, client: &str) -> io::Result<Answer> {
    let caller = format!("Client-ID: {client}\r\nX-Project-ID: {PROJECT}");
    let head = format!("Host: localhost\r\n{caller}\r\nConnection: close");
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    match (&mut *stream).take(MAX_ANSWER).read_to_end(&mut answer) {
        Ok(_) => {}
        // Nothing says that the answer is complete but what it contains.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(not_http)
}

fn not_http() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP")
}

fn parse(answer: &str) -> Option<Answer> {
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
    fn a_client_id_is_as_long_as_the_configuration_wants() {
        assert_eq!(client_id(ClientIds::Strict), CLIENT);
        for (min, max, length) in [(10, 20, 20), (40, 50, 40), (1, 1024, 36), (36, 36, 36)] {
            assert_eq!(client_id(ClientIds::Off { min, max }).len(), length, "{min} to {max}");
        }
    }

    #[test]
    fn only_the_expected_answer_is_health() {
        let place = Place::Tcp { host: "h", port: 1 };
        for (question, status, is_well) in [
            (Question::Ready, 200, true),
            (Question::Ready, 204, false),
            (Question::Ready, 401, false),
            (Question::Ready, 503, false),
            (Question::Ping, 204, true),
            (Question::Ping, 401, true),
            (Question::Ping, 200, false),
            (Question::Ping, 400, false),
            (Question::Ping, 404, false),
            (Question::Ping, 503, false),
            (Question::PingNode, 204, true),
            (Question::PingNode, 403, true),
            (Question::PingNode, 400, false),
            (Question::PingNode, 426, false),
        ] {
            let judged = question.judge(&place, (status, "why".to_owned()));
            assert_eq!(judged.is_ok(), is_well, "{question:?} {status}");
        }
    }
}
