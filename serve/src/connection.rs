//! The node's side of a connection: writes a reply whole, and can be cut from inside a call where there may be chaos: to the client it then
//! looks as if the node, or the network before it, had gone.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::Extensions;
use tonic::transport::server::Connected;

/// The handle of a call's connection, by which it is cut. Nothing can be cut where there is no chaos.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection(Option<Arc<State>>);

#[derive(Debug, Default)]
struct State {
    cut: AtomicBool,
    /// Whoever waits for bytes from the client, which is always somebody.
    reader: Mutex<Option<Waker>>,
}

impl Connection {
    /// The connection that a call came over.
    pub(crate) fn of(extensions: &Extensions) -> Connection {
        extensions.get::<Connection>().cloned().unwrap_or_default()
    }

    /// Ends the connection and every call on it.
    pub(crate) fn cut(&self) {
        let Some(state) = &self.0 else { return };
        state.cut.store(true, Ordering::SeqCst);
        if let Some(reader) = state.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader.wake();
        }
    }
}

/// A TCP connection of the gRPC server.
///
/// It does not write from several buffers at once. HTTP/2 then copies a message of up to 1 KiB behind its headers, and the trailers behind it:
/// a reply is one write and one packet. With such writes a message of more than 256 bytes would go out before its trailers, which would
/// cost a second packet and wake the client twice.
#[derive(Debug)]
pub(crate) struct Served {
    stream: TcpStream,
    connection: Connection,
}

impl Served {
    pub(crate) fn new(stream: TcpStream, may_be_cut: bool) -> Served {
        Served { stream, connection: Connection(may_be_cut.then(Arc::default)) }
    }

    fn check(&self) -> io::Result<()> {
        match &self.connection.0 {
            Some(state) if state.cut.load(Ordering::SeqCst) => {
                Err(io::Error::new(ErrorKind::ConnectionReset, "cut on purpose"))
            }
            _ => Ok(()),
        }
    }
}

impl Connected for Served {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(state) = &self.connection.0 {
            // Known before the look at the flag, so that a cut in between wakes it.
            *state.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        }
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Served {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_cut_ends_a_read_that_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut served = Served::new(listener.accept().await.unwrap().0, true);
        let connection = served.connect_info();
        let reading = tokio::spawn(async move { served.read_u8().await });
        tokio::task::yield_now().await;
        connection.cut();
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(client.read_u8().await.is_err(), "the client sees its end");
        Connection::of(&Extensions::default()).cut();
    }
}
