//! RabbitMQ by AMQP 0-9-1: a quorum queue, publisher confirms, and a consumer that gets one message
//! at a time and acknowledges it.
//!
//! AMQP has no confirmation of an acknowledgement. RabbitMQ writes it to the queue's log before the
//! next message that the same channel publishes, so the confirmation of that one covers it.

use std::net::SocketAddr;

use super::amqp::{
    self, Arguments, BASIC_ACK, BASIC_CONSUME, BASIC_CONSUME_OK, BASIC_DELIVER, BASIC_QOS,
    BASIC_QOS_OK, CHANNEL_CLOSE, CHANNEL_OPEN, CHANNEL_OPEN_OK, CONFIRM_SELECT, CONFIRM_SELECT_OK,
    CONNECTION_CLOSE, CONNECTION_OPEN, CONNECTION_OPEN_OK, CONNECTION_START, CONNECTION_START_OK,
    CONNECTION_TUNE, CONNECTION_TUNE_OK, Frame, HELLO, LONGEST_FRAME, Method, QUEUE_DECLARE,
    QUEUE_DECLARE_OK, QUEUE_DELETE, QUEUE_DELETE_OK,
};
use super::wire::{Wire, unreadable};
use crate::error::Error;

/// The connection itself.
const CONNECTION: u16 = 0;
/// The one channel.
const CHANNEL: u16 = 1;
/// A queue that outlives its connection.
const DURABLE: u8 = 2;
/// The default user, and an SASL PLAIN answer that names it and its password.
const GUEST: &[u8] = b"\0guest\0guest";

/// A connection with one channel, whose publishes are confirmed.
#[derive(Debug)]
pub(super) struct RabbitMq {
    wire: Wire,
    publish: Vec<u8>,
    /// The tag of the message that came and is not acknowledged.
    delivered: Option<u64>,
}

impl RabbitMq {
    /// Connects and opens the channel. [`Self::create`] makes the queue.
    pub(super) async fn open(address: SocketAddr, queue: &str, body: &str) -> Result<Self, Error> {
        let mut publish = Vec::new();
        amqp::put_message(&mut publish, CHANNEL, queue, body.as_bytes());
        let mut client = Self { wire: Wire::open(address).await?, publish, delivered: None };
        client.wire.send(HELLO).await?;
        client.wait(CONNECTION_START).await?;
        let answer = Arguments::default().table(&[]).string("PLAIN").bytes(GUEST).string("en_US");
        client.send(CONNECTION, CONNECTION_START_OK, answer).await?;
        client.wait(CONNECTION_TUNE).await?;
        // One channel is enough, and no heartbeats.
        let tuned = Arguments::default().u16(CHANNEL).u32(LONGEST_FRAME).u16(0);
        client.send(CONNECTION, CONNECTION_TUNE_OK, tuned).await?;
        let open = Arguments::default().string("/").string("").bits(0);
        client.send(CONNECTION, CONNECTION_OPEN, open).await?;
        client.wait(CONNECTION_OPEN_OK).await?;
        client.ask(CHANNEL_OPEN, Arguments::default().string(""), CHANNEL_OPEN_OK).await?;
        client.ask(CONFIRM_SELECT, Arguments::default().bits(0), CONFIRM_SELECT_OK).await?;
        Ok(client)
    }

    /// Makes the queue.
    pub(super) async fn create(&mut self, queue: &str) -> Result<(), Error> {
        let declare = Arguments::default().u16(0).string(queue).bits(DURABLE);
        let declare = declare.table(&[("x-queue-type", "quorum")]);
        self.ask(QUEUE_DECLARE, declare, QUEUE_DECLARE_OK).await
    }

    /// Deletes the queue.
    pub(super) async fn delete(&mut self, queue: &str) -> Result<(), Error> {
        let delete = Arguments::default().u16(0).string(queue).bits(0);
        self.ask(QUEUE_DELETE, delete, QUEUE_DELETE_OK).await
    }

