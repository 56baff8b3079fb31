//! beanstalkd's text protocol: a tube is a queue.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use super::wire::{Wire, line_length, number, text, unreadable};
use crate::error::Error;

/// Seconds that a job may be reserved.
const TIME_TO_RUN: u32 = 300;

/// A connection that puts jobs into one tube and reserves them from it.
#[derive(Debug)]
pub(super) struct Beanstalkd {
    wire: Wire,
    put: Bytes,
}

impl Beanstalkd {
    /// Connects, and names the tube to put into and to reserve from; a tube is made by its first
    /// use.
    pub(super) async fn open(address: SocketAddr, tube: &str, body: &str) -> Result<Self, Error> {
        let length = body.len();
        let put = format!("put 0 0 {TIME_TO_RUN} {length}\r\n{body}\r\n").into();
        let mut client = Self { wire: Wire::open(address).await?, put };
        client.ask(format!("use {tube}\r\n").as_bytes(), "USING").await?;
        client.ask(format!("watch {tube}\r\n").as_bytes(), "WATCHING").await?;
        client.ask(b"ignore default\r\n", "WATCHING").await?;
        Ok(client)
    }

    /// Puts a job and waits until it is inserted.
    pub(super) async fn publish(&mut self) -> Result<(), Error> {
        let put = self.put.clone();
        self.ask(&put, "INSERTED").await.map(drop)
    }

    /// Reserves a job and deletes it.
    pub(super) async fn consume(&mut self) -> Result<(), Error> {
        let reserved = self.ask(b"reserve-with-timeout 10\r\n", "RESERVED").await?;
        let id: u64 = number(text(&reserved.line)?.split(' ').nth(1))?;
        self.ask(format!("delete {id}\r\n").as_bytes(), "DELETED").await.map(drop)
    }

    async fn ask(&mut self, request: &[u8], wanted: &str) -> Result<Reply, Error> {
        self.wire.send(request).await?;
        let reply = self.wire.next(parse).await?;
        let line = text(&reply.line)?;
        if line.split(' ').next() == Some(wanted) {
            Ok(reply)
        } else {
            Err(unreadable(format!("beanstalkd says {line:?} and not {wanted}")))
        }
    }
}

/// An answer: its line, and the job's body where it has one.
#[derive(Debug)]
struct Reply {
    line: Bytes,
    #[cfg_attr(not(test), expect(dead_code, reason = "a body is read and dropped"))]
    body: Option<Bytes>,
}

fn parse(buffer: &mut BytesMut) -> Result<Option<Reply>, Error> {
    let Some(end) = line_length(buffer)? else { return Ok(None) };
    let line = text(&buffer[..end])?;
    let mut words = line.split(' ');
    let length: Option<usize> = match words.next() {
        Some("RESERVED") => Some(number(words.nth(1))?),
        _ => None,
    };
    let body = length.map(|length| end + 2..end + 2 + length);
    let total = body.as_ref().map_or(end, |body| body.end) + 2;
    if buffer.len() < total {
        return Ok(None);
    }
    let reply = buffer.split_to(total).freeze();
    if &reply[total - 2..] != b"\r\n" {
        return Err(unreadable("a job is longer than its line says".to_owned()));
    }
    Ok(Some(Reply { line: reply.slice(..end), body: body.map(|body| reply.slice(body)) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::wire::tests::{Script, converse, parse_split};

    #[test]
    fn replies_are_read_whole() {
        let reserved = parse_split(b"RESERVED 7 4\r\na\r\nb\r\n", parse);
        assert_eq!(reserved.line, "RESERVED 7 4");
        assert_eq!(reserved.body.as_deref(), Some(&b"a\r\nb"[..]));
        assert_eq!(parse_split(b"INSERTED 7\r\n", parse).line, "INSERTED 7");
    }

    #[test]
    fn wrong_replies_are_errors() {
        for wrong in [&b"RESERVED 7\r\n"[..], b"RESERVED 7 x\r\n", b"RESERVED 7 1\r\nabcdef\r\n"] {
            assert!(parse(&mut BytesMut::from(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_job_is_put_reserved_and_deleted() {
        let script = [
            Script::Expects(b"use q\r\n"),
            Script::Sends(b"USING q\r\n"),
            Script::Expects(b"watch q\r\n"),
            Script::Sends(b"WATCHING 2\r\n"),
            Script::Expects(b"ignore default\r\n"),
            Script::Sends(b"WATCHING 1\r\n"),
            Script::Expects(b"put 0 0 300 2\r\nhi\r\n"),
            Script::Sends(b"INSERTED 12\r\n"),
            Script::Expects(b"reserve-with-timeout 10\r\n"),
            Script::Sends(b"RESERVED 12 2\r\nhi\r\n"),
            Script::Expects(b"delete 12\r\n"),
            Script::Sends(b"DELETED\r\n"),
            Script::Expects(b"put 0 0 300 2\r\nhi\r\n"),
            Script::Sends(b"BURIED 13\r\n"),
        ];
        let last = converse(&script, async |address| {
            let mut client = Beanstalkd::open(address, "q", "hi").await?;
            client.publish().await?;
            client.consume().await?;
            Ok(client.publish().await)
        });
        let error = last.unwrap().unwrap_err().to_string();
        assert!(error.contains("BURIED 13"), "{error}");
    }
}
