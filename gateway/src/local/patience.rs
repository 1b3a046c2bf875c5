//! A connection whose other end must take what it asked for in time. One that reads slowly would
//! hold an answer in memory for as long as it likes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that fails where an answer takes longer than it may, from its first byte until it is
/// flushed.
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    /// Set while an answer is being written.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) const fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            alarm: None,
        }
    }

    /// Begins to count, or says that the time is up. Whoever asked is woken then.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let limit = self.limit;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        match alarm.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.alarm = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_read_too_slowly_is_given_up_and_one_in_time_is_not() {
        let limit = Duration::from_millis(100);
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = Patient::new(near, limit);
        let started = Instant::now();
        // Many answers together may take longer than one.
        while started.elapsed() < limit * 2 {
            stream.write_all(&[1; 16]).await.unwrap();
            stream.flush().await.unwrap();
            far.read_exact(&mut [0; 16]).await.unwrap();
        }
        let reading = tokio::spawn(async move {
            // A byte now and then, for as long as there is one.
            while far.read_exact(&mut [0; 1]).await.is_ok() {
                sleep(limit / 20).await;
            }
        });
        let started = Instant::now();
        let refused = stream.write_all(&[1; 64 * 1024]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= limit);
        drop(stream);
        reading.await.unwrap();
    }
}
