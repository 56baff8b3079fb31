//! A Redis server as the store of what is measured: its memory, and what `redis-benchmark` does with a script that was seen on it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::http::Connection;
use crate::zaqar::Target;

/// How long a post may take to be seen.
const SEEN: Duration = Duration::from_secs(10);

/// A server on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redis {
    pub(crate) port: u16,
    pub(crate) pid: u32,
}

/// What `redis-benchmark` reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Baseline {
    pub(crate) rate: f64,
    pub(crate) p99: f64,
}

impl Redis {
    /// Throws everything away.
    pub(crate) fn flush(self) -> Result<(), Error> {
        self.cli(&["FLUSHALL", "SYNC"]).map(drop)
    }

    /// Bytes that it has allocated.
    pub(crate) fn used_memory(self) -> Result<u64, Error> {
        let info = self.cli(&["INFO", "memory"])?;
        let field = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        field.and_then(|value| value.trim().parse().ok()).ok_or(Error::Program {
            program: "redis-cli",
            reason: "INFO does not say how much memory is used".to_owned(),
        })
    }

    fn cli(self, command: &[&str]) -> Result<String, Error> {
        let port = self.port.to_string();
        run("redis-cli", Command::new("redis-cli").args(["-p", &port]).args(command))
    }

    /// The command that a server sends for a post of one message to a queue.
    pub(crate) async fn watch_post(
        self,
        target: &Target,
        queue: &str,
    ) -> Result<Vec<OsString>, Error> {
        let failed = |source| Error::Connection { source };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(failed)?;
        stream.write_all(b"MONITOR\r\n").await.map_err(failed)?;
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        lines.read_until(b'\n', &mut line).await.map_err(failed)?;
        let mut connection = Connection::open(target.address).await?;
        // The first one makes the queue and perhaps brings the script.
        for _ in 0..3 {
            connection.expect("a post", &target.queue(queue).post(1)).await?;
        }
        let seen = async {
            loop {
                line.clear();
                if lines.read_until(b'\n', &mut line).await.map_err(failed)? == 0 {
                    return Err(Error::Truncated);
                }
                if let Some(command) = post_in(&line) {
                    return Ok(command);
                }
            }
        };
        let seen = tokio::time::timeout(SEEN, seen).await;
        seen.unwrap_or(Err(Error::Nothing { reason: "no post by a script was seen" }))
    }

    /// Has `redis-benchmark` send a command so many times over so many connections.
    pub(crate) fn benchmark(
        self,
        command: &[OsString],
        connections: usize,
        requests: u64,
    ) -> Result<Baseline, Error> {
        const PROGRAM: &str = "redis-benchmark";
        let [port, connections, requests] =
            [self.port.to_string(), connections.to_string(), requests.to_string()];
        let said = run(
            PROGRAM,
            Command::new(PROGRAM)
                .args([
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port,
                    "-c",
                    &connections,
                    "-n",
                    &requests,
                    "--csv",
                ])
                .args(command),
        )?;
        baseline(&said).ok_or(Error::Program { program: PROGRAM, reason: said })
    }
}

fn run(program: &'static str, command: &mut Command) -> Result<String, Error> {
    let failed = |reason: String| Error::Program { program, reason };
    let ran = command.output().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    if !ran.status.success() {
        return Err(failed(format!("{said}{}", String::from_utf8_lossy(&ran.stderr))));
    }
    Ok(said)
}

/// The last line of `redis-benchmark --csv`: behind the name, the rate, four latencies, and p99 before the longest.
fn baseline(said: &str) -> Option<Baseline> {
    let mut fields = said.trim_end().lines().last()?.rsplit("\",\"");
    let (p99, rate) = (fields.nth(1)?, fields.nth(4)?);
    Some(Baseline { rate: rate.parse().ok()?, p99: p99.parse().ok()? })
}

/// The command in a line of `MONITOR`, if it is a post of one message by the digest of a script. What a command line cannot carry, which
/// is a zero byte, makes an argument one of as many `x`: the script looks into none that has one.
fn post_in(line: &[u8]) -> Option<Vec<OsString>> {
    let start = memmem::find(line, b"\"EVALSHA\"")?;
    memmem::find(line, b"instance.create.end")?;
    let quoted = line[start..].trim_ascii_end().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut command = Vec::new();
    let mut rest = quoted;
    loop {
        let end = memmem::find(rest, b"\" \"");
        let mut argument = unescape(&rest[..end.unwrap_or(rest.len())])?;
        if argument.contains(&0) {
            argument.fill(b'x');
        }
        command.push(OsString::from_vec(argument));
        match end {
            Some(end) => rest = &rest[end + 3..],
            None => return Some(command),
        }
    }
}

/// A text as Redis quotes it.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'x' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_read_from_what_monitor_says() {
        let line = br#"1700.1 [0 127.0.0.1:5] "EVALSHA" "ab12" "1" "zq1:{q/p/n}:h" "" "\x01\"\\\n\xff" "\x00\x01{\"event\":\"instance.create.end\"}" "0"
"#;
        let command = post_in(line).unwrap();
        let expected: [&[u8]; 8] = [
            b"EVALSHA",
            b"ab12",
            b"1",
            b"zq1:{q/p/n}:h",
            b"",
            b"\x01\"\\\n\xff",
            &[b'x'; 33],
            b"0",
        ];
        let expected = expected.map(|bytes| OsString::from_vec(bytes.to_vec()));
        assert_eq!(command, expected);
        assert_eq!(post_in(br#"1 [0 lua] "HSET" "k" "instance.create.end""#), None);
        assert_eq!(post_in(br#"1 [0 x] "EVALSHA" "ab12" "0""#), None);
    }

    #[test]
    fn the_rate_is_found_behind_a_name_with_anything_in_it() {
        let said = "\"test\",\"rps\",\"avg_latency_ms\"\n\"EVALSHA a \"b\",\"c\"\",\"1234.50\",\"1.1\",\"0.9\",\"1.0\",\"1.2\",\"2.5\",\"3.0\"\n";
        assert_eq!(baseline(said), Some(Baseline { rate: 1234.5, p99: 2.5 }));
        assert_eq!(baseline("nothing"), None);
    }
}
