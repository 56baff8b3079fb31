use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::*;
use crate::limit;

/// The jobs of a small beanstalkd in memory.
#[derive(Debug, Default)]
struct Jobs {
    put: AtomicUsize,
    ready: AtomicUsize,
    deleted: AtomicUsize,
}

/// Serves one connection.
async fn serve(stream: tokio::net::TcpStream, jobs: Arc<Jobs>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[0] {
            "use" => "USING q\r\n".to_owned(),
            "watch" | "ignore" => "WATCHING 1\r\n".to_owned(),
            "put" => {
                let mut body = vec![0; words[4].parse::<usize>().unwrap() + 2];
                stream.read_exact(&mut body).await.unwrap();
                jobs.ready.fetch_add(1, Ordering::SeqCst);
                format!("INSERTED {}\r\n", jobs.put.fetch_add(1, Ordering::SeqCst))
            }
            "reserve-with-timeout" => {
                let less = |ready: usize| ready.checked_sub(1);
                let taken = jobs.ready.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
                taken.map_or("TIMED_OUT\r\n".to_owned(), |_| "RESERVED 1 2\r\nhi\r\n".to_owned())
            }
            "delete" => {
                jobs.deleted.fetch_add(1, Ordering::SeqCst);
                "DELETED\r\n".to_owned()
            }
            other => panic!("{other}"),
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        line.clear();
    }
}

/// Runs a slice of a workload against that server.
fn run(workload: Workload) -> (Outcome, Arc<Jobs>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let jobs = Arc::new(Jobs::default());
    let outcome = runtime.block_on(async {
        let listener = limit::listen(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::clone(&jobs);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        let broker = Broker { kind: Kind::Beanstalkd, port, pid: std::process::id() };
        let mut outcome = Outcome::new();
        slice(broker, workload, 3, 0.1, &mut outcome).await.unwrap();
        outcome
    });
    (outcome, jobs)
}

#[test]
fn a_cycle_leaves_no_message_behind() {
    let (outcome, jobs) = run(Workload::Cycle);
    let [put, ready, deleted] =
        [&jobs.put, &jobs.ready, &jobs.deleted].map(|count| count.load(Ordering::SeqCst));
    assert_eq!((ready, deleted), (0, put));
    // Each client has a round that counts; those of the warm-up do not.
    assert!((3..=put as u64).contains(&outcome.latencies.len()), "{put} put");
    assert_eq!(outcome.rates.len(), 1);
}

#[test]
fn a_publish_consumes_nothing() {
    let (_, jobs) = run(Workload::Publish);
    let [put, ready, deleted] =
        [&jobs.put, &jobs.ready, &jobs.deleted].map(|count| count.load(Ordering::SeqCst));
    assert!(put > 0);
    assert_eq!((ready, deleted), (put, 0));
}

#[test]
fn brokers_are_named_with_port_and_process() {
    let nats = Broker { kind: Kind::Nats, port: 4222, pid: 77 };
    assert_eq!(broker("nats,4222,77"), Ok(nats));
    for wrong in ["nats", "nats,4222", "kafka,1,2", "nats,x,2", "nats,99999,2"] {
        assert!(broker(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_median_is_the_middle() {
    assert_eq!(median(&[9.0, 1.0, 3.0]).to_string(), "3");
    assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]).to_string(), "3");
    assert!(median(&[]).is_nan());
}

#[test]
fn ratios_are_of_the_first() {
    let outcome = |rate| Outcome { rates: vec![rate], ..Outcome::new() };
    let outcomes = [outcome(100.0), outcome(50.0), outcome(400.0)];
    assert_eq!(ratios_of(&outcomes), ["2", "0.25"]);
}
