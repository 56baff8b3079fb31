//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::link::Transport;

/// Measures any server of OpenStack Zaqar's v2 API, and checks meanwhile that nothing is lost, got
/// twice, or out of order
///
/// Where the server is and who asks comes from the command line, OS_* variables, or clouds.yaml.
#[derive(Debug, Clone, Parser)]
#[command(name = "zaqar-bench", version, about)]
pub(crate) struct Options {
    /// The server: http://HOST:8888. Else OS_ENDPOINT, the cloud, or the catalog of Keystone
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The project, for servers without authentication. Else OS_PROJECT_ID
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
    /// A cloud of clouds.yaml. Else OS_CLOUD
    #[arg(long, value_name = "NAME")]
    pub(crate) cloud: Option<String>,
    /// A file with the authorities whose certificates are believed
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// The transport of all workers
    #[arg(long, value_enum, default_value = "http")]
    pub(crate) transport: Transport,
    /// The WebSocket transport: ws://HOST:9000
    #[arg(long, value_name = "URL", required_if_eq("transport", "websocket"))]
    pub(crate) websocket_url: Option<String>,

    /// Workers that post
    #[arg(long, short, default_value_t = 4, value_parser = workers)]
    pub(crate) producers: usize,
    /// Workers that claim and delete
    #[arg(long, short, default_value_t = 4, value_parser = workers)]
    pub(crate) consumers: usize,
    /// Workers that list
    #[arg(long, short, default_value_t = 0, value_parser = workers)]
    pub(crate) observers: usize,
    /// Queues that the workers are spread over
    #[arg(long, default_value_t = 1, value_parser = workers)]
    pub(crate) queues: usize,
    /// The queues' names begin with this; a number of the run follows
    #[arg(long, default_value = "zaqar-bench")]
    pub(crate) prefix: String,

    /// Seconds that producers post
    #[arg(long, short = 't', default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Messages that are posted, at most
    #[arg(long, default_value_t = 100_000_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) messages: u64,
    /// Posts a second of all producers, whatever the server does (an open loop); as many as it
    /// answers otherwise (a closed loop)
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Messages of a post
    #[arg(long, default_value_t = 1, value_parser = workers)]
    pub(crate) batch: usize,
    /// Messages of a claim, at most
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) claim: u32,
    /// Bytes of a message's payload
    #[arg(long, default_value_t = 1024)]
    pub(crate) size: usize,
    /// A file whose lines are the payloads, in turn, instead
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    pub(crate) message_file: Option<PathBuf>,
    /// Seconds that messages live
    #[arg(long, default_value_t = 3600)]
    pub(crate) ttl: u64,
    /// Seconds that consumers have to empty the queues in the end
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    pub(crate) drain: f64,

    /// How results are printed
    #[arg(long, short, value_enum, default_value = "table")]
    pub(crate) format: Format,
    /// Writes a plot of the latencies
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Leaves the queues there
    #[arg(long)]
    pub(crate) keep: bool,
    /// Prints no line while it runs; there is none where standard error is no terminal
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

fn workers(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|error| format!("{error}"))?;
    if count <= 10_000 { Ok(count) } else { Err("it must be at most 10000".to_owned()) }
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.01, 86_400.0)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.01, 10_000_000.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("it must be {least} to {most}"))
    }
}

impl Options {
    /// What clap cannot say.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.producers + self.consumers + self.observers == 0 {
            return Err("there must be a producer, a consumer or an observer".to_owned());
        }
        for (name, value) in [("--queues", self.queues), ("--batch", self.batch)] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        if self.consumers > 0 && self.consumers < self.queues && self.producers > 0 {
            return Err(format!(
                "{} consumers cannot empty {} queues: each has one queue",
                self.consumers, self.queues
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
        let parse = |arguments: &[&str]| {
            let all = [&["zaqar-bench"], arguments].concat();
            Options::try_parse_from(all).map_err(|error| error.to_string())
        };
        assert!(parse(&["--transport", "websocket"]).unwrap_err().contains("--websocket-url"));
        assert!(parse(&["--rate", "0"]).is_err() && parse(&["--batch", "1000000"]).is_err());
        let none = parse(&["-p", "0", "-c", "0"]).unwrap();
        assert!(none.check().is_err());
        let few = parse(&["--queues", "5", "-c", "4"]).unwrap();
        assert!(few.check().unwrap_err().contains("4 consumers"));
    }

    /// `ZAQAR_WRITE_MAN=1` writes it.
    #[test]
    fn the_manual_page_is_that_of_the_command() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/man/zaqar-bench.1");
        let mut page = Vec::new();
        clap_mangen::Man::new(Options::command()).render(&mut page).unwrap();
        if std::env::var_os("ZAQAR_WRITE_MAN").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), String::from_utf8(page).unwrap());
    }
}