    /// Asks for the queue's messages, one at a time.
    pub(super) async fn subscribe(&mut self, queue: &str) -> Result<(), Error> {
        let one = Arguments::default().u32(0).u16(1).bits(0);
        self.ask(BASIC_QOS, one, BASIC_QOS_OK).await?;
        let consume = Arguments::default().u16(0).string(queue).string("").bits(0).table(&[]);
        self.ask(BASIC_CONSUME, consume, BASIC_CONSUME_OK).await
    }

    /// Publishes a message and waits until it is confirmed.
    pub(super) async fn publish(&mut self) -> Result<(), Error> {
        self.wire.send(&self.publish).await?;
        self.wait(BASIC_ACK).await
    }

    /// Waits for a message and acknowledges it.
    pub(super) async fn consume(&mut self) -> Result<(), Error> {
        if self.delivered.is_none() {
            self.wait(BASIC_DELIVER).await?;
        }
        let tag = self.delivered.take().ok_or_else(|| unreadable("no message".to_owned()))?;
        self.send(CHANNEL, BASIC_ACK, Arguments::default().u64(tag).bits(0)).await
    }

    async fn ask(
        &mut self,
        method: Method,
        arguments: Arguments,
        answer: Method,
    ) -> Result<(), Error> {
        self.send(CHANNEL, method, arguments).await?;
        self.wait(answer).await
    }

    async fn send(
        &mut self,
        channel: u16,
        method: Method,
        arguments: Arguments,
    ) -> Result<(), Error> {
        let mut frame = Vec::with_capacity(64);
        amqp::put_method(&mut frame, channel, method, arguments);
        self.wire.send(&frame).await
    }

    /// Reads up to this method. A message that comes meanwhile is kept; any other method is an
    /// error, as it says that something was rejected or closed.
    async fn wait(&mut self, wanted: Method) -> Result<(), Error> {
        loop {
            match self.wire.next(amqp::parse).await? {
                Frame::Heartbeat => {}
                Frame::Method(BASIC_DELIVER, mut arguments) => {
                    amqp::take_string(&mut arguments)?;
                    let tag = amqp::take_u64(&mut arguments)?;
                    self.skip_content().await?;
                    self.delivered = Some(tag);
                    if wanted == BASIC_DELIVER {
                        return Ok(());
                    }
                }
                Frame::Method(method, _) if method == wanted => return Ok(()),
                Frame::Method((class, number), mut arguments) => {
                    let closes = matches!((class, number), CONNECTION_CLOSE | CHANNEL_CLOSE);
                    let reason = if closes { closed(&mut arguments)? } else { String::new() };
                    return Err(unreadable(format!(
                        "RabbitMQ sends method {class}.{number} and not {}.{}: {reason}",
                        wanted.0, wanted.1
                    )));
                }
                Frame::Header(_) | Frame::Body(_) => {
                    return Err(unreadable("content without its method".to_owned()));
                }
            }
        }
    }

    /// Reads the header of a message, and its body.
    async fn skip_content(&mut self) -> Result<(), Error> {
        let Frame::Header(mut left) = self.wire.next(amqp::parse).await? else {
            return Err(unreadable("a message without its header".to_owned()));
        };
        while left > 0 {
            let Frame::Body(length) = self.wire.next(amqp::parse).await? else {
                return Err(unreadable("a message without its body".to_owned()));
            };
            left = left.saturating_sub(length as u64);
        }
        Ok(())
    }
}

