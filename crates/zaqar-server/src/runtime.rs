//! The runtime that serves requests.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How many tasks a busy thread runs before it looks for requests that have arrived. Tokio's
/// default is 61: a request of one project would wait behind so many steps of the others, of up to
/// a millisecond each.
const POLLS_BETWEEN_EVENTS: u32 = 8;

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
