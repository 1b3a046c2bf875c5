//! The drill's shaped link, over real sockets.

use std::time::Duration;

use brrbrr_gateway::drill::profile::{Profile, Shape, Terms, Weather};
use brrbrr_gateway::drill::proxy::Link;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Far longer than anything takes here; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// A link that is as good as none, to change one thing of.
const GOOD: Shape = Shape {
    bits_per_second: 200_000_000,
    latency: Duration::ZERO,
    jitter: Duration::ZERO,
    loss: 0.0,
    queue: Duration::from_millis(50),
};

fn terms(shape: Shape) -> Terms {
    Terms {
        up: shape,
        down: shape,
        weather: None,
        dead: false,
    }
}

/// Bytes that are the same nowhere near each other.
fn bytes(length: usize) -> Vec<u8> {
    let number = |place: usize| (place.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[0];
    (0..length).map(number).collect()
}

/// A relay that the test plays itself, behind a link.
struct Scene {
    link: Link,
    listener: TcpListener,
}

impl Scene {
    async fn new(terms: Terms) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = watch::channel(listener.local_addr().unwrap()).1;
        let link = Link::open(terms, target, 7).unwrap();
        Self { link, listener }
    }

    /// Both ends of a connection over the link.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let robot = TcpStream::connect(self.link.address()).await.unwrap();
        let (relay, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .unwrap()
            .unwrap();
        (robot, relay)
    }
}

/// Sends all in one direction and returns how long it took to arrive, having looked at every byte.
async fn transfer(from: &mut TcpStream, to: &mut TcpStream, length: usize) -> Duration {
    let sent = bytes(length);
    let started = Instant::now();
    let mut received = vec![0; length];
    let both = async { tokio::join!(from.write_all(&sent), to.read_exact(&mut received)) };
    let (written, read) = timeout(PATIENCE, both).await.unwrap();
    written.unwrap();
    read.unwrap();
    assert!(
        received == sent,
        "the bytes are others, or in another order"
    );
    started.elapsed()
}

#[tokio::test]
async fn bytes_arrive_whole_and_in_order_both_ways_although_packets_are_lost() {
    let lossy = Shape {
        loss: 0.02,
        jitter: Duration::from_millis(5),
        ..GOOD
    };
    let scene = Scene::new(terms(lossy)).await;
    let (mut robot, mut relay) = scene.connect().await;
    transfer(&mut robot, &mut relay, 200_000).await;
    transfer(&mut relay, &mut robot, 200_000).await;
    assert_eq!(scene.link.carried(), (200_000, 200_000));
    // The end of the stream passes as well.
    drop(robot);
    let read = timeout(PATIENCE, relay.read(&mut [0])).await.unwrap();
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn a_long_transfer_is_not_faster_than_the_bandwidth_in_either_direction() {
    let narrow = Shape {
        bits_per_second: 800_000,
        ..GOOD
    };
    let mut asymmetric = terms(GOOD);
    asymmetric.up = narrow;
    let scene = Scene::new(asymmetric).await;
    let (mut robot, mut relay) = scene.connect().await;
    let up = transfer(&mut robot, &mut relay, 100_000).await;
    assert!(up >= Duration::from_millis(999), "{up:?}");
    let down = transfer(&mut relay, &mut robot, 100_000).await;
    assert!(down < up, "{down:?} is no faster than {up:?}");
}

#[tokio::test]
async fn latency_is_felt_in_each_direction() {
    let latency = Duration::from_millis(150);
    let scene = Scene::new(terms(Shape { latency, ..GOOD })).await;
    let (mut robot, mut relay) = scene.connect().await;
    assert!(transfer(&mut robot, &mut relay, 10).await >= latency);
    assert!(transfer(&mut relay, &mut robot, 10).await >= latency);
}

#[tokio::test]
async fn what_does_not_fit_waits_in_the_sender() {
    let narrow = Shape {
        bits_per_second: 64_000,
        queue: Duration::from_millis(400),
        ..GOOD
    };
    let scene = Scene::new(terms(narrow)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap();
    let robot = socket.connect(scene.link.address()).await.unwrap();
    let (mut relay, _) = scene.listener.accept().await.unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut relay, &mut tokio::io::sink()).await });
    // It takes what the queue and the small buffers hold and then no more, although the relay reads
    // all that comes.
    let mut taken = 0_usize;
    let chunk = bytes(10_000);
    while timeout(Duration::from_millis(500), robot.writable())
        .await
        .is_ok()
    {
        match robot.try_write(&chunk) {
            Ok(length) => taken += length,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        assert!(taken < 150_000, "the link takes more than it can hold");
    }
    assert!(taken > 0);
}

