//! A shaped link: a TCP proxy between one robot and the relay that is as slow, lossy and absent as
//! its profile says. It needs no privileges.
//!
//! A packet is read only when the line has room for it, and sockets have small buffers, so what does
//! not fit waits in the sender. In the dark nothing is accepted, read or passed on; the kernel may
//! still complete a handshake, and then nobody answers.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::line::{Line, PACKET_BYTES};
use super::profile::{Shape, Terms, Weather};
use super::random::Random;

/// Connections of one robot at a time. It needs one, and another while the old one dies.
const CONNECTIONS: usize = 16;
/// Connections that may wait to be accepted.
const WAITING: u32 = 16;
/// What one direction holds of what is under way: a usual TCP window.
const WINDOW: usize = 256 * 1024;
/// How much may wait in a receive buffer, as the time it takes to get through, and its bounds.
const BUFFER: Duration = Duration::from_millis(50);
const BUFFER_BYTES: (u32, u32) = (8 * 1024, 256 * 1024);
/// How long to wait after accepting has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Whether the link is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sky {
    open: bool,
    /// How often all connections were cut.
    cuts: u64,
}

/// What went through, in bytes.
#[derive(Debug, Default)]
pub struct Carried {
    /// From the robot to the relay.
    pub up: AtomicU64,
    /// From the relay to the robot.
    pub down: AtomicU64,
}

/// A running link. It ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    sky: watch::Sender<Sky>,
    carried: Arc<Carried>,
    weather: Option<AbortHandle>,
    /// They end with the set.
    _tasks: JoinSet<()>,
}

/// What a link's tasks share.
#[derive(Debug, Clone)]
struct Way {
    terms: Terms,
    target: watch::Receiver<SocketAddr>,
    sky: watch::Receiver<Sky>,
    carried: Arc<Carried>,
}

impl Link {
    /// Opens a link to whatever address `target` holds at the time of a connection.
    ///
    /// # Errors
    /// Where no port can be opened.
    pub fn open(terms: Terms, target: watch::Receiver<SocketAddr>, seed: u64) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Connections inherit it.
        socket.set_recv_buffer_size(buffer(&terms.up))?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(WAITING)?;
        let address = listener.local_addr()?;
        let open = !terms.dead;
        let (sky, seen) = watch::channel(Sky { open, cuts: 0 });
        let carried = Arc::new(Carried::default());
        let way = Way {
            terms,
            target,
            sky: seen,
            carried: Arc::clone(&carried),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, way, Random::new(seed, 1)));
        let weather = terms.weather.map(|weather| {
            let random = Random::new(seed, 2);
            tasks.spawn(change(weather, sky.clone(), random))
        });
        Ok(Self {
            address,
            sky,
            carried,
            weather,
            _tasks: tasks,
        })
    }

    /// Where the robot connects to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went through so far.
    #[must_use]
    pub fn carried(&self) -> (u64, u64) {
        let Carried { up, down } = &*self.carried;
        (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed))
    }

    /// Ends the bad times. Bandwidth, latency and loss stay as they are.
    pub fn heal(&mut self) {
        if let Some(weather) = self.weather.take() {
            weather.abort();
        }
        self.sky.send_modify(|sky| sky.open = true);
    }
}

async fn change(weather: Weather, sky: watch::Sender<Sky>, mut random: Random) {
    loop {
        sleep(random.between(weather.open)).await;
        let cut = random.fraction() < weather.cut;
        sky.send_modify(|sky| {
            sky.open = false;
            sky.cuts += u64::from(cut);
        });
        sleep(random.between(weather.dark)).await;
        sky.send_modify(|sky| sky.open = true);
    }
}

async fn accept(listener: TcpListener, mut way: Way, mut random: Random) {
    let mut carries = JoinSet::new();
    loop {
        if way.sky.wait_for(|sky| sky.open).await.is_err() {
            return;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // One too many is closed at once; it comes back.
                Ok((client, _)) if carries.len() < CONNECTIONS => {
                    carries.spawn(carry(client, way.clone(), random.next()));
                }
                Ok(_) => {}
                Err(_) => sleep(ACCEPT_AGAIN).await,
            },
            Some(_) = carries.join_next() => {}
            changed = way.sky.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Carries one connection until one side ends it or it is cut.
async fn carry(mut client: TcpStream, mut way: Way, seed: u64) {
    let Ok(mut relay) = connect(&way).await else {
        return;
    };
    let cuts = way.sky.borrow().cuts;
    let (up, down) = (
        Line::new(way.terms.up, Random::new(seed, 1)),
        Line::new(way.terms.down, Random::new(seed, 2)),
    );
    let is_cut = {
        let (from_client, to_client) = client.split();
        let (from_relay, to_relay) = relay.split();
        tokio::select! {
            () = pump(from_client, to_relay, up, way.sky.clone(), &way.carried.up) => false,
            () = pump(from_relay, to_client, down, way.sky.clone(), &way.carried.down) => false,
            _ = way.sky.wait_for(|sky| sky.cuts != cuts) => true,
        }
    };
    if is_cut {
        // Closing then resets the connection. Where it cannot be set, it ends in the usual way.
        client.set_zero_linger().ok();
        relay.set_zero_linger().ok();
    }
}

async fn connect(way: &Way) -> io::Result<TcpStream> {
    let target = *way.target.borrow();
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(buffer(&way.terms.down))?;
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Passes one direction on until its sender has ended it or its receiver is gone.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut line: Line,
    mut sky: watch::Receiver<Sky>,
    carried: &AtomicU64,
) {
    let start = Instant::now();
    let mut under_way: VecDeque<(Duration, Vec<u8>)> = VecDeque::new();
    let (mut held, mut ended) = (0_usize, false);
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let open = sky.borrow_and_update().open;
        let room = line.room_at(start.elapsed());
        let reads = open && !ended && held < WINDOW;
        let arrives = under_way.front().map(|(at, _)| *at);
        if ended && arrives.is_none() {
            // The other end may be gone already.
            to.shutdown().await.ok();
            return;
        }
        tokio::select! {
            changed = sky.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(start + arrives.unwrap_or_default()), if open && arrives.is_some() => {
                let Some((_, bytes)) = under_way.pop_front() else { continue };
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
                held -= bytes.len();
                carried.fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
            }
            () = sleep_until(start + room.unwrap_or_default()), if reads && room.is_some() => {}
            read = from.read(&mut packet), if reads && room.is_none() => match read {
                Ok(0) | Err(_) => ended = true,
                Ok(length) => {
                    let bytes = packet.get(..length).unwrap_or_default().to_vec();
                    under_way.push_back((line.send(length, start.elapsed()), bytes));
                    held += length;
                }
            },
        }
    }
}

/// A receive buffer that holds little, so that the queue is where the model says.
fn buffer(shape: &Shape) -> u32 {
    let per_second = u64::from(shape.bits_per_second / 8);
    let millis = u64::try_from(BUFFER.as_millis()).unwrap_or(0);
    let bytes = u32::try_from(per_second * millis / 1000).unwrap_or(u32::MAX);
    bytes.clamp(BUFFER_BYTES.0, BUFFER_BYTES.1)
}
