//! A TCP proxy between gateways and the relay's broker. To cut it is the broker's death as a gateway
//! sees it: all connections end in the middle of whatever was on its way, and for a while nobody
//! listens.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the listener waits before it looks again.
const STEP: Duration = Duration::from_millis(2);
/// How much is carried at a time. Small, so that cuts fall into frames.
const PIECE: usize = 8 * 1024;

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// Both ends of every connection.
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on a free port and carries everything to the target.
    ///
    /// # Panics
    /// Where there is no port.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            target,
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let (address, served) = (listener.local_addr().unwrap(), Arc::clone(&shared));
        Self {
            address,
            shared,
            listener: Some(std::thread::spawn(move || served.serve(&listener))),
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections and takes no new ones for this long.
    pub fn cut(&self, pause: Duration) {
        self.hold();
        std::thread::sleep(pause);
        self.release();
    }

    /// Cuts all connections and takes no new ones.
    pub fn hold(&self) {
        self.shared.is_cut.store(true, Ordering::Relaxed);
        self.shared.end_all();
    }

    /// Takes connections again.
    pub fn release(&self) {
        self.shared.is_cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.end_all();
        if let Some(listener) = self.listener.take() {
            listener.join().ok();
        }
    }
}

impl Shared {
    fn serve(&self, listener: &TcpListener) {
        while !self.is_over.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((near, _)) if !self.is_cut.load(Ordering::Relaxed) => {
                    // Where the relay is away the newcomer is closed, which is what it would see.
                    self.carry(near).ok();
                }
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    std::thread::sleep(STEP);
                }
            }
        }
        self.end_all();
    }

    fn carry(&self, near: TcpStream) -> std::io::Result<()> {
        near.set_nonblocking(false)?;
        let far = TcpStream::connect(self.target)?;
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
        }
        let pairs = [
            (near.try_clone()?, far.try_clone()?),
            (far.try_clone()?, near.try_clone()?),
        ];
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend([near, far]);
        for (from, to) in pairs {
            // Ends with its connection.
            std::thread::spawn(move || pass(from, to));
        }
        drop(open);
        Ok(())
    }

    fn end_all(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        stream.shutdown(Shutdown::Both).ok();
    }
}