/// Why a connection or channel was closed.
fn closed(arguments: &mut bytes::Bytes) -> Result<String, Error> {
    let code = amqp::take_u16(arguments)?;
    let reason = amqp::take_string(arguments)?;
    Ok(format!("{code} {}", String::from_utf8_lossy(&reason)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::wire::tests::{Script, converse};

    fn method(channel: u16, method: Method, arguments: Arguments) -> Vec<u8> {
        let mut out = Vec::new();
        amqp::put_method(&mut out, channel, method, arguments);
        out
    }

    fn none() -> Arguments {
        Arguments::default()
    }

    /// What a broker and a client say before the first message.
    fn handshake() -> [Vec<u8>; 10] {
        let start_ok = none().table(&[]).string("PLAIN").bytes(GUEST).string("en_US");
        [
            HELLO.to_vec(),
            method(0, CONNECTION_START, none().u16(9)),
            method(0, CONNECTION_START_OK, start_ok),
            method(0, CONNECTION_TUNE, none().u16(2047).u32(LONGEST_FRAME).u16(60)),
            [
                method(0, CONNECTION_TUNE_OK, none().u16(1).u32(LONGEST_FRAME).u16(0)),
                method(0, CONNECTION_OPEN, none().string("/").string("").bits(0)),
            ]
            .concat(),
            method(0, CONNECTION_OPEN_OK, none().string("")),
            method(1, CHANNEL_OPEN, none().string("")),
            method(1, CHANNEL_OPEN_OK, none().u32(0)),
            method(1, CONFIRM_SELECT, none().bits(0)),
            method(1, CONFIRM_SELECT_OK, none()),
        ]
    }

    /// A delivery of `q`'s message with this tag.
    fn delivery(tag: u64) -> Vec<u8> {
        let deliver = none().string("consumer").u64(tag).bits(0).string("").string("q");
        let mut content = Vec::new();
        amqp::put_message(&mut content, 1, "q", b"hi");
        let published =
            method(1, amqp::BASIC_PUBLISH, none().u16(0).string("").string("q").bits(0));
        [&method(1, BASIC_DELIVER, deliver), &content[published.len()..]].concat()
    }

    /// Runs a client through the handshake and then through a script.
    fn run<T>(
        script: &[Script<'_>],
        client: impl AsyncFnOnce(&mut RabbitMq) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let handshake = handshake();
        let mut whole: Vec<Script<'_>> = Vec::new();
        for (number, bytes) in handshake.iter().enumerate() {
            let sent = !number.is_multiple_of(2);
            whole.push(if sent { Script::Sends(bytes) } else { Script::Expects(bytes) });
        }
        whole.extend_from_slice(script);
        converse(&whole, async |address| {
            client(&mut RabbitMq::open(address, "q", "hi").await?).await
        })
    }

    #[test]
    fn a_message_that_comes_before_the_confirmation_is_acknowledged_afterwards() {
        let mut publish = Vec::new();
        amqp::put_message(&mut publish, 1, "q", b"hi");
        let confirmed = method(1, BASIC_ACK, none().u64(1).bits(0));
        let first = [delivery(4), b"\x08\0\0\0\0\0\0\xCE".to_vec(), confirmed.clone()].concat();
        let (second, third) = (delivery(5), method(1, BASIC_ACK, none().u64(4).bits(0)));
        let last = method(1, BASIC_ACK, none().u64(5).bits(0));
        let script = [
            Script::Expects(&publish),
            Script::Sends(&first),
            Script::Expects(&third),
            Script::Expects(&publish),
            Script::Sends(&confirmed),
            Script::Sends(&second),
            Script::Expects(&last),
        ];
        let done = run(&script, async |client| {
            for _ in 0..2 {
                client.publish().await?;
                client.consume().await?;
            }
            Ok(())
        });
        done.unwrap();
    }

    #[test]
    fn a_closed_channel_and_a_rejected_message_are_errors() {
        let close = method(1, CHANNEL_CLOSE, none().u16(404).string("NOT_FOUND").u16(60).u16(40));
        let nack = method(1, (60, 120), none().u64(1).bits(0));
        for (answer, text) in [(close, "20.40 and not 60.80: 404 NOT_FOUND"), (nack, "60.120")] {
            let error = run(&[Script::Sends(&answer)], RabbitMq::publish).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
