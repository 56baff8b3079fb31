//! Copies the log into the file, off the writer's path.
//!
//! When the log has grown, a thread of its own copies it while the writer goes on. What was written meanwhile the writer copies itself,
//! between two transactions, and begins the log anew: so the log stays bounded and its space is written over, which syncs faster
//! than growing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Error, Sql};
use crate::{Options, schema};

/// Pages in the log that start a copy.
const START: u32 = 1024;
/// Pages left behind that the writer may copy itself.
const REST: i64 = 64;
/// Copies that may run after one another to get there.
const ROUNDS: usize = 8;
/// How long the writer waits for readers of the old log.
const READERS: Duration = Duration::from_millis(20);

const IDLE: u8 = 0;
const COPYING: u8 = 1;
const COPIED: u8 = 2;

#[derive(Debug, Default)]
struct State {
    pages: AtomicU32,
    phase: AtomicU8,
}

/// The thread that copies, and its state.
pub(crate) struct Checkpointer {
    state: Arc<State>,
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts the thread and watches the log of the writer's connection.
    pub(crate) fn start(options: &Options, writer: &mut Connection) -> Result<Self, Error> {
        let state = Arc::new(State::default());
        let conn = open(&options.path, options, writer, &state).map_err(|source| Error::Open {
            path: schema::file(&options.path),
            source: source.into(),
        })?;
        let (wake, woken) = sync_channel(1);
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("zaqar-checkpoint".to_owned())
            .spawn(move || copy_when_woken(&conn, &woken, &shared))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { state, wake, thread })
    }

    /// The writer's part, after a commit.
    pub(crate) fn after_commit(&self, writer: &Connection) {
        match self.state.phase.load(Ordering::Acquire) {
            IDLE if self.state.pages.load(Ordering::Relaxed) >= START => {
                self.state.phase.store(COPYING, Ordering::Release);
                // It has room: the thread is idle.
                let _ = self.wake.try_send(());
            }
            COPIED => {
                if let Err(error) = begin_anew(writer) {
                    tracing::debug!(%error, "the log was in use and grows on");
                }
                self.state.phase.store(IDLE, Ordering::Release);
            }
            _ => {}
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the checkpoint thread panicked");
        }
    }
}

fn open(
    path: &Path,
    options: &Options,
    writer: &mut Connection,
    state: &Arc<State>,
) -> Sql<Connection> {
    let shared = Arc::clone(state);
    writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
        shared.pages.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    schema::open_checkpointer(path, options.sync)
}

fn copy_when_woken(conn: &Connection, woken: &Receiver<()>, state: &State) {
    while woken.recv().is_ok() {
        if let Err(error) = copy(conn) {
            tracing::warn!(%error, "the log cannot be copied into the file");
        }
        state.phase.store(COPIED, Ordering::Release);
    }
}

/// Copies until little is left.
fn copy(conn: &Connection) -> Sql<()> {
    for _ in 0..ROUNDS {
        let (pages, copied) = checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
        if pages - copied <= REST {
            break;
        }
    }
    Ok(())
}

fn begin_anew(writer: &Connection) -> Sql<()> {
    writer.busy_timeout(READERS)?;
    let outcome = checkpoint(writer, "PRAGMA wal_checkpoint(RESTART)");
    writer.busy_timeout(schema::BUSY)?;
    outcome.map(|_| ())
}

/// Pages in the log, and pages of it that are in the file now.
fn checkpoint(conn: &Connection, sql: &str) -> Sql<(i64, i64)> {
    conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}
