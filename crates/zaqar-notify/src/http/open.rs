//! The number of open connections, which decides whether a new one is kept when its request has
//! ended.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use zaqar_core::ProjectId;

/// Counts open connections. Clones share the counters.
#[derive(Debug, Clone)]
pub(super) struct OpenConnections {
    /// Open ones above which no further one is kept: in all, and of one project.
    most: usize,
    most_per_project: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    projects: HashMap<ProjectId, usize>,
}

/// Counts one connection while it is being opened, and until it is closed.
#[derive(Debug)]
pub(super) struct Open {
    connections: OpenConnections,
    project: ProjectId,
}

impl OpenConnections {
    pub(super) fn new(most: usize, most_per_project: usize) -> Self {
        Self { most, most_per_project, counts: Arc::default() }
    }

    /// Whether a connection that is opened now may be kept.
    pub(super) fn has_room(&self, project: &ProjectId) -> bool {
        let counts = self.counts();
        let of_project = counts.projects.get(project).copied().unwrap_or(0);
        counts.all < self.most && of_project < self.most_per_project
    }

    pub(super) fn open(&self, project: ProjectId) -> Open {
        let mut counts = self.counts();
        counts.all += 1;
        *counts.projects.entry(project.clone()).or_insert(0) += 1;
        Open { connections: self.clone(), project }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The project that opened it.
    pub(super) const fn project(&self) -> &ProjectId {
        &self.project
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        counts.all -= 1;
        if let Some(count) = counts.projects.get_mut(&self.project) {
            *count -= 1;
            if *count == 0 {
                counts.projects.remove(&self.project);
            }
        }
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub(super) struct CountedStream {
    stream: TokioIo<TcpStream>,
    is_kept: bool,
    _open: Open,
}

impl CountedStream {
    /// A connection, and whether it is kept when its request has ended.
    pub(super) fn new(stream: TcpStream, is_kept: bool, open: Open) -> Self {
        Self { stream: TokioIo::new(stream), is_kept, _open: open }
    }
}

impl Connection for CountedStream {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected();
        if !self.is_kept {
            connected.poison();
        }
        connected
    }
}

impl Read for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