#[tokio::test]
async fn a_dead_link_passes_nothing_until_it_heals() {
    let mut dead = terms(GOOD);
    dead.dead = true;
    let mut scene = Scene::new(dead).await;
    // The kernel may complete the handshake; nobody answers.
    let mut robot = TcpStream::connect(scene.link.address()).await.unwrap();
    robot.write_all(b"hello").await.unwrap();
    let nobody = timeout(Duration::from_millis(300), scene.listener.accept()).await;
    assert!(nobody.is_err(), "the relay was reached over a dead link");
    assert_eq!(scene.link.carried(), (0, 0));
    scene.link.heal();
    let (mut relay, _) = timeout(PATIENCE, scene.listener.accept())
        .await
        .unwrap()
        .unwrap();
    let mut read = [0; 5];
    timeout(PATIENCE, relay.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&read, b"hello");
}

/// Open for a moment, and then dark for good.
fn sunset(cut: f64) -> Terms {
    let open = Duration::from_secs(1);
    let dark = Duration::from_secs(3600);
    Terms {
        weather: Some(Weather {
            open: (open, open),
            dark: (dark, dark),
            cut,
        }),
        ..terms(GOOD)
    }
}

#[tokio::test]
async fn a_connection_that_outlives_the_dark_passes_nothing_meanwhile_and_all_of_it_afterwards() {
    let mut scene = Scene::new(sunset(0.0)).await;
    let (mut robot, mut relay) = scene.connect().await;
    let (mut written, mut read) = (0_usize, 0_usize);
    let mut buffer = [0; 64];
    // Until a byte that was sent does not arrive any more.
    let started = Instant::now();
    loop {
        robot.write_all(&[0]).await.unwrap();
        written += 1;
        match timeout(Duration::from_millis(500), relay.read(&mut buffer)).await {
            Ok(length) => read += length.unwrap(),
            Err(_) => break,
        }
        assert!(started.elapsed() < PATIENCE, "it never got dark");
    }
    scene.link.heal();
    while read < written {
        let length = timeout(PATIENCE, relay.read(&mut buffer)).await.unwrap();
        read += length.unwrap();
    }
    assert_eq!(read, written);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_reset_at_both_ends() {
    let scene = Scene::new(sunset(1.0)).await;
    let (mut robot, mut relay) = scene.connect().await;
    for end in [&mut robot, &mut relay] {
        let read = timeout(PATIENCE, end.read(&mut [0])).await.unwrap();
        let error = read.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn every_profile_has_a_usable_link() {
    for profile in [
        Profile::OfficeWifi,
        Profile::Lift,
        Profile::FourG,
        Profile::SixtyFourK,
        Profile::Flapping,
        Profile::DeadForADay,
    ] {
        let terms = profile.terms();
        for shape in [terms.up, terms.down] {
            assert!(shape.bits_per_second >= 64_000, "{profile:?}");
            assert!((0.0..0.1).contains(&shape.loss), "{profile:?}");
        }
        let bad_times = terms.dead || terms.weather.is_some();
        assert_eq!(bad_times, profile != Profile::SixtyFourK, "{profile:?}");
        assert!(!profile.name().is_empty());
    }
}
