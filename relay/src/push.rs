//! What faces are told. Every event goes into the bounded queue of one socket, or is dropped and
//! counted when the face does not keep up.

use brrbrr_proto::id::RobotId;
use socketioxide::extract::SocketRef;
use socketioxide::layer::SocketIoLayer;
use socketioxide::{SendError, SocketError, SocketIo};
use thiserror::Error;
use tracing::{debug, warn};

use crate::http::Services;
use crate::live::{AuthCode, SocketId};

mod absences;
pub mod socketio;

/// A page of the face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Waiting for a guest, the code on show.
    Welcome,
    /// A guest is here.
    Service,
    /// What there is to choose from.
    ListOnFloor,
    /// Follow me.
    Guide,
    /// The destination and how to get there.
    Destination,
}

impl Page {
    const fn name(self) -> &'static str {
        match self {
            Self::Welcome => "welcome",
            Self::Service => "service",
            Self::ListOnFloor => "listOnFloor",
            Self::Guide => "guide",
            Self::Destination => "destination",
        }
    }
}

/// Something that a face is told: a name and one text, which may be a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaceEvent {
    name: &'static str,
    data: String,
}

impl FaceEvent {
    /// Shows a page.
    #[must_use]
    pub fn page(page: Page) -> Self {
        Self::new("changePageTo", page.name())
    }

    /// Shows a page on faces that know this event by its historical misspelling.
    #[must_use]
    pub fn page_misspelt(page: Page) -> Self {
        Self::new("changoPageTo", page.name())
    }

    /// The places of the robot's floor, a JSON array.
    #[must_use]
    pub fn places_on_floor(json: &str) -> Self {
        Self::new("placesOnFloor", json)
    }

    /// All events, a JSON array.
    #[must_use]
    pub fn events_opened(json: &str) -> Self {
        Self::new("eventsOpened", json)
    }

    /// Where the guest wants to go, a JSON array.
    #[must_use]
    pub fn destinations(json: &str) -> Self {
        Self::new("destinations", json)
    }

    /// The robots that a face may choose from, a JSON array.
    #[must_use]
    pub fn robots_available(json: &str) -> Self {
        Self::new("robots-available", json)
    }

    /// The robot's code.
    #[must_use]
    pub fn auth_code(code: AuthCode) -> Self {
        Self::new("authCode", &code.to_string())
    }

    /// Why something was not done.
    #[must_use]
    pub fn error(reason: &str) -> Self {
        Self::new("error", reason)
    }

    fn new(name: &'static str, data: &str) -> Self {
        Self {
            name,
            data: data.to_owned(),
        }
    }
}

/// Why a face did not get an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotDelivered {
    /// It is not connected here.
    #[error("the face is not connected")]
    Gone,
    /// Its queue is full.
    #[error("the face does not keep up")]
    Slow,
    /// The event is not text that can be sent.
    #[error("the event cannot be encoded")]
    Unsendable,
}

/// The sockets of this relay.
#[derive(Clone)]
pub struct Push {
    io: SocketIo,
    layer: SocketIoLayer,
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").finish_non_exhaustive()
    }
}

impl Default for Push {
    fn default() -> Self {
        let (layer, io) = socketio::build();
        Self { io, layer }
    }
}

impl Push {
    /// Queues an event for a face. Never waits.
    ///
    /// # Errors
    /// Says why it will not get there.
    pub fn to_face(&self, socket: &SocketId, event: &FaceEvent) -> Result<(), NotDelivered> {
        let socket = self.socket(socket).ok_or(NotDelivered::Gone)?;
        send(&socket, event)
    }

    /// Whether a socket is connected to this relay.
    #[must_use]
    pub fn is_connected(&self, socket: &SocketId) -> bool {
        self.socket(socket).is_some_and(|socket| socket.connected())
    }

    /// Closes every transport without a word, so that the faces come back. Nobody can connect
    /// afterwards.
    pub async fn close(&self) {
        self.io.close().await;
    }

    /// Sends a socket away for good: its client does not come back by itself.
    fn dismiss(&self, socket: &SocketId) {
        if let Some(socket) = self.socket(socket)
            && let Err(error) = socket.disconnect()
        {
            debug!(%error, "face not dismissed");
        }
    }

    fn socket(&self, socket: &SocketId) -> Option<SocketRef> {
        self.io.of("/")?.get_socket(socket.0.parse().ok()?)
    }
}

fn send(socket: &SocketRef, event: &FaceEvent) -> Result<(), NotDelivered> {
    socket
        .emit(event.name, &event.data)
        .map_err(|error| match error {
            SendError::Socket(SocketError::InternalChannelFull) => NotDelivered::Slow,
            SendError::Socket(SocketError::Closed) => NotDelivered::Gone,
            SendError::Serialize(_) => NotDelivered::Unsendable,
        })
}

/// Tells the face that is bound to a robot, if there is one. What the face misses does not concern
/// the caller: the robot obeys without a face too.
pub async fn tell(services: &Services, robot: RobotId, events: &[FaceEvent]) {
    let face = match services.live.face(robot).await {
        Ok(Some(face)) => face,
        Ok(None) => return,
        Err(error) => {
            warn!(%robot, %error, "face not told");
            return;
        }
    };
    for event in events {
        deliver(services, &face, event);
    }
}

fn deliver(services: &Services, face: &SocketId, event: &FaceEvent) {
    match services.push.to_face(face, event) {
        Ok(()) | Err(NotDelivered::Gone) => {}
        Err(NotDelivered::Slow | NotDelivered::Unsendable) => {
            services.metrics.face_events_dropped.inc();
        }
    }
}
