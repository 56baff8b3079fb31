//! Closing a connection without losing what was sent last.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

/// Bytes that a peer may still send.
const MAX_BYTES: u64 = 16 << 20;

/// Closes our side, then reads and discards until the peer has closed its own, at most 16 MiB and
/// for at most `limit`. Closed with bytes unread, the connection would be reset, and a peer that is
/// still sending would lose our last words.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, limit: Duration) {
    let closing = async {
        stream.shutdown().await?;
        let mut rest = stream.take(MAX_BYTES);
        let mut discarded = [0; 1024];
        while rest.read(&mut discarded).await? > 0 {}
        std::io::Result::Ok(())
    };
    if timeout(limit, closing).await.is_err() {
        debug!("the peer does not close its side");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_peer_may_finish_sending_but_not_stay() {
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
