//! Takes connections from the listener and gives each a task of its own, within the limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::connection;
use super::counters::{Refusal, add};
use super::registry::lock;
use super::{Limits, Shared};

/// How long to wait when the operating system has no connection to give. Long enough for others to
/// close theirs, short enough that nobody's connect times out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts until it is dropped, and then drops every connection.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let door = Arc::new(Door::new(&shared.limits));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection's task failed");
                }
                continue;
            }
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                add(&shared.tally.accept_errors);
                warn!(%error, "cannot accept a connection; trying again");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        add(&shared.tally.accepted);
        match Door::enter(&door, peer.ip()) {
            Ok(place) => {
                if let Err(error) = socket.set_nodelay(true) {
                    debug!(%error, "cannot turn Nagle's algorithm off");
                }
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    connection::run(socket, peer, place, &shared).await;
                });
            }
            Err(refusal) => {
                shared.tally.refused(refusal);
                debug!(%peer, reason = refusal.label(), "connection refused");
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Counts who is in.
#[derive(Debug)]
struct Door {
    total: usize,
    per_address: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Door {
    fn new(limits: &Limits) -> Self {
        Self {
            total: limits.connections,
            per_address: limits.connections_per_address,
            inside: Mutex::default(),
        }
    }

    fn enter(door: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        let address = household(address);
        let mut inside = lock(&door.inside);
        if inside.total >= door.total {
            return Err(Refusal::TotalLimit);
        }
        let here = inside.by_address.get(&address).copied().unwrap_or(0);
        if here >= door.per_address && !address.is_loopback() {
            return Err(Refusal::AddressLimit);
        }
        inside.total += 1;
        inside.by_address.insert(address, here + 1);
        Ok(Place {
            door: Arc::clone(door),
            address: Some(address),
        })
    }

    fn leave_address(&self, address: IpAddr) {
        if let Entry::Occupied(mut here) = lock(&self.inside).by_address.entry(address) {
            *here.get_mut() -= 1;
            if *here.get() == 0 {
                here.remove();
            }
        }
    }
}

/// What counts as one address: with IPv6 a /64, since whoever has one address has all of those.
fn household(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    match address {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        IpAddr::V6(_) | IpAddr::V4(_) => address,
    }
}

/// One connection's place, left when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    /// Where it counts as a stranger.
    address: Option<IpAddr>,
}

impl Place {
    /// The connection is a robot's who has shown its password: it is no stranger of its address now.
    pub(super) fn identify(&mut self) {
        if let Some(address) = self.address.take() {
            self.door.leave_address(address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.identify();
        let mut inside = lock(&self.door.inside);
        inside.total = inside.total.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(connections: usize, connections_per_address: usize) -> Arc<Door> {
        Arc::new(Door::new(&Limits {
            connections,
            connections_per_address,
            ..Limits::default()
        }))
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let door = door(4, 2);
        let [near, far]: [IpAddr; 2] =
            ["192.0.2.1", "::ffff:192.0.2.1"].map(|a| a.parse().unwrap());
        let places = [Door::enter(&door, near), Door::enter(&door, far)];
        assert_eq!(Door::enter(&door, near).unwrap_err(), Refusal::AddressLimit);
        let other = Door::enter(&door, "192.0.2.2".parse().unwrap());
        assert!(other.is_ok());
        drop(places);
        assert!(Door::enter(&door, near).is_ok());
        assert_eq!(lock(&door.inside).by_address.len(), 1);
    }

    #[test]
    fn robots_that_are_known_leave_their_address_places_to_others() {
        let door = door(4, 1);
        let shared: IpAddr = "192.0.2.1".parse().unwrap();
        let mut robot = Door::enter(&door, shared).unwrap();
        assert_eq!(
            Door::enter(&door, shared).unwrap_err(),
            Refusal::AddressLimit
        );
        robot.identify();
        let stranger = Door::enter(&door, shared).unwrap();
        drop(robot);
        assert_eq!(
            Door::enter(&door, shared).unwrap_err(),
            Refusal::AddressLimit
        );
        drop(stranger);
        assert!(lock(&door.inside).by_address.is_empty());
        assert_eq!(lock(&door.inside).total, 0);
    }

    #[test]
    fn neighbours_in_one_ipv6_network_share_their_places() {
        let door = door(4, 1);
        let _place = Door::enter(&door, "2001:db8::1".parse().unwrap()).unwrap();
        let neighbour = Door::enter(&door, "2001:db8::2".parse().unwrap());
        assert_eq!(neighbour.unwrap_err(), Refusal::AddressLimit);
        assert!(Door::enter(&door, "2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn loopback_is_held_to_the_total_only() {
        let door = door(2, 1);
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let places = [Door::enter(&door, loopback), Door::enter(&door, loopback)];
        assert!(places.iter().all(Result::is_ok));
        let third = Door::enter(&door, loopback);
        assert_eq!(third.unwrap_err(), Refusal::TotalLimit);
    }
}
