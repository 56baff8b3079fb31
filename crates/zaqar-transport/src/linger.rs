//! Closes a connection without losing the last bytes sent.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

/// Bytes of the peer that are discarded at most.
const MAX_BYTES: u64 = 16 << 20;

/// Closes our side, then reads and discards until the peer has closed its own: at most 16 MiB, for
/// at most `limit`. Closing with unread bytes would reset the connection, and a peer that is still
/// sending would lose the last response.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, limit: Duration) {
    let closing = async {
        stream.shutdown().await?;
        let mut rest = stream.take(MAX_BYTES);
        let mut discarded = [0; 1024];
        while rest.read(&mut discarded).await? > 0 {}
        std::io::Result::Ok(())
    };
    if timeout(limit, closing).await.is_err() {
        debug!("peer did not close its side in time");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_peer_may_finish_sending_but_must_then_close() {
        let (mut peer, mut stream) = duplex(64);
        let sending = tokio::spawn(async move {
            peer.write_all(&[0; 1000]).await.unwrap();
            peer
        });
        let start = Instant::now();
        linger(&mut stream, Duration::from_secs(2)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        drop(sending.await.unwrap());
    }
}
