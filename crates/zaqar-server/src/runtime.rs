//! The runtime that serves requests.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// How many tasks a busy thread runs before it looks for requests that have arrived. Tokio's
/// default is 61: a request of one project would wait behind so many steps of the others, of up to
/// a millisecond each.
const POLLS_BETWEEN_EVENTS: u32 = 8;

/// Lets the process open as many files as its hard limit allows: each connection is one, and many
/// systems start programs with a soft limit of 1024. Where that is refused, the limit stays.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Starts the threads.
///
/// # Errors
/// The system's, when a thread cannot be started.
pub(crate) fn start() -> io::Result<Runtime> {
    builder().build()
}

fn builder() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().event_interval(POLLS_BETWEEN_EVENTS);
    builder
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Poll;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_can_be_allowed() {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..limit }).unwrap();
        raise_descriptor_limit();
        assert_eq!(getrlimit(Resource::Nofile), limit_of(limit.maximum));
    }

    fn limit_of(all: Option<u64>) -> Rlimit {
        Rlimit { current: all, maximum: all }
    }

    /// Ends a poll of a task that has more to do, as I/O that is always ready makes them. Tokio's
    /// `yield_now` would look for events each time.
    async fn step() {
        let mut has_ended = false;
        poll_fn(|context| {
            if has_ended {
                return Poll::Ready(());
            }
            has_ended = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// One thread that always has work: how many steps of that work pass until bytes are read that
    /// have arrived.
    #[test]
    fn a_busy_thread_notices_what_arrives() {
        let runtime = builder().worker_threads(1).build().unwrap();
        let steps = runtime.block_on(runtime.spawn(async {
            let (mut near, far) = UnixStream::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            let mut far = tokio::net::UnixStream::from_std(far).unwrap();
            let has_read = Arc::new(AtomicBool::new(false));
            let of_reader = Arc::clone(&has_read);
            let reader = tokio::spawn(async move {
                far.read_u8().await.unwrap();
                of_reader.store(true, Ordering::Relaxed);
            });
            // The reader waits for the socket.
            for _ in 0..200 {
                step().await;
            }
            near.write_all(b"x").unwrap();
            let mut steps = 0;
            while !has_read.load(Ordering::Relaxed) {
                step().await;
                steps += 1;
            }
            reader.await.unwrap();
            steps
        }));
        assert!(steps.unwrap() <= 2 * POLLS_BETWEEN_EVENTS, "far more");
    }
}
